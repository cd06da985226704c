"""The parts of a training run, chosen by its flags."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from models import build
from pipeline.session import RUNS, WEIGHTS, batch_size, heads_of, image_size, show_grey
from pipeline.training.build_optimizer import STEPS, learner_of, with_teacher
from pipeline.training.init_weights import InitialNetwork, start_of, tell_unused_keys
from pipeline.training.quantised import LR as QUANTISED_LR
from pipeline.training.quantised import Model, given_checkpoint, lowered, model_of, scheme_of
from pipeline.training.stages import BitStage, message, stage_names, stages_of
from pipeline.training.teacher import DistillationContext, teaching_of
from utils.darknet.counts import count
from utils.darknet.network import Checkpoint
from utils.darknet.shapes import granularity
from utils.darknet.spec import Detect, ModelSpec
from utils.data.loader import Loader, make_loader, scales
from utils.data.manifest import Manifest
from utils.detection.augment import Augment
from utils.detection.dataset import DetectionDataset
from utils.detection.evaluate import Metrics
from utils.detection.open_data import read_manifest
from utils.detection.sample import prepare_if_sample
from utils.errors import InputError
from utils.pruning.penalty import initial_gammas
from utils.quantization.fake import FakeQuantised
from utils.reporting.files import free_path
from utils.reporting.record import Record, new_run_folder, read_record, start_record
from utils.reporting.results import read_rows
from utils.reporting.tables import number
from utils.training.device import Precision, select_device, select_precision
from utils.training.distributed import Group, main_first
from utils.training.ema import Ema
from utils.training.loop import EpochOptions
from utils.training.resume import Progress, restore, seed_all, set_random_state
from utils.training.schedule import Schedule

log = logging.getLogger(__name__)

LR, FRESH_HEADS_LR = 0.2, 0.4  # in general; where heads start fresh on a network that knows something already
ADAM_SHARE = 1 / 100  # of SGD's rate: AdamW's steps are of one size, whatever the gradients'


@dataclass(kw_only=True)
class Run:
    """A run under way: fixed parts first, then what changes from epoch to epoch."""

    args: argparse.Namespace
    manifest: Manifest
    size: tuple[int, int]
    precision: Precision
    train: Loader
    valid: Loader
    model: Model
    ema: Ema | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler | None
    schedule: Schedule
    options: EpochOptions
    record: Record
    files: dict[str, str]  # folder, best, last, and those of stages
    stages: tuple[BitStage, ...]
    stage: BitStage  # the present one
    progress: Progress = field(default_factory=Progress)
    teaching: DistillationContext | None = None
    group: Group = field(default_factory=Group)
    before: float = 0.0  # seconds of earlier sittings
    rows: list[dict[str, Any]] = field(default_factory=list)
    gammas: list[dict[str, Any]] = field(default_factory=list)
    metrics: Metrics | None = None

    @property
    def heads(self) -> list[Detect]:
        """The detection heads, in cfg order."""
        return heads_of(self.model.spec)

    @property
    def last(self) -> Path:
        """Where the last epoch goes, and what --resume needs."""
        return Path(self.files["last"])

    @property
    def best(self) -> Path:
        """Where the best epoch of the present stage goes."""
        return self.file("best")

    def file(self, kind: str) -> Path:
        """The present stage's own last or best checkpoint; the last stage's are the run's."""
        name = f"{kind}-{self.stage.bits[0]}" if self.stage.bits else kind
        return Path(self.files.get(name, self.files[kind]))

    @property
    def evaluated(self) -> Model:
        """The weights that are measured and saved: the average where there is one."""
        return self.ema.model if self.ema else self.model  # type: ignore[return-value]

    @property
    def stateful(self) -> dict[str, Any]:
        """What has a state to go on from, by the names ``capture`` and ``restore`` use."""
        return {"model": self.model, "optimizer": self.optimizer, "ema": self.ema, "scaler": self.scaler}


def assemble(args: argparse.Namespace, saved: Checkpoint | None = None, group: Group | None = None) -> Run:
    """Everything a run needs, from its flags; or, with a checkpoint of ``--resume``, the run as it was cut.

    Of a group of processes each has its share of every batch; only the first opens a record.

    Raises:
        InputError: data, cfg, weights or flags are wrong or contradict each other.
    """
    group = group or Group()
    main_first(group, lambda: prepare_if_sample(args.data))
    manifest = read_manifest(args.data)
    seed_all(args.seed)
    start = _start(args, manifest, saved)
    show_grey(args, grey=start.grey)
    scheme, spec, size = scheme_of(args), start.network.spec, image_size(args.img_size, start.network.spec)
    stages = stages_of(args, scheme)
    done = int(saved.training["progress"]["epochs"]) if saved else 0
    stage = next(stage for stage in stages if done <= stage.end)  # at its end: the next one starts from it
    precision = select_precision(select_device(args.device or group.device))
    train, valid = loaders(args, manifest, spec, size, group)
    made: Model = build(start.network)
    if scheme:
        made = model_of(args, start.network, stage.scheme(scheme), manifest, size, given_checkpoint(args, saved))
    usual = FRESH_HEADS_LR if start.reheaded else QUANTISED_LR if scheme else LR
    lr = args.lr or usual * (ADAM_SHARE if args.adam else 1)
    args.lr = lr  # saved with the flags, so that a resumed run goes on at its rate
    learner = learner_of(args, made, stage, train, precision, group)
    teaching = teaching_of(args, spec, manifest, size, precision, train.batch_size, group)
    files = saved.training["files"] if saved else group.shared(_new_files(args.name, stages) if group.is_main else {})
    given = (*start.files, *(teaching.files if teaching else ()))
    run = Run(
        args=args,
        manifest=manifest,
        size=size,
        precision=precision,
        train=train,
        valid=valid,
        **with_teacher(learner, teaching, lr),
        record=_record(args, Path(files["folder"]), manifest, given, str(precision), group, again=saved is not None),
        files=files,
        stages=stages,
        stage=stage,
        teaching=teaching,
        group=group,
    )
    _tell(run, lr)
    run = _restored(run, saved) if saved else run
    _own_seed(run, saved.training.get("ranks", []) if saved else [])
    return run


def next_stage(run: Run) -> Run:
    """The run at the begin of its next stage: the same weights at fewer bits, and everything else anew."""
    args, stage = run.args, run.stages[run.stages.index(run.stage) + 1]
    seed_all(args.seed + stage.begin)  # all that a stage depends on is the network of the last one
    assert isinstance(run.evaluated, FakeQuantised)
    made = lowered(args, run.evaluated, stage.scheme(run.evaluated.scheme), run.manifest, run.size)
    learner = learner_of(args, made, stage, run.train, run.precision, run.group)
    progress = replace(run.progress, best=Progress().best)
    run = replace(run, **with_teacher(learner, run.teaching, args.lr), stage=stage, progress=progress)
    _own_seed(run)
    log.info("%s, %d steps", message(stage, run.stages), run.schedule.steps)
    return run


def _own_seed(run: Run, saved: Sequence[Any] = ()) -> None:
    if len(saved) == run.group.size > 1:
        set_random_state(saved[run.group.rank])
    elif run.group.rank:  # the others drop out other values; with one process nothing changes
        torch.manual_seed(run.args.seed + run.group.rank + 1000 * run.progress.epochs)


def loaders(
    args: argparse.Namespace, manifest: Manifest, spec: ModelSpec, size: tuple[int, int], group: Group
) -> tuple[Loader, Loader]:
    """Training and validation batches; ``--batch-size`` is that of all processes together.

    Raises:
        InputError: there are more processes than images in a batch.
    """
    share = (group.rank, group.size)
    step = granularity(spec)
    mosaic = manifest.mosaic if args.mosaic is None else args.mosaic
    augment = Augment(flip=manifest.flip, mosaic=mosaic, scale=manifest.scale)
    common: dict[str, Any] = {"cache": args.cache, "seed": args.seed, "channels": spec.channels}
    common["grey"] = args.gray_scale
    images = DetectionDataset(manifest.train, manifest, size, augment=augment, unreadable="replace", **common)
    batch = args.batch_size or min(batch_size(spec), max(1, len(images) // STEPS))
    if batch < group.size:
        raise InputError(f"--batch-size: {batch} images for {group.size} processes; use at least one for each")
    train = make_loader(
        images,
        batch,
        share=share,
        workers=args.workers,
        shuffle=True,
        seed=args.seed,
        rect=step if args.rect else 0,
        sizes=scales(size, step) if args.multi_scale else (),
    )
    seen = DetectionDataset(manifest.valid, manifest, size, unreadable="drop", **common)
    valid = make_loader(seen, batch, workers=args.workers, share=share)
    return train, valid


def _start(args: argparse.Namespace, manifest: Manifest, saved: Checkpoint | None) -> InitialNetwork:
    if saved:
        return InitialNetwork(saved.network, (), scratch=False)
    start = start_of(args, manifest)
    tell_unused_keys(start.network.spec)
    return replace(start, network=initial_gammas(start.network)) if args.sparse and start.scratch else start


def _record(
    args: argparse.Namespace,
    folder: Path,
    manifest: Manifest,
    given: Sequence[Path],
    device: str,
    group: Group,
    *,
    again: bool,
) -> Record:
    """A new record; that of a resumed run keeps the inputs it began with. The first process writes it, all have it."""
    if not group.is_main:
        group.shared(None)
        return read_record(folder)
    inputs = [manifest.path, manifest.train, manifest.valid, *given]
    if again:
        inputs = [Path(item["path"]) for item in read_record(folder).inputs]
    files = [path for path in inputs if path.is_file()]  # train and valid may be folders of images
    device = f"{device}, {group.size} processes" if group.size > 1 else device
    record = start_record(folder, script="train", args=vars(args), seed=args.seed, device=device, inputs=files)
    group.shared(None)
    return record


def _new_files(name: str, stages: Sequence[BitStage]) -> dict[str, str]:
    """The run's folder and its checkpoints, all under names nobody has."""
    suffix, folder = f"_{name}" if name else "", new_run_folder(RUNS, "train", name)
    best, last = (free_path(WEIGHTS / f"{kind}{suffix}.pt") for kind in ("best", "last"))
    return {"folder": str(folder), "best": str(best), "last": str(last)} | stage_names(stages, last, best)


def _restored(run: Run, saved: Checkpoint) -> Run:
    run.progress = restore(saved.training, **run.stateful)
    if run.teaching:
        run.teaching.restore(saved.training["teacher"])
    run.before = run.progress.seconds
    kept = [read_rows(run.record.folder / name) for name in ("results.csv", "gammas.csv")]
    run.rows, run.gammas = ([row for row in rows if row["epoch"] <= run.progress.epochs] for rows in kept)
    return run


def _tell(run: Run, lr: float) -> None:
    """What runs, in three lines, so that a log alone can be repeated."""
    record, counts = run.record, count(run.model.spec, run.size)
    git = (record.git or "no git").partition("+")
    log.info("%s: git %s%s%s, seed %s, %s", record.folder, git[0][:12], git[1], git[2], record.seed, record.device)
    log.info(
        "%d training and %d validation images at %dx%d px, batches of %d, %d a step; %s parameters, %s MACs",
        len(run.train.dataset),
        len(run.valid.dataset),
        *run.size,
        run.train.batch_size,
        run.options.accumulate,
        number(counts.params),
        number(counts.macs),
    )
    log.info("%d steps of %s at a rate of %g", run.schedule.steps, type(run.optimizer).__name__, lr)
    if run.stage.bits:
        log.info(message(run.stage, run.stages))
