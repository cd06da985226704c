"""One epoch of a run: train, measure, write; and its end."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from pipeline.training import epoch_report
from pipeline.training.quantised import checkpoint_of, float_network, save_integers, sparing
from pipeline.training.run import Run
from pipeline.training.sparsity import sparsity
from pipeline.training.stages import stage_results, stage_table
from utils.darknet.counts import count
from utils.darknet.network import save_checkpoint
from utils.darknet.spec import Detect
from utils.detection.evaluate import Metrics, evaluate, measure
from utils.detection.loss import YoloLoss
from utils.reporting.files import file_bytes
from utils.reporting.record import Record, finish_record, read_record
from utils.reporting.results import write_rows
from utils.training.distributed import Group
from utils.training.loop import EpochResult, train_one_epoch
from utils.training.resume import Progress, capture, random_state
from utils.training.tensorboard import write_scalars

log = logging.getLogger(__name__)

VALIDATION_SHARE = 0.15  # of the time, about, when --val-interval is not given
SPARSITY = ("near_zero", "safe_percent", "survivable_percent", "weakest_block")  # kept in the record
WHOLE = 0.1  # of the epochs, the last ones, see whole images instead of mosaics


def one_epoch(run: Run, epoch: int) -> Run:
    """Train, measure, write: results.csv, pictures, last.pt, and best.pt when it is the best so far."""
    began = time.perf_counter()
    if epoch == 0 and run.group.is_main:
        epoch_report.picture_training(run)
    result = _train(run, epoch)
    last = epoch + 1 == run.stage.end
    due = not run.args.notest and (epoch + 1) % validation_interval(run) == 0
    run.metrics = validate(run) if due or last else None
    run.rows.append(epoch_report.row(run, epoch, result) | (_sparsity(run, epoch) if run.args.sparse else {}))
    log.info(epoch_report.line(run))
    _keep(run, epoch, last=last, seconds=time.perf_counter() - began)
    return run


def validate(run: Run) -> Metrics:
    """COCO metrics of the averaged weights, in fp32, as test.py measures them; each process looks at its images."""
    device, names = run.precision.device, run.manifest.names
    run.group.broadcast(run.evaluated)  # what is measured is what the first process saves
    found = evaluate(run.evaluated, run.valid, run.heads, names, device=device, progress=False)
    if run.group.size == 1:
        return found
    all_of_them = sorted(run.group.all_gather(found.detections), key=lambda image: image.index)
    return measure(all_of_them, names, timing=found.timing)


def validation_interval(run: Run) -> int:
    """Epochs between validations: as given, or so that they take about 15 % of the time.

    From the numbers of images, not from a clock, so that a run repeats itself: an image costs about as much to validate
    (fp32, NMS of all candidates, AP) as to train on.
    """
    share = len(run.valid.dataset) / max(1, len(run.train.dataset))
    return run.args.val_interval or max(1, math.ceil(share / VALIDATION_SHARE))


def detection_loss(heads: list[Detect], group: Group | None = None) -> Callable[[Any, Any], Mapping[str, Tensor]]:
    """The YOLO loss as the training loop calls it; of a group whose processes share each batch."""
    loss = YoloLoss(heads, mean=group.mean if group and group.size > 1 else None)
    return lambda raw, batch: vars(loss(raw, batch.targets, tuple(batch.images.shape[-2:])))


def finish(run: Run) -> Record:
    """Pictures and the complete record: the numbers of the last epoch, and those of the best."""
    if run.metrics is None:  # resumed behind the last epoch: it was cut while it wrote what follows
        run.metrics = validate(run)
    run.train.close()
    run.valid.close()
    if run.teaching:
        run.teaching.close()
    if not run.group.is_main:
        run.group.shared(None)
        return read_record(run.record.folder)
    counts = count(run.model.spec, run.size)
    metrics: dict[str, Any] = run.metrics.record() | {"params": counts.params, "macs": counts.macs}
    own = run.rows[run.stage.begin :]
    best = max((row for row in own if row["map"] is not None), key=lambda row: (row["map"], row["epoch"]))
    metrics["best"] = {key: best[key] for key in ("epoch", "map50", "map", "precision", "recall", "f1")}
    if run.args.sparse:  # what comes next is pruning, and the last epoch is the sparsest: last.pt is the one to prune
        metrics["sparsity"] = {key: run.rows[-1][key] for key in SPARSITY if key in run.rows[-1]}
    if run.args.sparsify:
        metrics["mean_level"] = run.rows[-1]["levels"] / run.args.sparsify
    drawn = epoch_report.draw(run)
    save(run, run.last)  # what --resume needs goes last: a run cut before this line can go on
    metrics["bytes"] = file_bytes(run.last)
    integers = save_integers(run.evaluated, run.last, run.manifest.names, _meta(run))
    outputs = [path for path in (run.last, run.best) if path.exists()] + integers + _stages(run, metrics) + drawn
    log.info("%s is the last epoch, %s the best (epoch %d); %s", run.last, run.best, best["epoch"], run.record.folder)
    record = finish_record(run.record, metrics=metrics, outputs=outputs, before=run.before)
    run.group.shared(None)  # the others wait, so that torchrun sees all of them end well
    return record


def leave_stage(run: Run) -> None:
    """Keep the network of a stage that is over under its own name, its integers beside it."""
    if run.metrics is None:  # resumed between two stages
        run.metrics = validate(run)
    path = run.file("last")
    if run.group.is_main and not path.exists():
        save_integers(run.evaluated, path, run.manifest.names, _meta(run), again=True)
        save(run, path)


def save(run: Run, path: Path, *, training: bool = False, ranks: Sequence[Any] = ()) -> None:
    """Write a checkpoint; with ``training`` all that ``--resume`` needs, made of plain values and tensors.

    ``ranks``: the state of each process's random generators, where there are several.
    """
    state: dict[str, Any] = {}
    if training:
        plain = {key: str(value) if isinstance(value, Path) else value for key, value in vars(run.args).items()}
        state = {**capture(run.progress, **run.stateful), "files": run.files, "args": plain, "ranks": list(ranks)}
        state |= {"teacher": run.teaching.state()} if run.teaching else {}
    save_checkpoint(path, checkpoint_of(run.evaluated, run.manifest.names, training=state, meta=_meta(run)))


def _meta(run: Run) -> dict[str, Any]:
    meta = {"script": "train", "epoch": run.progress.epochs, "size": list(run.size), "sparse": bool(run.args.sparse)}
    meta |= {"gray_scale": True} if run.args.gray_scale else {}
    return meta | (run.metrics.record() if run.metrics else {})


def _stages(run: Run, metrics: dict[str, Any]) -> list[Path]:
    """Tell and record what the stages came to; the checkpoints of those before the last."""
    if run.stage.bits is None:
        return []
    metrics["stages"] = stage_results(run.stages, run.rows, run.files)
    log.info(stage_table(metrics["stages"]))
    kept = [Path(path) for key, path in run.files.items() if "-" in key]
    return [path for each in kept for path in (each, each.with_suffix(".int.pt")) if path.exists()]


def _train(run: Run, epoch: int) -> EpochResult:
    mosaic = epoch < run.args.epochs - int(WHOLE * run.args.epochs)
    run.train.set_epoch(epoch, mosaic=mosaic)
    loader, loss = run.train, detection_loss(run.heads, run.group)
    if run.teaching:
        loader, loss = run.teaching.join(loader, loss, epoch, mosaic=mosaic)
    loss = sparing(loss, run.model, run.args.sparsify)
    return train_one_epoch(
        run.model,
        loader,
        loss,
        run.optimizer,
        run.schedule,
        epoch=epoch,
        precision=run.precision,
        options=run.options,
        ema=run.ema,
        scaler=run.scaler,
    )


def _sparsity(run: Run, epoch: int) -> dict[str, Any]:
    """How sparse the saved weights are, as the strategies that ``--prune`` names see them."""
    offered, row = sparsity(float_network(run.evaluated), run.args.prune)
    run.gammas.append(epoch_report.gamma_row(epoch, offered))
    if run.group.is_main:
        write_rows(run.record.folder / "gammas.csv", run.gammas)
    return row


def _keep(run: Run, epoch: int, *, last: bool, seconds: float) -> None:
    """Write the row and the checkpoints that are due."""
    value = run.metrics.map if run.metrics else -1.0
    better = run.metrics is not None and value >= run.progress.best
    spent = run.progress.seconds + seconds
    run.progress = Progress(epochs=epoch + 1, best=max(value, run.progress.best), seconds=spent)
    kept = last or not run.args.nosave
    ranks = run.group.all_gather([random_state()]) if kept and run.group.size > 1 else []
    if not run.group.is_main:
        return
    write_rows(run.record.folder / "results.csv", run.rows)
    if run.args.tensorboard:
        write_scalars(run.record.folder / "tensorboard", run.rows[-1])
    if run.metrics and (better or last):
        epoch_report.picture_validation(run)
    if better and kept:
        save(run, run.best)
    if kept:
        save(run, run.last, training=True, ranks=ranks)
