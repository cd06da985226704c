"""A recipe, step by step: what was finished is kept, what was cut goes on, and ours stands beside theirs."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.errors import InputError
from utils.files import write_text
from utils.recipes.recipe import BLANK, LEFT, Expected, PublishedRow, RecipeStep
from utils.reporting.record import Record, read_record
from utils.reporting.tables import plain_table

log = logging.getLogger(__name__)

RUNS, WEIGHTS = Path("runs"), Path("weights")
LEDGER = RUNS / "recipes"  # <run>.json: the words of a step, before they are run

Start = Callable[[Sequence[str], int], None]  # the words behind python3 and how many processes; raises InputError
Extra = Callable[[Sequence[str]], Sequence[str]]


def as_written(words: Sequence[str]) -> Sequence[str]:
    """Nothing is added to a command."""
    return ()


@dataclass(frozen=True)
class Outcome:
    """Ours beside theirs; ``ours`` is None where the step's record has no such number."""

    expected: Expected
    ours: float | None

    @property
    def verdict(self) -> str:
        """Whether ours is within the tolerance."""
        if self.ours is None:
            return "not in the record"
        worse = self.expected.value - self.ours
        worse = -worse if self.expected.less_is_better else worse
        return (
            "better" if worse < -self.expected.tolerance else "worse" if worse > self.expected.tolerance else "within"
        )


def follow(recipe: PublishedRow, start: Start, *, processes: int | None = None, extra: Extra = as_written) -> None:
    """Run what is not finished yet.

    Args:
        recipe: to follow, in the present folder.
        start: runs a command.
        processes: in the place of the recipe's own numbers, where it has more than one.
        extra: what follows a command's own words.

    Raises:
        InputError: a file that it needs is not there, or a command failed.
    """
    for path, where in recipe.needs.items():
        if not Path(path).exists():
            raise InputError(f"{recipe.name}: {path} is not there; {where}")
    if not Path(recipe.data).exists():
        raise InputError(f"{recipe.name}: {recipe.data} is not there; {recipe.fetch or 'make it'}")
    for number, step in enumerate(recipe.steps, 1):
        words = words_of(recipe, step, extra)
        place = f"{recipe.name}, step {number} of {len(recipe.steps)}, {step.name}"
        if is_done(recipe, step, words):
            log.info("%s: was finished before", place)
            continue
        again = _goes_on(recipe, step, words)
        log.info("%s: %s", place, shown(again or words, step, processes))
        write_text(_ledger(recipe, step), json.dumps({"words": words}, indent=1) + "\n")
        start(again or words, _processes(step, processes))
        if not is_done(recipe, step, words):
            raise InputError(f"{place}: ended without what it should leave; look at what it said, then run this again")


def words_of(recipe: PublishedRow, step: RecipeStep, extra: Extra = as_written) -> list[str]:
    """The command of a step, with the files that earlier ones left and its own ``--name``."""
    steps = {each.name: each for each in recipe.steps}

    def left(word: str) -> str:
        for name, kind in BLANK.findall(word):
            word = word.replace(f"{{{name}.{kind}}}", str(_output(recipe, steps[name], kind)))
        return word

    words = [left(word) for word in step.words]
    name = [] if step.makes else ["--name", run_name(recipe, step)]
    return [*words, *extra(words), *name]


def run_name(recipe: PublishedRow, step: RecipeStep) -> str:
    """What the step's run is called."""
    return step.run or f"{recipe.name}-{step.name}"


def shown(words: Sequence[str], step: RecipeStep, processes: int | None = None) -> str:
    """The command as it is typed."""
    count = _processes(step, processes)
    return " ".join([f"torchrun --nproc_per_node={count} --" if count > 1 else "python3", *words])


def is_done(recipe: PublishedRow, step: RecipeStep, words: Sequence[str]) -> bool:
    """Whether the step was finished with these words, and what it left is still there."""
    if _begun(recipe, step) != list(words):
        return False
    if step.makes:
        return Path(step.makes).is_file()
    record = record_of(recipe, step)
    return record is not None and record.finished and all(path.exists() for path in record.paths("*.pt"))


def record_of(recipe: PublishedRow, step: RecipeStep) -> Record | None:
    """The newest run that has the step's name."""
    name, script = run_name(recipe, step), Path(step.words[0]).stem
    found = [read_record(path) for path in RUNS.glob(f"{script}-{name}*/record.json")]
    mine = [record for record in found if record.args.get("name") == name]
    return max(mine, key=lambda record: record.started, default=None)


def outcomes(recipe: PublishedRow) -> list[Outcome]:
    """Every published value beside ours."""
    steps = {step.name: step for step in recipe.steps}
    return [Outcome(each, _number(record_of(recipe, steps[each.step]), each.metric)) for each in recipe.expected]


def table(recipe: PublishedRow, found: Sequence[Outcome]) -> str:
    """Ours beside theirs, a row a value."""
    rows = [["", "theirs", "tolerance", "ours", "difference", ""]]
    for each in found:
        theirs, ours = each.expected, "-" if each.ours is None else f"{each.ours:.4g}"
        less = "" if each.ours is None else f"{each.ours - theirs.value:+.4g}"
        rows.append([theirs.what, f"{theirs.value:.4g}", f"{theirs.tolerance:g}", ours, less, each.verdict])
    return plain_table(recipe.name, rows)


def _number(record: Record | None, metric: str) -> float | None:
    value: Any = record.metrics if record else None
    for key in metric.split("."):
        value = value.get(key) if isinstance(value, dict) else None
    return float(value) if isinstance(value, int | float) else None


def _output(recipe: PublishedRow, step: RecipeStep, kind: str) -> Path:
    record = record_of(recipe, step)
    found = record.paths(LEFT[kind]) if record else []
    if not found:
        raise InputError(f"{recipe.name}: step {step.name} left no {LEFT[kind]}; run it again with other settings")
    return found[0]


def _ledger(recipe: PublishedRow, step: RecipeStep) -> Path:
    return LEDGER / f"{run_name(recipe, step)}.json"


def _begun(recipe: PublishedRow, step: RecipeStep) -> list[str] | None:
    path = _ledger(recipe, step)
    return list(json.loads(path.read_text(encoding="utf-8"))["words"]) if path.is_file() else None


def _goes_on(recipe: PublishedRow, step: RecipeStep, words: Sequence[str]) -> list[str] | None:
    """The words that go on with a training that was cut; None where there is none of these words."""
    record = record_of(recipe, step)
    if record is None or record.finished or _begun(recipe, step) != list(words) or words[0] != "train.py":
        return None
    last = WEIGHTS / f"last_{record.folder.name.removeprefix('train-')}.pt"
    return ["train.py", "--resume", str(last)] if last.is_file() else None


def _processes(step: RecipeStep, processes: int | None) -> int:
    return step.processes if step.processes == 1 else processes or step.processes
