"""The parts of a training run, chosen by its config."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from models import Darknet, build
from pipeline.images import Setting, facts_of, loaders, with_precision
from pipeline.init_weights import InitialNetwork, begin
from pipeline.teacher import open_teacher
from utils.config.begun import tell_changes
from utils.config.train import TrainConfig, training_scheme
from utils.darknet.network import Checkpoint, Network, load_checkpoint
from utils.darknet.sharing import tie
from utils.darknet.spec import ModelSpec
from utils.darknet.training_words import restarts, stops
from utils.data.loader import Loader
from utils.distillation.context import DistillationContext
from utils.distillation.strategies import terms_of
from utils.errors import InputError
from utils.export.darknet_files import darknet_files
from utils.files import alone, take
from utils.pruning.sparsity import bound, penalty_of
from utils.quantization.begin_training import begin_training, lowered
from utils.quantization.fake import FakeQuantised, is_observer
from utils.quantization.level_penalty import timed
from utils.quantization.observers import hold_scales
from utils.quantization.scheme import Scheme
from utils.quantization.stages import BitStage, stage_line, stage_names, stages_of
from utils.reporting.record import Record, new_run_folder, read_record, start_record
from utils.reporting.results import read_rows
from utils.reporting.runs import RUNS, WEIGHTS
from utils.task import Metrics
from utils.temporal.hardware import INT8
from utils.training.build_optimizer import Learning, add_teacher, build_update, nominal_batch
from utils.training.distributed import Group
from utils.training.fptt import FpttOptions
from utils.training.front import freeze, thawing
from utils.training.loggers import RunLogger
from utils.training.random_state import seed_all, set_random_state
from utils.training.resume import Progress, restore
from utils.training.schedule import Schedule
from utils.training.update import Backprop

log = logging.getLogger(__name__)

LR, FRESH_HEADS_LR = 0.2, 0.4  # in general; where heads start fresh on a network that knows something already
QUANTISED_LR = 0.01  # a twentieth of the usual: at 0.05 four bits lost a point more, seed 0, four epochs
HARDWARE_LR = 0.1  # of --hw-friendly: at 0.2 the sample network's rounded weights ran away, and it learnt nothing
ADAM_SHARE = 1 / 100  # of SGD's rate: AdamW's steps are of one size, whatever the gradients'


Model = Darknet | FakeQuantised


@dataclass(kw_only=True)
class Run(Setting):
    """A run under way: fixed parts first, then what changes from epoch to epoch.

    ``files``: folder, best, last, those of stages. ``before``, ``begun``: seconds and epochs of earlier sittings.
    ``data``: of its lists.
    """

    train: Loader[Any]
    valid: Loader[Any]
    update: Backprop
    record: Record
    files: dict[str, str]
    stages: tuple[BitStage, ...]
    stage: BitStage
    distillation: DistillationContext | None
    progress: Progress = field(default_factory=Progress)
    before: float = 0.0
    begun: int = 0
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
    start, setting = begin(config, saved, group or Group())
    config, group, scheme = setting.config, setting.group, training_scheme(setting.config)
    stages = stages_of(config.epochs, config.progressive, scheme)
    done = int(saved.training["progress"]["epochs"]) if saved else 0
    stage = next(stage for stage in stages if done <= stage.end)  # at its end: the next one starts from it
    train, valid = loaders(setting, start.network.spec)
    made = model_of(setting, start.network, scheme and stage.scheme(scheme), saved)
    setting = replace(setting, config=with_rate(config, start, quantised=scheme is not None))
    setting = with_precision(setting, made, train.batch_size)
    update = update_of(setting, made, stage, train, done)
    distillation = None
    if terms_of(config.kd):
        config, distillation = open_teacher(setting, start.network.spec, train.batch_size)
        setting = replace(setting, config=config)
        add_teacher(update, distillation, config.lr)
    files = saved.training["files"] if saved else group.shared(_new_files(config, stages) if group.is_main else {})
    inputs = (*start.files, *(distillation.files if distillation else ()))
    run = Run(
        **vars(setting),
        train=train,
        valid=valid,
        update=update,
        record=_record(setting, Path(files["folder"]), inputs, again=bool(saved)),
        files=files,
        stages=stages,
        stage=stage,
        distillation=distillation,
        data=facts_of(setting.task, setting.manifest),
    )
    run = _restored(run, saved) if saved else run
    _own_seed(run, saved.training.get("ranks", []) if saved else [])
    return run


def model_of(setting: Setting, network: Network, scheme: Scheme | None, saved: Checkpoint | None) -> Model:
    """The network as it trains: in floats, or quantised from calibrated ranges or a checkpoint's own scales."""
    made, config = build(network), setting.config
    if scheme is None:
        tie(made)
        return made
    given = load_checkpoint(config.weights) if saved is None and config.weights.endswith(".pt") else saved
    return begin_training(
        network,
        scheme,
        setting.calibration,
        given,
        fold=config.bn_fold,
        learn=config.learn_scales,
        bits_map=config.bits_map,
        cut=bool(config.resume),
    )


def update_of(setting: Setting, made: Model, stage: BitStage, train: Loader[Any], done: int = 0) -> Backprop:
    """What the model learns with in one stage of the run; ``done`` epochs of a resumed one are over."""
    config, spec = setting.config, made.spec
    assert config.lr is not None
    if frozen := stops(spec):
        freeze(made, frozen)
    cycle, lengthen = restarts(spec)
    how = Learning(
        lr=config.lr,
        epochs=stage.end - stage.begin,
        batches=len(train),
        batch_size=train.batch_size,
        nominal=nominal_batch(spec.batch),
        adam=config.adam,
        ema=config.ema,
        fptt=forward_in_time(config, spec),
        sync_bn=config.sync_bn,
        copied=is_observer,
        cycle=cycle,
        lengthen=lengthen,
    )
    push = partial(penalty_of, spec, prune=config.prune, s=config.s, s_schedule=config.s_schedule)

    def penalty(model: nn.Module, schedule: Schedule) -> Callable[[int], None] | None:
        """The push of -sr; and a quantised model is told how far the run is."""
        strength = push(schedule, lr=how.lr, adam=config.adam) if config.sparse else None
        return timed(model, bound(strength, model, schedule), schedule.steps)

    inputs, precision, group = setting.task.inputs, setting.precision, setting.group
    update = build_update(made, inputs, how, precision=precision, group=group, penalty_of=penalty)
    hold_scales(update.model, update.optimizer)
    if frozen:
        step = round(max(0, done - stage.begin) / how.epochs * update.schedule.steps)
        hook = thawing(made, frozen, update.options.penalty, setting.group.size, step)
        update.options = replace(update.options, penalty=hook)
    return update


def next_stage(run: Run) -> Run:
    """The run at the begin of its next stage: the same weights at fewer bits, and everything else anew."""
    config, stage = run.config, run.stages[run.stages.index(run.stage) + 1]
    seed_all(config.seed + stage.begin)  # all that a stage depends on is the network of the last one
    assert isinstance(run.evaluated, FakeQuantised)
    made = lowered(run.evaluated, stage.scheme(run.evaluated.scheme), run.calibration)
    update = update_of(run, made, stage, run.train)
    add_teacher(update, run.distillation, config.lr)
    progress = replace(run.progress, best=Progress().best)
    run = replace(run, update=update, stage=stage, progress=progress)
    _own_seed(run)
    log.info("%s, %d steps", stage_line(stage, run.stages), update.schedule.steps)
    return run


def _own_seed(run: Run, saved: Sequence[Any] = ()) -> None:
    if len(saved) == run.group.size > 1:
        set_random_state(saved[run.group.rank])
    elif run.group.rank:  # the others drop out other values; with one process nothing changes
        torch.manual_seed(run.config.seed + run.group.rank + 1000 * run.progress.epochs)


def _record(setting: Setting, folder: Path, given: Sequence[Path], *, again: bool) -> Record:
    """A new record; that of a resumed run keeps the inputs it began with. The first process writes it, all have it."""
    config, manifest, group = setting.config, setting.manifest, setting.group
    if not group.is_main:
        group.shared(None)
        return read_record(folder)
    inputs = [manifest.path, manifest.train, manifest.valid, *given]
    if again:
        inputs = [Path(item["path"]) for item in read_record(folder).inputs]
    files = [path for path in inputs if path.is_file()]  # train and valid may be folders of images
    device = f"{setting.precision}, {group.size} processes" if group.size > 1 else str(setting.precision)
    about: dict[str, Any] = {"seed": config.seed, "device": device, "inputs": files, "task": setting.task}
    record = start_record(folder, script="train", args=config.values, **about)
    group.shared(None)
    return record


def _new_files(config: TrainConfig, stages: Sequence[BitStage]) -> dict[str, str]:
    """The run's folder and its checkpoints, Darknet's files too, under names nobody has, and of one number."""
    suffix = f"_{config.name}" if config.name else ""
    wanted = [WEIGHTS / f"best{suffix}.pt", WEIGHTS / f"last{suffix}.pt"]
    beside = [path for each in wanted for path in darknet_files(each)] if config.darknet else []
    with alone(RUNS):
        best, last, *_ = take(*wanted, *beside)
        folder = new_run_folder(RUNS, "train", config.name)
    return {"folder": str(folder), "best": str(best), "last": str(last)} | stage_names(stages, last, best)


def _restored(run: Run, saved: Checkpoint) -> Run:
    run.progress = restore(saved.training, run.model, run.update)
    if run.distillation:
        run.distillation.restore(saved.training["teacher"])
    run.before, run.begun = run.progress.seconds, run.progress.epochs
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
