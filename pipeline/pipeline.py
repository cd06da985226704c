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
from utils.chain.decisions import Once
from utils.chain.tries import Decision, StageView, Tried, Try
from utils.config.pipeline import PipelineConfig
from utils.config.run import CFG, RunConfig
from utils.config.train import AUTO, TrainConfig
from utils.darknet.network import load_checkpoint
from utils.endings import Lines
from utils.errors import InputError, UnsurvivableError
from utils.files import names_kept
from utils.flag_words import words_of
from utils.reporting.files import fingerprint
from utils.reporting.record import Record, finish_record, latest_record, new_run_folder, start_record
from utils.reporting.runs import RUNS, WEIGHTS, check_alone, output_of, scores_of

log = logging.getLogger(__name__)

REFUSED = "refused"  # the metric of a try that ended with why nothing can be cut
# flags of every script that decide the outcome
SHARED = ("data", "batch_size", "img_size", "device", "cache", "jpeg", "gray_scale", "resize", "seed")


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
    with console(Lines, remaining, verbose=config.verbose) as shown:
        for number, stage in enumerate(stages, 1):
            place = f"stage {number} of {len(stages)}, {stage.name}"
            log.info("\n== %s", place)
            try:
                left[stage.name] = _Attempts(config, stage, left, print_, budget, _Here(place, shown, remaining)).end()
            except KeyboardInterrupt as error:
                again = shlex.join(["python3", "compress.py", *words_of(config, config.given)])
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
            left[stage.name] = _Attempts(config, stage, left, print_, budget, None).end()
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


@dataclass
class _Attempts:
    """The tries of one stage, behind the stages that ``left`` their networks.

    ``before`` is the fingerprint of what came before; ``here`` is None where nothing may run.
    """

    config: PipelineConfig
    stage: Stage
    left: Mapping[str, Left]
    before: str
    budget: TrainingBudget
    here: _Here | None
    ran: list[_Ran] = field(default_factory=list)

    def end(self) -> Left:
        """Try what the stage's decision asks for until it has enough.

        Raises:
            InputError: a try was refused, and there is no other.
            _NotDone: it would have to run.
        """
        start = [*self.left.values()][-1] if self.left else None
        before = start.score if start else None
        hardest = start.tries[0].score if start and start.kept else None  # another than its first try
        first = next(iter(self.left.values()), None)
        baseline, precision = (first.score, first.record.args.get("precision", AUTO)) if first else (None, AUTO)
        seen = StageView(self.budget, self.config.max_drop, baseline, before, hardest, precision)
        decision = self.stage.decision
        while (asked := decision.next(seen, [each.tried for each in self.ran])) is not None:
            if self.here and asked.flags:
                log.info("%s: %s", " ".join(map(str, asked.flags)), asked.why)
            self.ran.append(self._try(asked))
        return self._left(start, decision.kept(seen, [each.tried for each in self.ran]))

    def _left(self, start: Left | None, kept: int | None) -> Left:
        """What the stage leaves: of the try that is kept, or the network that it began with."""
        chosen = self.ran[-1 if kept is None else kept]
        if chosen.record is None:
            raise InputError(chosen.tried.fact)
        if self.here:
            self.here.remaining.ended(self.stage.name)
        path, score = (chosen.best, chosen.tried.best) if self.stage.best else (chosen.last, chosen.tried.score)
        if kept is None and start is not None:
            path, score = start.path, start.score
        if path is None or not path.is_file():
            raise InputError(f"{chosen.record.folder}: the network this stage left is gone; delete this folder")
        tries, taught = tuple(each.tried for each in self.ran), chosen.tried.given.taught
        first = self.ran[0].last
        return Left(
            path, chosen.record, score, chosen.print_, chosen.command, tries, kept, taught, self.stage.best, first
        )

    def _try(self, asked: Try) -> _Ran:
        """One run of the stage, done before or now."""
        print_, flags = self._flags(asked)
        command = shlex.join(["python3", f"{getattr(self.stage.script, '__name__', self.stage.name)}.py", *flags])
        done = _done(print_)
        if self.here is None and done is None:
            raise _NotDone
        if self.here:
            self.here.begin(self.stage.name, runs=done is None)
        if done is None:
            done = _run(self.stage, flags, print_, refusable=asked.refusable)
        elif self.here:
            log.info("done before: %s", done.folder)
        if REFUSED not in done.metrics:
            return self._ended(asked, done, print_, command)
        if self.here:
            log.info("%s", done.metrics[REFUSED])
        return _Ran(Tried(asked, None, fact=done.metrics[REFUSED]), print_, command)

    def _ended(self, asked: Try, done: Record, print_: str, command: str) -> _Ran:
        """The try of a run that came to its end."""
        score, highest = scores_of(done)
        if self.here and highest is not None and done.task:
            shown = highest if self.stage.best else score
            log.info("%s: %s %.4f", self.stage.name, done.task.score.heading, shown)
        last = output_of(done)
        better = last if highest == score else output_of(done, "best*.pt")
        before, after = (done.metrics.get(each, {}) if asked.refusable else {} for each in ("before", "after"))
        percent = after.get("percent")  # what the script found
        found, left = ("", None) if percent is None else (f"{percent:g}", after["params"] / before["params"])
        return _Ran(Tried(asked, score, highest, found, percent, left), print_, command, done, last, better or last)

    def _flags(self, asked: Try) -> tuple[str, list[str]]:
        """The fingerprint of a try on the networks that the stages before left, and the flags to run it with."""
        config, stage, names = self.config, self.stage, [*self.left]
        start = None if asked.start is None else self.ran[asked.start].best
        if asked.hardest:
            start = self.left[names[-1]].hardest
        given = {"--weights": start or self.left[names[-1]].path} if names else {}
        teacher = stage.teacher if asked.taught else None
        if teacher:
            again = start is not None and teacher.stage == names[-1] != names[0]  # the last of them, with another start
            given |= {"--t_weights": start if start and again else self.left[teacher.stage].path}
        files = [*stage.files, *given.values()] or [Path(CFG)]
        taught = ["--KDstr", teacher.strategy] if teacher else []
        flags = [*map(str, (*stage.flags, *asked.flags)), *taught, *words_of(config, SHARED)]
        print_ = fingerprint(files, [self.before, *filter(None, (stage.name, stage.variant)), *flags])
        flags += [word for flag, path in given.items() for word in (flag, str(path))]
        flags += ["--workers", str(config.workers)] if config.workers is not None else []
        flags += ["--name", f"{config.name or 'compress'}-{stage.name}"] if stage.named else []
        return print_, flags


def _done(fingerprint: str) -> Record | None:
    """The finished run of a stage with these inputs and flags: refused, or what it left is still there."""

    def fits(record: Record) -> bool:
        same = record.script != "compress" and record.args.get("fingerprint") == fingerprint
        return same and (REFUSED in record.metrics or output_of(record) is not None)

    return latest_record(RUNS, "*", fits)


def _run(stage: Stage, flags: list[str], fingerprint: str, *, refusable: bool) -> Record:
    """Run a try, or go on with its training where it was cut; a cut that its search forbids is a record too."""
    # into the record and the checkpoint, to be known by
    config: RunConfig = replace(stage.script.parser().parse_args(flags), fingerprint=fingerprint)
    if isinstance(config, TrainConfig):
        saved = {path: load_checkpoint(path).training for path in WEIGHTS.glob(f"last_{config.name}*.pt")}
        cut = [path for path, state in saved.items() if state and _begun_with(state) == fingerprint]
        newest = max(cut, key=lambda path: path.stat().st_mtime, default=None)
        if newest is not None:  # known by its fingerprint: paths may be others than they were
            config = replace(config, resume=str(newest), given=())
    try:
        return stage.script.run(config)
    except UnsurvivableError as error:
        if not refusable:
            raise
        script = getattr(stage.script, "__name__", stage.name)
        folder = new_run_folder(RUNS, script, "-".join(filter(None, (config.name, REFUSED))))
        begun = start_record(folder, script=script, args=config.values, seed=config.seed)
        return finish_record(begun, metrics={REFUSED: str(error)})


def _begun_with(state: Mapping[str, Any]) -> Any:
    """The fingerprint of the stage that a cut training belongs to."""
    return (state.get("config") or state["args"]).get("fingerprint")  # before there were configs: the flags
