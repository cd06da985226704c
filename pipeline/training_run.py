"""The parts of a training run, chosen by its config."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models import build
from pipeline.init_weights import (
    InitialNetwork,
    check_room,
    facts_of,
    fitted,
    read_initial,
    tell_unused_keys,
    training_batch,
    with_label_smoothing,
    with_length,
)
from pipeline.quantised_training import LR as QUANTISED_LR
from pipeline.quantised_training import Model, lowered, model_of, scheme_of, start_checkpoint
from pipeline.session import dataset_of, training_files
from pipeline.tasks import check_idle, task_of
from pipeline.teacher import open_teacher
from utils.config.as_trained import as_trained, data_of_task
from utils.config.begun import tell_changes
from utils.config.train import TrainConfig
from utils.darknet.network import Checkpoint
from utils.darknet.shapes import granularity, image_size
from utils.darknet.spec import ModelSpec
from utils.darknet.training_words import restarts, stops
from utils.data.loader import Loader, make_loader, scales, sides_between
from utils.data.manifest import Manifest
from utils.distillation.context import DistillationContext
from utils.errors import InputError
from utils.pruning.penalty import initial_gammas
from utils.pruning.sparsity import bound, penalty_of
from utils.quantization.fake import FakeQuantised, is_observer
from utils.quantization.level_penalty import timed
from utils.quantization.stages import BitStage, stage_line, stage_names, stages_of
from utils.reporting.record import Record, read_record, start_record
from utils.reporting.results import read_rows
from utils.task import Metrics, Task
from utils.temporal.hardware import INT8
from utils.training.build_optimizer import Learning, add_teacher, build_update, nominal_batch
from utils.training.device import Precision, select_device, select_precision
from utils.training.distributed import Group, main_first
from utils.training.fptt import FpttOptions
from utils.training.front import freeze, thawing
from utils.training.loggers import RunLogger
from utils.training.resume import Progress, restore, seed_all, set_random_state
from utils.training.schedule import Schedule
from utils.training.update import Backprop

log = logging.getLogger(__name__)

LR, FRESH_HEADS_LR = 0.2, 0.4  # in general; where heads start fresh on a network that knows something already
HARDWARE_LR = 0.1  # of --hw-friendly: at 0.2 the sample network learnt nothing
ADAM_SHARE = 1 / 100  # of SGD's rate: AdamW's steps are of one size, whatever the gradients'


@dataclass(kw_only=True)
class Run:
    """A run under way: fixed parts first, then what changes from epoch to epoch.

    ``files``: folder, best, last, those of stages. ``before``: seconds of earlier sittings. ``data``: of its lists.
    """

    config: TrainConfig
    task: Task
    manifest: Manifest
    size: tuple[int, int]
    precision: Precision
    train: Loader[Any]
    valid: Loader[Any]
    update: Backprop
    record: Record
    files: dict[str, str]
    stages: tuple[BitStage, ...]
    stage: BitStage
    distillation: DistillationContext | None
    group: Group
    progress: Progress = field(default_factory=Progress)
    before: float = 0.0
    rows: list[dict[str, Any]] = field(default_factory=list)
    gammas: list[dict[str, Any]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    metrics: Metrics | None = None
    loggers: Sequence[RunLogger] = ()
    enough: bool = False

    @property
    def model(self) -> Model:
        """What is trained."""
        return self.update.model  # type: ignore[return-value]

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
        """The weights that are measured and saved."""
        return self.update.averaged  # type: ignore[return-value]


def with_rate(config: TrainConfig, start: InitialNetwork, *, quantised: bool) -> TrainConfig:
    """The config with a learning rate, where --lr does not say one; a resumed run keeps its own."""
    shifts = any(layer.weight_quant == INT8 for layer in start.network.spec.kernels.values())
    usual = FRESH_HEADS_LR if start.new_outputs else QUANTISED_LR if quantised else LR
    share = ADAM_SHARE if config.adam else 1
    usual, most = (HARDWARE_LR if shifts else usual) * share, HARDWARE_LR * share
    if shifts and config.lr and config.lr > most:
        log.warning("--lr %g: 8-bit weights (--hw-friendly) learnt nothing at 0.2, well at %g", config.lr, most)
    return replace(config, lr=config.lr or usual)


def assemble(config: TrainConfig, saved: Checkpoint | None = None, group: Group | None = None) -> Run:
    """Everything a run needs, from its config; or, with a checkpoint of ``--resume``, the run as it was cut.

    Of a group of processes each has its share of every batch; only the first opens a record.

    Raises:
        InputError: data, cfg, weights or flags are wrong or contradict each other.
    """
    group = group or Group()
    read = InitialNetwork(saved.network, (), scratch=False) if saved else read_initial(config)
    task = task_of(read.network.spec, str(read.files[0]) if read.files else "cfg")
    check_idle(task, config.given)
    config = data_of_task(config, task)
    main_first(group, lambda: task.open_data(config.data))
    manifest = task.open_data(config.data)
    check_room(config, read.network.spec, task, manifest, group.size, group.device)
    seed_all(config.seed)
    start = read if saved else _start(read, config, task, manifest)
    config = config if saved else with_length(config, start.network.spec)
    config = as_trained(config, grey=start.grey, resize=start.resize)
    scheme, spec = scheme_of(config), start.network.spec
    size = image_size(config.size_asked, spec)
    stages = stages_of(config.epochs, config.progressive, scheme)
    done = int(saved.training["progress"]["epochs"]) if saved else 0
    stage = next(stage for stage in stages if done <= stage.end)  # at its end: the next one starts from it
    precision = select_precision(select_device(config.device or group.device))
    train, valid = loaders(config, task, manifest, spec, size, group)
    made: Model = build(start.network)
    if scheme:
        given = start_checkpoint(config, saved)
        made = model_of(config, task, start.network, stage.scheme(scheme), manifest, size, given)
    config = with_rate(config, start, quantised=scheme is not None)
    update = update_of(config, task, made, stage, train, precision, group, saved)
    config, distillation = open_teacher(config, spec, manifest, size, precision, train.batch_size, group)
    add_teacher(update, distillation, config.lr)
    files = saved.training["files"] if saved else group.shared(_new_files(config, stages) if group.is_main else {})
    inputs = (*start.files, *(distillation.files if distillation else ()))
    run = Run(
        config=config,
        task=task,
        manifest=manifest,
        size=size,
        precision=precision,
        train=train,
        valid=valid,
        update=update,
        record=_record(config, task, Path(files["folder"]), manifest, inputs, str(precision), group, again=bool(saved)),
        files=files,
        stages=stages,
        stage=stage,
        distillation=distillation,
        group=group,
        data=facts_of(task, manifest),
    )
    run = _restored(run, saved) if saved else run
    _own_seed(run, saved.training.get("ranks", []) if saved else [])
    return run


def update_of(
    config: TrainConfig,
    task: Task,
    made: Model,
    stage: BitStage,
    train: Loader[Any],
    precision: Precision,
    group: Group,
    saved: Checkpoint | None = None,
) -> Backprop:
    """What the model learns with in one stage of the run; ``saved`` says how far a resumed one is."""
    assert config.lr is not None
    freeze(made, stops(made.spec))
    cycle, lengthen = restarts(made.spec)
    how = Learning(
        lr=config.lr,
        epochs=stage.end - stage.begin,
        batches=len(train),
        batch_size=train.batch_size,
        nominal=nominal_batch(made.spec.batch),
        adam=config.adam,
        ema=config.ema,
        fptt=forward_in_time(config, made.spec),
        sync_bn=config.sync_bn,
        copied=is_observer,
        cycle=cycle,
        lengthen=lengthen,
    )

    def penalty_of_run(model: nn.Module, schedule: Schedule) -> Callable[[int], None] | None:
        """The push of -sr; and a quantised model is told how far the run is."""
        strength = None
        if config.sparse:
            strength = penalty_of(
                made.spec,
                schedule,
                prune=config.prune,
                s=config.s,
                s_schedule=config.s_schedule,
                lr=how.lr,
                adam=config.adam,
            )
        return timed(model, bound(strength, model, schedule), schedule.steps)

    update = build_update(made, task.inputs, how, precision=precision, group=group, penalty_of=penalty_of_run)
    done = (int(saved.training["progress"]["epochs"]) - stage.begin) / how.epochs if saved else 0
    penalty = thawing(made, stops(made.spec), update.options.penalty, group.size, round(done * update.schedule.steps))
    update.options = replace(update.options, penalty=penalty)
    return update


def next_stage(run: Run) -> Run:
    """The run at the begin of its next stage: the same weights at fewer bits, and everything else anew."""
    config, stage = run.config, run.stages[run.stages.index(run.stage) + 1]
    seed_all(config.seed + stage.begin)  # all that a stage depends on is the network of the last one
    assert isinstance(run.evaluated, FakeQuantised)
    made = lowered(config, run.task, run.evaluated, stage.scheme(run.evaluated.scheme), run.manifest, run.size)
    update = update_of(config, run.task, made, stage, run.train, run.precision, run.group)
    add_teacher(update, run.distillation, config.lr)
    progress = replace(run.progress, best=Progress().best)
    run = replace(run, update=update, stage=stage, progress=progress)
    _own_seed(run)
    log.info("%s, %d steps", stage_line(stage, run.stages), update.schedule.steps)
    return run


def loaders(
    config: TrainConfig, task: Task, manifest: Manifest, spec: ModelSpec, size: tuple[int, int], group: Group
) -> tuple[Loader[Any], Loader[Any]]:
    """Training and validation batches; ``--batch-size`` is that of all processes together.

    Raises:
        InputError: there are more processes than images in a batch.
    """
    share, step = (group.rank, group.size), granularity(spec)
    augment = task.augmentation(manifest, config.mosaic, mixup=config.mixup, cutmix=config.cutmix)
    seen = dataset_of(config, task, manifest, spec, size, augment=augment)
    batch = training_batch(config.batch_size, spec, len(seen))
    if batch < group.size:
        raise InputError(f"--batch-size: {batch} images for {group.size} processes; use at least one for each")
    train = make_loader(
        seen,
        batch,
        share=share,
        workers=config.workers,
        shuffle=True,
        seed=config.seed,
        rect=step if config.rect else 0,
        sizes=_sizes(config, size, step),
    )
    looked_at = dataset_of(config, task, manifest, spec, size, images=manifest.valid)
    valid = make_loader(looked_at, batch, workers=config.workers, share=share)
    return train, valid


def _sizes(config: TrainConfig, size: tuple[int, int], step: int) -> list[tuple[int, int]]:
    """The sizes of batches with ``--multi-scale``.

    Raises:
        InputError: no multiple of the network's stride lies between MIN and MAX.
    """
    if not config.multi_scale:
        return []
    sizes = sides_between(*config.sides, step) if config.sides else scales(size, step)
    if not sizes:
        raise InputError(f"--img-size {config.sides}: no multiple of {step}, the network's largest stride, is between")
    log.info("--multi-scale: %dx%d to %dx%d px in steps of %d, measured at %dx%d", *sizes[0], *sizes[-1], step, *size)
    return sizes


def _start(read: InitialNetwork, config: TrainConfig, task: Task, manifest: Manifest) -> InitialNetwork:
    start = fitted(read, config, task, manifest)
    tell_unused_keys(start.network.spec, task)
    if config.label_smoothing is not None:  # as a cfg would say it, so that the network remembers
        start = replace(start, network=with_label_smoothing(start.network, config.label_smoothing))
    halved = config.sparse and start.scratch and not start.network.spec.neurons  # theirs start at the threshold
    return replace(start, network=initial_gammas(start.network)) if halved else start


def _own_seed(run: Run, saved: Sequence[Any] = ()) -> None:
    if len(saved) == run.group.size > 1:
        set_random_state(saved[run.group.rank])
    elif run.group.rank:  # the others drop out other values; with one process nothing changes
        torch.manual_seed(run.config.seed + run.group.rank + 1000 * run.progress.epochs)


def _record(
    config: TrainConfig,
    task: Task,
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
    said = config.values
    record = start_record(folder, script="train", args=said, seed=config.seed, device=device, inputs=files, task=task)
    group.shared(None)
    return record


def _new_files(config: TrainConfig, stages: Sequence[BitStage]) -> dict[str, str]:
    files = training_files(config.name, darknet=config.darknet)
    return files | stage_names(stages, Path(files["last"]), Path(files["best"]))


def _restored(run: Run, saved: Checkpoint) -> Run:
    run.progress = restore(saved.training, run.model, run.update)
    if run.distillation:
        run.distillation.restore(saved.training["teacher"])
    run.before = run.progress.seconds
    tell_changes(run.config.data, saved.training.get("data", {}), run.data)
    kept = [read_rows(run.record.folder / name) for name in ("results.csv", "gammas.csv")]
    run.rows, run.gammas = ([row for row in rows if row["epoch"] <= run.progress.epochs] for rows in kept)
    return run


def forward_in_time(config: TrainConfig, spec: ModelSpec) -> FpttOptions | None:
    """What ``--trainer fptt`` asks for; None where gradients go back through all steps.

    Raises:
        InputError: the network has no steps, or another average of the weights is asked for as well.
    """
    if config.trainer != "fptt":
        return None
    if not spec.stateful:
        raise InputError("--trainer fptt: the network has no steps in time; add --spiking ltc, or use --trainer bptt")
    if config.ema and "ema" in config.given:
        raise InputError("--ema and --trainer fptt: fptt measures an average of its own; leave --ema away")
    steps, segments = spec.timesteps, config.fptt_k or spec.timesteps
    return FpttOptions(timesteps=steps, segments=segments, alpha=config.fptt_alpha, beta=config.fptt_beta)
