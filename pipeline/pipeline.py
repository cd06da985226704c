"""Stages one after the other, each resumable; what compress.py does."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from pipeline.chain_start import budget_of, fingerprint_of_data
from pipeline.summary import Left, summarise
from utils import cli
from utils.chain.budget import TrainingBudget
from utils.chain.console import Console, Remaining, console
from utils.chain.decisions import Decision, Once, StageView, Tried, Try
from utils.config.pipeline import PipelineConfig
from utils.config.run import CFG, RunConfig
from utils.config.train import TrainConfig
from utils.darknet.network import load_checkpoint
from utils.errors import InputError
from utils.files import names_kept
from utils.reporting.files import fingerprint
from utils.reporting.record import Record, latest_record
from utils.reporting.runs import RUNS, WEIGHTS, check_alone, output_of

log = logging.getLogger(__name__)

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
    """One script with its flags, and what decides the rest of them from what was seen.

    ``files`` are inputs besides the data and the network of the stage before. The files of a stage that is ``named``
    carry its name; the others are called after the network they are made of. With ``best`` it leaves its best epoch
    where that is better than its last one. ``variant``: what its runs are told apart by besides their flags.
    """

    name: str
    script: Script
    flags: Sequence[Any]
    files: Sequence[Path] = field(default_factory=list)
    named: bool = True
    teacher: TeacherSpec | None = None
    decision: Decision = field(default_factory=Once)
    best: bool = False
    variant: str = ""


@names_kept()
def run_chain(config: PipelineConfig, stages: Sequence[Stage]) -> Record:
    """Run the stages that are not done, compare all of them, and write the table, the record, pictures and the report.

    With ``config.until`` it ends after the stage of that name, whose record it returns.

    Raises:
        InputError: whatever a stage refuses; the stages before it are kept.
    """
    check_alone("compress", config.name)
    left, print_, budget = dict[str, Left](), fingerprint_of_data(config), budget_of(config)
    log.info("%s", budget)
    given = {"baseline": config.epochs, "sparse": config.sparse_epochs, "finetuned": config.finetune_epochs}
    expected = {name: said or budget.epochs(name) for name, said in given.items()}
    expected |= {"quantised": expected["finetuned"]} if config.qat else {}
    remaining = Remaining(expected, tuple(each.name for each in stages))
    with console(cli.Lines, remaining, verbose=config.verbose) as shown:
        for number, stage in enumerate(stages, 1):
            place = f"stage {number} of {len(stages)}, {stage.name}"
            log.info("\n== %s", place)
            try:
                left[stage.name] = _stage(config, stage, left, print_, budget, _Here(place, shown, remaining))
            except KeyboardInterrupt as error:
                again = shlex.join(["python3", "compress.py", *cli.words_of(config, config.given)])
                raise type(error)(f"in {place}; the same command goes on there: {again}") from None
            if stage.name == config.until:
                return left[stage.name].record
            print_ = left[stage.name].print_
        return summarise(config, print_, left, {e.name: e.teacher for e in stages if e.teacher and left[e.name].taught})


def finished_chain(config: PipelineConfig, stages: Sequence[Stage], data: str) -> Record | None:
    """The record of this very chain where it came to its end before and its networks are still there; runs nothing.

    Args:
        config: of compress.py.
        stages: of the chain.
        data: what ``fingerprint_of_data`` says of ``config.data``.
    """
    left, print_, budget = dict[str, Left](), data, budget_of(config)
    for stage in stages:
        try:
            left[stage.name] = _stage(config, stage, left, print_, budget, None)
        except _NotDone:
            return None
        print_ = left[stage.name].print_

    def fits(record: Record) -> bool:
        return record.script == "compress" and record.args.get("fingerprint") == print_

    return latest_record(RUNS, "compress*", fits)


class _NotDone(Exception):  # noqa: N818  # nothing went wrong
    pass


@dataclass(frozen=True)
class _Here:
    """Where a chain that runs is, and who shows it."""

    place: str
    shown: Sequence[Console]
    remaining: Remaining

    def begin(self, stage: str, *, runs: bool) -> None:
        """A try of a stage begins, or was done before."""
        for each in self.shown:
            each.stage, each.place = stage, self.place
        if not runs:
            self.remaining.skip()


@dataclass(frozen=True)
class _Ran:
    """A try that ended: its record and networks; none where it was refused."""

    tried: Tried
    print_: str
    command: str
    record: Record | None = None
    last: Path | None = None
    best: Path | None = None


def _stage(
    config: PipelineConfig,
    stage: Stage,
    left: Mapping[str, Left],
    before: str,
    budget: TrainingBudget,
    here: _Here | None,
) -> Left:
    """Try what the stage's decision asks for until it has enough; ``here`` is None where nothing may run.

    Raises:
        InputError: a try was refused, and there is no other.
        _NotDone: it would have to run.
    """
    start = [*left.values()][-1] if left else None
    baseline = next(iter(left.values())).score if left else None
    gave_way = start is not None and bool(start.kept)  # another than its first try
    seen = StageView(budget, config.max_drop, baseline, start.score if start else None, gave_way)
    ran: list[_Ran] = []
    while (asked := stage.decision.next(seen, [each.tried for each in ran])) is not None:
        if here and asked.flags:
            log.info("%s: %s", " ".join(map(str, asked.flags)), asked.why)
        ran.append(_try(config, stage, asked, left, before, ran, here))
    tried = [each.tried for each in ran]
    kept = stage.decision.kept(seen, tried)
    chosen = ran[len(ran) - 1 if kept is None else kept]
    if chosen.record is None:
        raise InputError(chosen.tried.fact)
    if here:
        here.remaining.ended(stage.name)
    path, score = chosen.last, chosen.tried.score
    if kept is None and start is not None:
        path, score = start.path, start.score
    elif stage.best:
        path, score = chosen.best, chosen.tried.best
    if path is None or not path.is_file():
        raise InputError(f"{chosen.record.folder}: the network this stage left is gone; delete this folder")
    return Left(
        path,
        chosen.record,
        score,
        chosen.print_,
        chosen.command,
        tuple(tried),
        kept,
        chosen.tried.given.taught,
        hardest=ran[0].last,
    )


def _try(
    config: PipelineConfig,
    stage: Stage,
    asked: Try,
    left: Mapping[str, Left],
    before: str,
    ran: Sequence[_Ran],
    here: _Here | None,
) -> _Ran:
    """One run of a stage, done before or now."""
    given = {name: each.path for name, each in left.items()}
    start = None if asked.start is None else ran[asked.start].best
    if asked.hardest:
        start = left[[*left][-1]].hardest
    if start is not None:
        given[[*given][-1]] = start
    print_, flags = _next(config, stage, asked, given, before, first=next(iter(left.values())).path if left else None)
    command = shlex.join(["python3", f"{getattr(stage.script, '__name__', stage.name)}.py", *flags])
    done = _done(print_)
    if here:
        here.begin(stage.name, runs=done is None)
    if done and here:
        log.info("done before: %s", done.folder)
    if not done and not here and not asked.refusable:
        raise _NotDone
    fact = ""
    if done is None and here:
        try:
            done = _run(stage, flags, print_)
        except InputError as error:
            if not asked.refusable:
                raise
            fact = str(error)
            log.info("%s", fact)
    if done is None:
        return _Ran(Tried(asked, None, fact=fact), print_, command)
    score, highest = scores_of(done)
    if here and highest is not None and done.task:
        log.info("%s: %s %.4f", stage.name, done.task.score.heading, highest if stage.best else score)
    last = output_of(done)
    better = last if highest == score else output_of(done, "best*.pt")
    percent = done.metrics.get("after", {}).get("percent") if asked.refusable else None  # what the script found itself
    found = "" if percent is None else f"{percent:g}"
    return _Ran(Tried(asked, score, highest, found, percent), print_, command, done, last, better or last)


def scores_of(record: Record) -> tuple[float | None, float | None]:
    """The score of the network that a run left, and of its best epoch where that is better; None where none is told."""
    name = record.task.headline if record.task else ""
    rows = [*(row for row in record.metrics.values() if isinstance(row, Mapping)), record.metrics]
    score = next((row[name] for row in reversed(rows) if row.get(name) is not None), None)
    if score is None or output_of(record, "best*.pt") is None:
        return score, score
    return score, max(score, record.metrics.get("best", {}).get(name) or score)


def _next(
    config: PipelineConfig,
    stage: Stage,
    asked: Try,
    left: Mapping[str, Path],
    before: str,
    *,
    first: Path | None = None,
) -> tuple[str, list[str]]:
    """The fingerprint of a try on the networks that the stages before left, and the flags to run it with.

    ``first``: the network of the first of them, where a try goes on from another one than what the last of them left.
    """
    given = {"--weights": [*left.values()][-1]} if left else {}
    teacher = stage.teacher if asked.taught else None
    if teacher:
        own = first if first is not None and teacher.stage == next(iter(left)) else left[teacher.stage]
        given |= {"--t_weights": own}
    files = [*stage.files, *given.values()] or [Path(CFG)]
    taught = ["--KDstr", teacher.strategy] if teacher else []
    flags = [*map(str, (*stage.flags, *asked.flags)), *taught, *cli.words_of(config, SHARED)]
    print_ = fingerprint(files, [before, *filter(None, (stage.name, stage.variant)), *flags])
    flags += [word for flag, path in given.items() for word in (flag, str(path))]
    flags += ["--workers", str(config.workers)] if config.workers is not None else []
    flags += ["--name", f"{config.name or 'compress'}-{stage.name}"] if stage.named else []
    return print_, flags


def _done(fingerprint: str) -> Record | None:
    """The finished run of a stage with these inputs and flags, if what it left is still there."""

    def fits(record: Record) -> bool:
        same = record.script != "compress" and record.args.get("fingerprint") == fingerprint
        return same and output_of(record) is not None

    return latest_record(RUNS, "*", fits)


def _run(stage: Stage, flags: list[str], fingerprint: str) -> Record:
    """Run a try, or go on with its training where it was cut."""
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
