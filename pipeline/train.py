"""A whole training run: its epochs, what they leave, its end. The parts are chosen in training_run.py."""

from __future__ import annotations

import logging
import math
import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch

from models import Darknet, anneal
from pipeline import epoch_report
from pipeline.epoch_report import save, save_packed
from pipeline.init_weights import cut_run, read_initial
from pipeline.pruning_measure import tell_push
from pipeline.training_run import Run, assemble, next_stage
from utils.config.begun import saved_config
from utils.config.train import TrainConfig
from utils.darknet.counts import count
from utils.darknet.network import load_checkpoint
from utils.darknet.shapes import image_size
from utils.darknet.training_words import batch_size
from utils.errors import InputError
from utils.export.darknet_files import darknet_files, unknown_to_darknet
from utils.files import names_kept
from utils.jobs import cores
from utils.quantization.level_penalty import sparing
from utils.quantization.stages import stage_line
from utils.reporting.files import file_bytes
from utils.reporting.record import Record, finish_record, read_record
from utils.reporting.results import write_rows
from utils.reporting.tables import number
from utils.task import Metrics
from utils.temporal.neurons import let_round, unrounded
from utils.training.device import select_device, select_precision, trial_step
from utils.training.distributed import from_environment, joined
from utils.training.loggers import RunLogger, check_loggers, logging_to
from utils.training.loop import EpochResult, is_stale, train_one_epoch
from utils.training.random_state import random_state
from utils.training.resume import Progress
from utils.training.workers import Choice, choose, run_workers

log = logging.getLogger(__name__)

VALIDATION_SHARE = 0.15  # of the time, about, when --val-interval is not given
SPARSITY = ("near_zero", "safe_percent", "survivable_percent", "weakest_block")  # kept in the record
WHOLE = 0.1  # of the epochs, the last ones, see whole images instead of mosaics


def train_in_processes(config: TrainConfig, words: Sequence[str]) -> None:
    """``--processes``: the same command line in several processes, or in this one where that is as fast.

    Args:
        config: of the command line.
        words: it, the interpreter and the script before it; without ``--processes``.

    Raises:
        InputError: torchrun has started this process already.
        SystemExit: the processes ended, with the code of the first one.
    """
    if "WORLD_SIZE" in os.environ:
        raise InputError("--processes: torchrun starts processes already; leave one of them away")
    total = cores()
    if config.processes == "auto":
        choice = choose_processes(config, total)
    else:
        count = int(config.processes or 1)
        choice = Choice(count, max(1, total // count), "as asked")
    plural = f"{choice.processes} processes, {choice.threads} threads each" if choice.processes > 1 else "one process"
    log.info("--processes %s: %s: %s", config.processes, choice.words, plural)
    if choice.processes == 1:
        train(replace(config, processes=None, given=tuple(name for name in config.given if name != "processes")))
        return
    synced = ["--sync-bn"] if not config.sync_bn else []
    code = run_workers([*words, *synced], choice.processes, choice.threads)
    if code:
        sys.exit(code)


def choose_processes(config: TrainConfig, total: int) -> Choice:
    """What a second's measurement of forward and backward on random images says."""
    spec = read_initial(config).network.spec
    device = select_device(config.device)
    if device.type != "cpu" or spec.neurons or spec.input_frames:
        return Choice(1, total, "only still images on the processor are measured")
    model, size = Darknet(spec).to(memory_format=torch.channels_last).train(), image_size(config.size_asked, spec)  # type: ignore[call-overload]
    precision = select_precision(device, config.precision)

    def step(images: int) -> None:
        x = torch.rand(images, spec.channels, *size).to(memory_format=torch.channels_last)
        trial_step(model, x, precision)

    norms = sum(isinstance(module, torch.nn.BatchNorm2d) for module in model.modules())
    return choose(step, config.batch_size or batch_size(spec), total, meetings=2 * norms)


@names_kept()
def train(config: TrainConfig, followers: Sequence[RunLogger] = ()) -> Record:
    """Train as the config says; ``followers`` are told of it besides the services that it names.

    Raises:
        InputError: data, cfg, weights or flags are wrong, or the loss is not finite.
    """
    if config.evolve:
        raise InputError("evolve: a search is many trainings; use train.py --evolve")
    if config.processes:
        raise InputError("--processes: is for train.py's command line; start that, or leave processes away")
    group = from_environment(timedelta(seconds=config.rank_timeout))
    if not group.is_main:
        logging.getLogger().setLevel(logging.WARNING)
    with joined(group, cuda=select_device(config.device or group.device).type == "cuda"):
        saved = None
        if config.resume:
            saved = load_checkpoint(group.shared(cut_run(config) if group.is_main else Path()))
            config = saved_config(config, saved.training)
        if config.loggers:
            check_loggers(config.loggers)
        run = assemble(config, saved, group)
        told = run.config.loggers if group.is_main else ()
        opened = logging_to(told, run.record.folder, config.values) if told else nullcontext(list[RunLogger]())
        with opened as services:
            run.loggers = [*services, *followers]
            return all_epochs(run)


def all_epochs(run: Run) -> Record:
    """From where the run is to its end."""
    log_run(run)
    if run.config.sparse and not run.progress.epochs:
        tell_push(run)
    for epoch in range(run.progress.epochs, run.config.epochs):
        if epoch == run.stage.end:
            leave_stage(run)
            run = next_stage(run)
        if is_stale(run.rows[unrounded_epochs(run) :], run.task.primary, run.config.patience):
            log.info("%d epochs brought nothing better: --patience is at its end", run.config.patience)
            break
        if run.enough:
            log.info("this is not going to be the best: the rest of its epochs is left out")
            break
        one_epoch(run, epoch)
    return finish(run)


def log_run(run: Run) -> None:
    """What runs, in three lines, so that a log alone can be repeated."""
    record, counts, update = run.record, count(run.model.spec, run.size), run.update
    git = (record.git or "no git").partition("+")
    log.info("%s: git %s%s%s, seed %s, %s", record.folder, git[0][:12], git[1], git[2], record.seed, record.device)
    log.info(
        "%d training and %d validation images at %dx%d px%s, batches of %d, %d a step; %s parameters, %s MACs",
        len(run.train.dataset),
        len(run.valid.dataset),
        *run.size,
        f", {run.model.spec.timesteps} steps" if run.model.spec.stateful else "",
        run.train.batch_size,
        update.accumulate,
        number(counts.params),
        number(counts.macs),
    )
    log.info("%d steps of %s at a rate of %g", update.schedule.steps, type(update.optimizer).__name__, run.config.lr)
    if run.stage.bits:
        log.info(stage_line(run.stage, run.stages))
    for told in unknown_to_darknet(run.model.spec) if run.config.darknet else ():
        log.warning("--darknet: %s", told)


def one_epoch(run: Run, epoch: int) -> None:
    """Train, measure, write: results.csv, pictures, last.pt, and best.pt when it is the best so far."""
    began = time.perf_counter()
    if epoch == 0 and run.group.is_main:
        run.task.training_picture(run.record.folder / "train_batch.jpg", run.train.dataset, run.manifest.names)
    result = _learn(run, epoch)
    last = epoch + 1 == run.stage.end
    due = not run.config.notest and (epoch + 1) % validation_interval(run) == 0
    run.metrics = validate(run) if due or last else None
    sparsity = epoch_report.sparsity_row(run, epoch) if run.config.sparse else {}
    run.rows.append(epoch_report.row(run, epoch, result) | sparsity)
    log.info(
        epoch_report.line(run, time.perf_counter() - began), extra={"epoch": epoch + 1, "epochs": run.config.epochs}
    )
    last = last or is_stale(run.rows[unrounded_epochs(run) :], run.task.primary, run.config.patience)
    _keep(run, epoch, last=last, seconds=time.perf_counter() - began)


def validate(run: Run) -> Metrics:
    """The metrics of the averaged weights, in fp32, as test.py measures them; each process looks at its images."""
    run.group.broadcast(run.evaluated)  # what is measured is what the first process saves
    names, device = run.manifest.names, run.precision.device
    found = run.task.evaluate(run.evaluated, run.valid, run.model.spec, names, device=device, progress=False)
    merged: Metrics = found if run.group.size == 1 else run.task.merged(found, names, run.group.all_gather)
    return merged


def validation_interval(run: Run) -> int:
    """Epochs between validations: as given, or so that they take about 15 % of the time.

    From the numbers of images, not from a clock, so that a run repeats itself: an image costs about as much to validate
    (fp32, what is made of the maps, the metric) as to train on.
    """
    share = len(run.valid.dataset) / max(1, len(run.train.dataset))
    return run.config.val_interval or max(1, math.ceil(share / VALIDATION_SHARE))


def finish(run: Run) -> Record:
    """Pictures and the complete record: the numbers of the last epoch, and those of the best."""
    if run.metrics is None:  # resumed behind the last epoch: it was cut while it wrote what follows
        run.metrics = validate(run)
    run.train.close()
    run.valid.close()
    if run.distillation:
        run.distillation.close()
    if not run.group.is_main:
        run.group.shared(None)
        return read_record(run.record.folder)
    counts, primary = count(run.model.spec, run.size), run.task.primary
    metrics: dict[str, Any] = run.metrics.record() | {"params": counts.params, "macs": counts.macs}
    own = [row for row in run.rows[run.stage.begin :] if row[primary] is not None]
    own = own or [{**run.rows[-1], **run.metrics.record()}]  # --epochs ends it where no epoch was validated
    best = max(own, key=lambda row: (row[primary], row["epoch"]))
    metrics["best"] = {key: best[key] for key in ("epoch", *(column.name for column in run.task.columns))}
    if run.config.sparse:  # what comes next is pruning, and the last epoch is the sparsest: last.pt is the one to prune
        metrics["sparsity"] = {key: run.rows[-1][key] for key in SPARSITY if key in run.rows[-1]}
    if run.config.sparsify:
        metrics["mean_level"] = run.rows[-1]["levels"] / run.config.sparsify
    drawn = epoch_report.draw(run)
    save(run, run.last)  # what --resume needs goes last: a run cut before this line can go on
    metrics["bytes"] = file_bytes(run.last)
    left = (run.last, run.best, *(darknet_files(run.last) + darknet_files(run.best) if run.config.darknet else ()))
    outputs = [path for path in left if path.exists()] + save_packed(run, run.last)
    outputs += epoch_report.stages(run, metrics) + drawn
    log.info("%s is the last epoch, %s the best (epoch %d); %s", run.last, run.best, best["epoch"], run.record.folder)
    for service in run.loggers:
        service.result(metrics, [path for path in drawn if path.suffix != ".csv"])
    record = finish_record(run.record, metrics=metrics, outputs=outputs, before=run.before)
    run.group.shared(None)  # the others wait, so that torchrun sees all of them end well
    return record


def leave_stage(run: Run) -> None:
    """Keep the network of a stage that is over under its own name, its integers beside it."""
    if run.metrics is None:  # resumed between two stages
        run.metrics = validate(run)
    path = run.file("last")
    if run.group.is_main and not path.exists():
        save_packed(run, path, again=True)
        save(run, path)


def unrounded_epochs(run: Run) -> int:
    """The first epochs, in which neurons do not round yet: measured are whole numbers, which nothing has learned."""
    share = 0.0 if run.config.weights and run.config.round_from is None else run.config.round_from
    return unrounded(run.model.spec, run.config.epochs, share)


def _learn(run: Run, epoch: int) -> EpochResult:
    mosaic = epoch < run.config.epochs - int(WHOLE * run.config.epochs)
    run.train.set_epoch(epoch, mosaic=mosaic)
    begun, epochs = epoch - run.stage.begin, run.stage.end - run.stage.begin
    anneal(run.model, begun / epochs)
    let_round(run.model, epoch >= unrounded_epochs(run))
    mean = run.group.mean if run.group.size > 1 else None
    loader, loss = run.train, run.task.loss(run.model.spec, mean)
    if run.distillation:
        loader, loss = run.distillation.join(loader, loss, epoch, mosaic=mosaic)
    loss = sparing(loss, run.model, run.config.sparsify)
    return train_one_epoch(loader, loss, run.update, epoch=epoch, begin=run.stage.begin)


def _keep(run: Run, epoch: int, *, last: bool, seconds: float) -> None:
    """Write the row and the checkpoints that are due."""
    value = float(run.metrics.record()[run.task.primary]) if run.metrics else -1.0
    better = run.metrics is not None and value >= run.progress.best
    spent = run.progress.seconds + seconds
    run.progress = Progress(epochs=epoch + 1, best=max(value, run.progress.best), seconds=spent)
    kept = last or not run.config.nosave
    ranks = run.group.all_gather([random_state()]) if kept and run.group.size > 1 else []
    if not run.group.is_main:
        return
    write_rows(run.record.folder / "results.csv", run.rows)
    scores = [column.name for column in run.task.columns]
    ends = [service.epoch(run.rows[-1], scores) for service in run.loggers]  # every one of them is told
    run.enough = any(ends)
    if run.metrics and (better or last):
        epoch_report.picture_validation(run)
    if better and kept:
        save(run, run.best)
    if kept:
        save(run, run.last, training=True, ranks=ranks)
