"""The detection task, put together for train.py: the parts of a run, one epoch of it, what it leaves behind."""

from __future__ import annotations

import argparse
import logging
import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from models import Darknet, build, network_of
from start import Start, image_size, start_of, tell_unused_keys
from utils.darknet.network import Checkpoint, save_checkpoint
from utils.darknet.shapes import granularity
from utils.darknet.spec import ModelSpec, Yolo
from utils.data.dataset import DetectionDataset
from utils.data.loader import Loader, make_loader, scales
from utils.data.manifest import Manifest, read_manifest
from utils.data.sample import prepare_if_sample
from utils.detection.evaluate import Metrics, evaluate
from utils.detection.loss import YoloLoss
from utils.pruning.penalty import Schedule as Strength
from utils.pruning.penalty import SparsityPenalty, initial_gammas, reach
from utils.pruning.plan import Tie
from utils.pruning.preflight import Preflight, preflight
from utils.reporting.counts import count, file_bytes
from utils.reporting.files import free_path
from utils.reporting.record import Record, finish_record, new_run_folder, start_record
from utils.reporting.results import read_rows, write_rows
from utils.training.device import Precision, select_device, select_precision
from utils.training.ema import Ema
from utils.training.loop import EpochResult, Options, train_one_epoch
from utils.training.optim import make_optimizer
from utils.training.resume import Progress, capture, restore, seed_all
from utils.training.schedule import Schedule, step_ends

log = logging.getLogger(__name__)

NOMINAL_BATCH = 64  # images an optimizer step, when the cfg does not say
BATCH = 16  # images at once, when neither cfg nor flag says
WARMUP = 0.1  # of the steps
WEIGHTS, RUNS = Path("weights"), Path("runs")
TIES = {0: Tie.KEEP, 1: Tie.ANY, 2: Tie.ANY}  # --prune -> the gammas its strategies can cut


@dataclass(kw_only=True)
class Run:
    """A run under way: fixed parts first, then what changes from epoch to epoch."""

    args: argparse.Namespace
    manifest: Manifest
    size: tuple[int, int]
    precision: Precision
    train: Loader
    valid: Loader
    model: Darknet
    ema: Ema | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None
    schedule: Schedule
    options: Options
    record: Record
    best: Path
    last: Path
    progress: Progress = field(default_factory=Progress)
    rows: list[dict[str, Any]] = field(default_factory=list)
    metrics: Metrics | None = None

    @property
    def heads(self) -> list[Yolo]:
        """The detection heads, in cfg order."""
        return heads_of(self.model.spec)

    @property
    def evaluated(self) -> Darknet:
        """The weights that are measured and saved: the average where there is one."""
        return self.ema.model if self.ema else self.model  # type: ignore[return-value]


def heads_of(spec: ModelSpec) -> list[Yolo]:
    """The detection heads, in cfg order."""
    return [layer for layer in spec.layers if isinstance(layer, Yolo)]


def assemble(args: argparse.Namespace, saved: Checkpoint | None = None) -> Run:
    """Everything a run needs, from its flags; or, with a checkpoint of ``--resume``, the run as it was cut.

    Raises:
        InputError: data, cfg, weights or flags are wrong or contradict each other.
    """
    prepare_if_sample(args.data)
    manifest = read_manifest(args.data)
    seed_all(args.seed)
    start = Start(saved.network, (), scratch=False) if saved else start_of(args, manifest)
    if not saved:
        tell_unused_keys(start.network.spec)
        if args.sparse and start.scratch:
            start = replace(start, network=initial_gammas(start.network))
    spec, size = start.network.spec, image_size(args.img_size, start.network.spec)
    precision = select_precision(select_device(args.device))
    train, valid = loaders(args, manifest, spec, size)
    model: Darknet = precision.place(build(start.network))  # type: ignore[assignment]
    accumulate = max(1, round((spec.batch if spec.batch > 1 else NOMINAL_BATCH) / train.batch_size))
    steps = args.epochs * len(step_ends(len(train), accumulate))
    lr = args.lr or (0.001 if args.adam else 0.01)
    warm = 0.1 if start.scratch and not args.adam else None
    schedule = Schedule(steps=steps, warmup=round(WARMUP * steps), bias_lr=warm)
    files = saved.training["files"] if saved else _new_files(args.name)
    run = Run(
        args=args,
        manifest=manifest,
        size=size,
        precision=precision,
        train=train,
        valid=valid,
        model=model,
        ema=Ema(model) if args.ema else None,
        optimizer=make_optimizer(model, lr=lr, adam=args.adam),
        scaler=precision.scaler(),
        schedule=schedule,
        options=Options(accumulate=accumulate, penalty=_penalty(args, model, schedule, lr), clip=10.0),
        record=start_record(
            Path(files["folder"]),
            script="train",
            args=vars(args),
            seed=args.seed,
            device=str(precision),
            inputs=[manifest.path, manifest.train, manifest.valid, *start.files],
        ),
        best=Path(files["best"]),
        last=Path(files["last"]),
    )
    return _restored(run, saved) if saved else run


def loaders(
    args: argparse.Namespace, manifest: Manifest, spec: ModelSpec, size: tuple[int, int]
) -> tuple[Loader, Loader]:
    """Training and validation batches."""
    batch = args.batch_size or (max(1, spec.batch // spec.subdivisions) if spec.batch > 1 else BATCH)
    step = granularity(spec)
    common = {"cache": args.cache, "seed": args.seed, "channels": spec.channels}
    train = make_loader(
        DetectionDataset(manifest.train, manifest, size, augment=True, **common),
        batch,
        workers=args.workers,
        shuffle=True,
        seed=args.seed,
        rect=step if args.rect else 0,
        sizes=scales(size, step) if args.multi_scale else (),
    )
    valid = make_loader(DetectionDataset(manifest.valid, manifest, size, **common), batch, workers=args.workers)
    return train, valid


def one_epoch(run: Run, epoch: int) -> Run:
    """Train, measure, write: results.csv, pictures, last.pt, and best.pt when it is the best so far."""
    began, last = time.perf_counter(), epoch + 1 == run.args.epochs
    run.train.set_epoch(epoch, mosaic=epoch < run.args.epochs - run.args.epochs // 10)
    result = train_one_epoch(
        run.model,
        run.train,
        detection_loss(run.heads),
        run.optimizer,
        run.schedule,
        epoch=epoch,
        precision=run.precision,
        options=run.options,
        ema=run.ema,
        scaler=run.scaler,
    )
    measured = last or (not run.args.notest and (epoch + 1) % validation_interval(run) == 0)
    run.metrics = validate(run) if measured else None
    sparse = sparsity(run) if run.args.sparse else None
    row = _row(run, epoch, result, sparse)
    run.rows.append(row)
    log.info(_line(run, row))
    value = run.metrics.map if run.metrics else -1.0
    better = run.metrics is not None and value >= run.progress.best
    seconds = run.progress.seconds + time.perf_counter() - began
    run.progress = Progress(epochs=epoch + 1, best=max(value, run.progress.best), seconds=seconds)
    write_rows(run.record.folder / "results.csv", run.rows)
    if better and (last or not run.args.nosave):
        save(run, run.best)
    if last or not run.args.nosave:
        save(run, run.last, training=not last)
    return run


def validate(run: Run) -> Metrics:
    """COCO metrics of the averaged weights, in fp32, as test.py measures them."""
    names, device = run.manifest.names, run.precision.device
    return evaluate(run.evaluated, run.valid, run.heads, names, device=device, progress=False)


def validation_interval(run: Run) -> int:
    """Epochs between validations: as given, or so that they take about 15 % of the time.

    From the numbers of images, not from a clock, so that a run repeats itself: an image costs about as much to validate
    (fp32, NMS of all candidates, AP) as to train on.
    """
    share = len(run.valid.dataset) / max(1, len(run.train.dataset))
    return run.args.val_interval or max(1, math.ceil(share / 0.15))


def detection_loss(heads: list[Yolo]):
    """The YOLO loss as the training loop calls it."""
    loss = YoloLoss(heads)
    return lambda raw, batch: vars(loss(raw, batch.targets, tuple(batch.images.shape[-2:])))


def sparsity(run: Run) -> Preflight:
    """How sparse the saved weights are, seen by the strategies that ``--prune`` names."""
    return preflight(network_of(run.evaluated), tie=TIES[run.args.prune])


def save(run: Run, path: Path, *, training: bool = False) -> None:
    """Write a checkpoint; with ``training`` all that ``--resume`` needs, made of plain values and tensors."""
    state: dict[str, Any] = {}
    if training:
        files = {"folder": str(run.record.folder), "best": str(run.best), "last": str(run.last)}
        plain = {key: str(value) if isinstance(value, Path) else value for key, value in vars(run.args).items()}
        state = {**capture(run.progress, **_parts(run)), "files": files, "args": plain}
    meta = {"script": "train", "epoch": run.progress.epochs, "size": list(run.size), "sparse": bool(run.args.sparse)}
    if run.metrics:
        meta |= run.metrics.record()
    save_checkpoint(path, Checkpoint(network_of(run.evaluated), run.manifest.names, training=state, meta=meta))


def finish(run: Run) -> Record:
    """The record, complete: the last epoch's numbers, and the best ones with their epoch."""
    assert run.metrics is not None, "the last epoch is always validated"
    counts = count(run.model.spec, run.size)
    metrics: dict[str, Any] = {
        **run.metrics.record(),
        "params": counts.params,
        "macs": counts.macs,
        "bytes": file_bytes(run.last),
    }
    measured = [row for row in run.rows if isinstance(row.get("map"), float)]
    best = max(measured, key=lambda row: (row["map"], row["epoch"]))
    metrics["best"] = {key: best[key] for key in ("epoch", "map50", "map", "precision", "recall", "f1")}
    if run.args.sparse:  # what comes next is pruning, and the last epoch is the sparsest
        metrics["sparsity"] = {key: run.rows[-1][key] for key in ("near_zero", "safe_percent", "survivable_percent")}
    outputs = [path for path in (run.last, run.best, run.record.folder / "results.csv") if path.exists()]
    outputs += sorted(run.record.folder.glob("*.png")) + sorted(run.record.folder.glob("*.jpg"))
    log.info(
        "weights %s (last epoch), %s (best epoch %d); record %s", run.last, run.best, best["epoch"], run.record.folder
    )
    return finish_record(run.record, metrics=metrics, outputs=outputs, before=run.progress.seconds - _here(run))


def _here(run: Run) -> float:
    """Seconds of training in this sitting."""
    return min(run.progress.seconds, time.time() - run.record.started)


def _new_files(name: str) -> dict[str, str]:
    """The run's folder and its two checkpoints, all under names nobody has."""
    suffix, folder = f"_{name}" if name else "", new_run_folder(RUNS, "train", name)
    best, last = (free_path(WEIGHTS / f"{kind}{suffix}.pt") for kind in ("best", "last"))
    return {"folder": str(folder), "best": str(best), "last": str(last)}


def _parts(run: Run) -> dict[str, Any]:
    """What has a state beside the network that is saved."""
    return {"model": run.model, "optimizer": run.optimizer, "ema": run.ema, "scaler": run.scaler}


def _restored(run: Run, saved: Checkpoint) -> Run:
    run.progress = restore(saved.training, **_parts(run))
    done = run.progress.epochs
    run.rows = [row for row in read_rows(run.record.folder / "results.csv") if row["epoch"] <= done]
    return run


def _penalty(args: argparse.Namespace, model: Darknet, schedule: Schedule, lr: float):
    """The L1 term of -sr as the loop calls it, once an optimizer step; None without -sr."""
    if not args.sparse:
        return None
    penalty = SparsityPenalty(model.spec, TIES[args.prune], args.s, Strength(args.s_schedule))
    rates = [
        schedule.rate(step, lr) * penalty.strength(step / schedule.steps) / args.s for step in range(schedule.steps)
    ]
    far = reach(args.s, rates, schedule.momentum)
    log.info("sparse: %d channels under s = %g, which alone moves a gamma by %.2g", _size(penalty), args.s, far)
    if far < 0.5:
        log.info("sparse: that is too little to make any gamma zero; use a larger --s or more --epochs")
    return lambda step: penalty(model.named_parameters(), step / schedule.steps)


def _size(penalty: SparsityPenalty) -> int:
    return sum(int(mask.sum()) for mask in penalty.masks.values())


def _row(run: Run, epoch: int, result: EpochResult, sparse: Preflight | None) -> dict[str, Any]:
    row: dict[str, Any] = {"epoch": epoch + 1, **result.losses, "lr": run.optimizer.param_groups[0]["lr"]}
    names = ("map50", "map", "precision", "recall", "f1")
    row |= run.metrics.record() if run.metrics else dict.fromkeys(names)
    row |= {"images_per_second": result.images_per_second, "wait_share": result.wait_share, "seconds": result.seconds}
    if sparse:
        row |= {"near_zero": sparse.near_zero, "safe_percent": sparse.safe, "survivable_percent": sparse.survivable}
        row |= {f"gamma_q{round(100 * share):02d}": value for share, value in sparse.quantiles.items()}
    return row


def _line(run: Run, row: dict[str, Any]) -> str:
    """The epoch in one line, and a second one for how sparse it is."""
    parts = [f"epoch {row['epoch']}/{run.args.epochs}", f"loss {row['total']:.3f}"]
    if run.metrics:
        parts += [f"mAP@.5 {row['map50']:.3f}", f"mAP@.5:.95 {row['map']:.3f}", f"P {row['precision']:.2f}"]
        parts += [f"R {row['recall']:.2f}"]
    parts += [f"{row['images_per_second']:.0f} images/s", f"{row['wait_share']:.1%} waiting", f"{row['seconds']:.0f} s"]
    if "near_zero" in row:
        quantiles = [row[f"gamma_q{q}"] for q in ("25", "50", "75")]
        told = " ".join(f"{value:.3f}" for value in quantiles)
        parts += [f"\n  sparse: {row['near_zero']:.1%} of |gamma| < 0.01, quartiles {told}"]
        parts += [f"percent {row['safe_percent']:.2f} is safe now, {row['survivable_percent']:.2f} survivable"]
    return ", ".join(parts).replace(", \n", "\n")
