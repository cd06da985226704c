"""Stages one after the other, each resumable; what compress.py does."""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from pipeline.convert import spikes_of
from pipeline.init_weights import check_room
from pipeline.session import RUNS, WEIGHTS, Session, check_alone, open_session, output_of
from pipeline.summary import Measured, about, leave, with_report
from pipeline.tasks import task_of
from utils import cli
from utils.config.pipeline import STAGES, PipelineConfig
from utils.config.run import CFG, RunConfig
from utils.config.train import TrainConfig
from utils.darknet.cfg import read_cfg
from utils.darknet.network import WITH_STATE, load_checkpoint
from utils.darknet.spec import Kernel, ModelSpec
from utils.darknet.weights import read_weights
from utils.data.manifest import Manifest, read_list
from utils.errors import InputError
from utils.files import check_writable, hold, names_kept, shown
from utils.quantization.validate import check_supported
from utils.reporting.files import sha256, stamps
from utils.reporting.html.report import NAME as REPORT
from utils.reporting.record import FILE, Record, finish_record, latest_record, new_run_folder, read_record, start_record
from utils.reporting.tables import stage_table
from utils.spiking.spike_schedule import check_spiking_spec, encode
from utils.task import Task

log = logging.getLogger(__name__)

PRUNED = Path("cfg/pruned")
# flags of every script that decide the outcome
SHARED = ("data", "batch_size", "img_size", "device", "cache", "gray_scale", "resize", "seed")


class Script(Protocol):
    """A script as a module: its flags and what it does with them."""

    def parser(self) -> cli.Parser[Any]:
        """The command line."""

    def run(self, config: Any) -> Record:
        """Do it."""


@dataclass(frozen=True)
class TeacherSpec:
    """Who teaches a stage: the network that the stage of this name left, by a strategy of ``--KDstr``."""

    stage: str
    strategy: str


@dataclass(frozen=True)
class Stage:
    """One script with its flags.

    ``files`` are inputs besides the data and the network of the stage before. The files of a stage that is ``named``
    carry its name; the others are called after the network they are made of.
    """

    name: str
    script: Script
    flags: Sequence[Any]
    files: Sequence[Path] = field(default_factory=list)
    named: bool = True
    teacher: TeacherSpec | None = None


@names_kept()
def run_chain(config: PipelineConfig, stages: Sequence[Stage]) -> Record:
    """Run the stages that are not done, compare all of them, and write the table, the record, pictures and the report.

    With ``config.until`` it ends after the stage of that name, whose record it returns.

    Raises:
        InputError: whatever a stage refuses; the stages before it are kept.
    """
    check_alone("compress", config.name)
    records: dict[str, Record] = {}
    commands: dict[str, str] = {}
    left: dict[str, Path] = {}
    print_ = fingerprint_of_data(config)
    for number, stage in enumerate(stages, 1):
        print_, flags = _next(config, stage, left, print_)
        log.info("\n== %d/%d %s", number, len(stages), stage.name)
        commands[stage.name] = shlex.join(["python3", f"{getattr(stage.script, '__name__', stage.name)}.py", *flags])
        done = _done(print_)
        if done is not None:
            log.info("done before: %s", done.folder)
        records[stage.name] = done or _run(stage, flags, print_)
        weights = output_of(records[stage.name])
        if weights is None:
            raise InputError(f"{records[stage.name].folder}: the network this stage left is gone; delete this folder")
        left[stage.name] = weights
        if stage.name == config.until:
            return records[stage.name]
    teachers = {stage.name: stage.teacher for stage in stages if stage.teacher}
    return _finish(config, print_, records, commands, teachers)


def finished_chain(config: PipelineConfig, stages: Sequence[Stage], data: str) -> Record | None:
    """The record of this very chain where it came to its end before and its networks are still there; runs nothing.

    Args:
        config: of compress.py.
        stages: of the chain.
        data: what ``fingerprint_of_data`` says of ``config.data``.
    """
    left: dict[str, Path] = {}
    print_ = data
    for stage in stages:
        print_, _ = _next(config, stage, left, print_)
        weights = output_of(_done(print_))
        if weights is None:
            return None
        left[stage.name] = weights

    def fits(record: Record) -> bool:
        return record.script == "compress" and record.args.get("fingerprint") == print_

    return latest_record(RUNS, "compress*", fits)


def _next(config: PipelineConfig, stage: Stage, left: Mapping[str, Path], before: str) -> tuple[str, list[str]]:
    """The fingerprint of a stage on the networks that those before it left, and the flags to run it with."""
    given = {"--weights": [*left.values()][-1]} if left else {}
    given |= {"--t_weights": left[stage.teacher.stage]} if stage.teacher else {}
    files = [*stage.files, *given.values()] or [Path(CFG)]
    taught = ["--KDstr", stage.teacher.strategy] if stage.teacher else []
    flags = [*map(str, stage.flags), *taught, *cli.words_of(config, SHARED)]
    print_ = _fingerprint(files, [before, stage.name, *flags])
    flags += [word for flag, path in given.items() for word in (flag, str(path))]
    flags += ["--workers", str(config.workers)] if config.workers is not None else []
    flags += ["--name", f"{config.name or 'compress'}-{stage.name}"] if stage.named else []
    return print_, flags


def check_chain(config: PipelineConfig) -> None:
    """Refuse what a later stage would refuse: data, sizes, memory, folders, and what integers and spikes cannot do.

    Raises:
        InputError: what that stage would say, or which folder cannot be written.
    """
    last = STAGES.index(config.until or STAGES[-1])
    spec, task = spec_of_start(config), task_of_start(config)
    check_room(config, spec, task.open_data(config.data))
    if last >= STAGES.index("quantised"):
        layers = [replace(layer, bn=False) if isinstance(layer, Kernel) else layer for layer in spec.layers]
        check_supported(replace(spec, layers=tuple(layers)))
    if last >= STAGES.index("spiking"):
        check_spiking_spec(spec)
    check_writable(RUNS, WEIGHTS, *([PRUNED] if last >= STAGES.index("pruned") else []))


def spec_of_start(config: PipelineConfig) -> ModelSpec:
    """The structure that the chain starts from.

    Raises:
        InputError: it is not there, cannot be read, or is none that can be trained.
    """
    if config.cfg is not None or not config.weights.endswith(".pt"):
        return read_cfg(config.cfg or CFG)
    checkpoint = load_checkpoint(config.weights)
    if checkpoint.kind not in WITH_STATE:
        raise InputError(
            f"{config.weights}: a {checkpoint.kind} checkpoint can not be trained; give the float one it was made of"
        )
    return checkpoint.network.spec


def check_start(config: PipelineConfig) -> None:
    """Refuse Darknet weights that are not this cfg's: neither whole, nor for other classes, nor its first layers.

    A pruned network's file, for example, fills the first layers of the full one with numbers of other layers.

    Raises:
        InputError: so it is, and ``-pt`` does not ask for whatever fits.
    """
    path = Path(config.weights)
    if not config.weights or path.suffix == ".pt" or config.pretrained:
        return
    spec = read_cfg(config.cfg or CFG)
    try:
        read_weights(path, spec)
    except InputError as error:
        hint = " (--cfg of a pruned network lies in cfg/pruned/)" if "bytes" in str(error) else ""
        if not _begins_with(path, spec):
            raise InputError(f"{error}{hint}") from error


def _begins_with(path: Path, spec: ModelSpec) -> bool:
    """Whether the file's numbers are those of the network's first layers, or of all but its outputs."""
    try:
        return not any("fit no layer" in note for note in read_weights(path, spec, partial=True).left_out)
    except InputError:  # numbers of other layers, which as a variance, say, are negative
        return False


def task_of_start(config: PipelineConfig) -> Task:
    """The task of the network that the chain starts from.

    Raises:
        InputError: it is not there, cannot be read, or has no output that a task knows.
    """
    place = config.weights if config.cfg is None and config.weights.endswith(".pt") else config.cfg or CFG
    return task_of(spec_of_start(config), place)


def _fingerprint(files: Sequence[Path], words: Sequence[str]) -> str:
    """What a stage's outcome depends on: the bytes of its inputs and its flags.

    Raises:
        InputError: an input is missing.
    """
    message = json.dumps([*words, *(stamp["sha256"] for stamp in stamps(files))])
    return hashlib.sha256(message.encode()).hexdigest()


def fingerprint_of_data(config: PipelineConfig) -> str:
    """What ``--data`` says, names and sizes of its images, bytes of their labels; the sample set is composed first.

    Raises:
        InputError: the data set is not there or contradicts itself.
    """
    task = task_of_start(config)
    return _data_fingerprint(task, task.open_data(config.data))


def _data_fingerprint(task: Task, manifest: Manifest) -> str:
    """Names and sizes of the images, bytes of their labels; pixels would take minutes to read in a large set."""
    message = [str(replace(manifest, path=Path(), train=Path(), valid=Path(), labels=None))]
    for image in [*read_list(manifest.train), *read_list(manifest.valid)]:
        labels = task.label_file(image, manifest)
        message.append(f"{image.name} {image.stat().st_size if image.is_file() else None}")
        message.append(sha256(labels) if labels.is_file() else labels.name if labels.is_dir() else "")
    return _fingerprint([], message)


def _done(fingerprint: str) -> Record | None:
    """The finished run of a stage with these inputs and flags, if what it left is still there."""

    def fits(record: Record) -> bool:
        same = record.script != "compress" and record.args.get("fingerprint") == fingerprint
        return same and output_of(record) is not None

    return latest_record(RUNS, "*", fits)


def _run(stage: Stage, flags: list[str], fingerprint: str) -> Record:
    """Run a stage, or go on with its training where it was cut."""
    config: RunConfig = stage.script.parser().parse_args(flags)
    config = replace(config, fingerprint=fingerprint)  # into the record and the checkpoint, to be known by
    if isinstance(config, TrainConfig):
        saved = {path: load_checkpoint(path).training for path in WEIGHTS.glob(f"last_{config.name}*.pt")}
        cut = [path for path, state in saved.items() if state and _begun_with(state) == fingerprint]
        newest = max(cut, key=lambda path: path.stat().st_mtime, default=None)
        if newest is not None:  # known by its fingerprint: paths may be others than they were
            config = replace(config, resume=str(newest), given=())
    return stage.script.run(config)


def _begun_with(state: Mapping[str, Any]) -> Any:
    """The fingerprint of the stage that a cut training belongs to."""
    return (state.get("config") or state["args"]).get("fingerprint")  # before there were configs: the flags


def _finish(
    config: PipelineConfig,
    fingerprint: str,
    records: Mapping[str, Record],
    commands: Mapping[str, str],
    teachers: Mapping[str, TeacherSpec],
) -> Record:
    """Measure every stage in the same way, in one sitting."""
    inputs = [path for path in map(output_of, records.values()) if path]
    record = _record(config, fingerprint, inputs)
    found: dict[str, Measured] = {}
    for name, path in zip(records, inputs, strict=True):
        session = open_session(replace(config, weights=str(path), cfg=None))
        found[name] = _measure(session, path)
    rows = {name: each.row for name, each in found.items()}
    titled = {f"{n} (taught)" if n in teachers else n: row for n, row in rows.items()}
    log.info("\n%s", stage_table(titled, session.task, title="compress"))
    for name, each in teachers.items():
        log.info("taught: the %s network taught the %s one, --KDstr %s", each.stage, name, each.strategy)
    log.info(
        "energy: fp32 MACs for float networks, int8 MACs for quantised, accumulates for spikes; 45 nm, arithmetic only"
    )
    outputs = leave(session, records, found, record.folder)
    metrics = {
        "stages": rows,
        "stage_seconds": sum(each.seconds or 0.0 for each in records.values()),
        "runs": {
            name: {"command": commands[name], "folder": shown(each.folder), "seconds": each.seconds}
            | ({"teacher": vars(teachers[name])} if name in teachers else {})
            for name, each in records.items()
        },
        "about": about(session, Path(config.cfg or config.weights or CFG).stem),
    }
    done = with_report(finish_record(record, metrics=metrics, outputs=[*inputs, *outputs]))
    log.info("record, pictures and report: %s", done.folder / REPORT)
    return done


def _record(config: PipelineConfig, fingerprint: str, inputs: Sequence[Path]) -> Record:
    """The record of this chain: the folder of an earlier run of the same inputs, or a new one."""
    same = (
        path.parent
        for path in sorted(RUNS.glob(f"compress*/{FILE}"))
        if read_record(path).args.get("fingerprint") == fingerprint and hold(path.parent)
    )
    folder = next(same, None) or new_run_folder(RUNS, "compress", config.name)
    args, task = replace(config, fingerprint=fingerprint).values, task_of_start(config)
    return start_record(folder, script="compress", args=args, seed=config.seed, inputs=inputs, task=task)


def _measure(session: Session[PipelineConfig], path: Path) -> Measured:
    predictor, loaded = session.loaded.predictor, session.loaded
    metrics = session.score(predictor)
    row = session.numbers(predictor, metrics, loaded.spec, path)
    network = load_checkpoint(path).network
    if loaded.integer is None:
        return Measured(row, metrics, network)
    cost = spikes_of(session, encode(loaded.integer))
    spiking = loaded.kind == "spiking"
    row["energy_pj"] = cost.energy.spiking_int8 if spiking else cost.energy.ann_int8
    row |= {"spikes": cost.spikes, "sops": cost.sops} if spiking else {}
    return Measured(row, metrics, network, loaded.integer, cost)
