"""A recipe: a row of a published table as commands of ours, with the value that it has there.

    title = "YOLOv3 on Oxford Hand, normal pruning of 80 %"      recipes/NAME.toml
    kind = "pruning"
    data = "data/oxfordhand.data"
    source = "where the row stands"
    [[steps]]
    name = "sparse"
    command = "train.py --weights {baseline.best} --data data/oxfordhand.data -sr --epochs 300 --batch-size 32"
    processes = 2
    [[expected]]
    what = "mAP@.5:.95 after the cut"
    step = "pruned"
    metric = "after.map"
    value = 0.402
    tolerance = 0.02

``{step.best}``, ``{step.last}`` and ``{step.network}`` are files that an earlier step left. Steps of one ``run`` are
the same in several recipes and are run once.
"""

from __future__ import annotations

import math
import re
import shlex
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

from utils.errors import InputError
from utils.files import no_file

PLACE = Path(__file__).resolve().parent.parent.parent / "recipes"
LAYOUTS = ("", "events", "event-boxes")
KINDS = ("training", "pruning", "quantisation", "distillation", "conversion", "direct")
LEFT = {"best": "best*.pt", "last": "last*.pt", "network": "*.pt"}  # what a step left -> its files' pattern
BLANK = re.compile(r"\{([\w-]+)\.(\w+)\}")

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class RecipeStep:
    """One command.

    ``run`` is the ``--name`` that it is given, ``makes`` the file that a command without a record writes.
    """

    name: str
    command: str
    processes: int = 1
    run: str = ""
    makes: str = ""

    @property
    def words(self) -> list[str]:
        """Of the command, placeholders among them."""
        return shlex.split(self.command)


@dataclass(frozen=True, kw_only=True)
class Expected:
    """A published value, and how much worse ours may be; ``metric`` is its place in the step's record, with dots."""

    what: str
    step: str
    metric: str
    value: float
    tolerance: float
    source: str = ""
    less_is_better: bool = False


@dataclass(frozen=True, kw_only=True)
class PublishedRow:
    """A row of a table.

    ``needs`` are files that have to be there, and where they are to be had; ``notes`` what the source leaves open and
    what is done here instead; ``classes`` how many there are where ``data`` is a folder, ``layout`` of what: ""
    pictures in a folder a class, ``events`` recordings in such, ``event-boxes`` recordings with boxes.
    """

    name: str
    title: str
    kind: str
    data: str
    source: str
    steps: tuple[RecipeStep, ...]
    expected: tuple[Expected, ...]
    fetch: str = ""
    needs: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    classes: int = 0
    layout: str = ""


def names(place: Path = PLACE) -> list[str]:
    """Of all recipes, sorted."""
    return sorted(path.stem for path in place.glob("*.toml"))


def read_recipe(name: str, place: Path = PLACE) -> PublishedRow:
    """The recipe of a name, or in a file.

    Raises:
        InputError: there is none, or something in it is missing, unknown or contradicts itself.
    """
    path = Path(name) if name.endswith(".toml") else place / f"{name}.toml"
    if no_file(path):
        raise InputError(f"{name}: no such recipe; python3 -m darkspike.recipe --list names them")
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: is no TOML ({error}); mend that line") from error
    steps = tuple(_made(RecipeStep, each, f"{path} step") for each in _tables(content, "steps", path))
    expected = tuple(_made(Expected, each, f"{path} expected") for each in _tables(content, "expected", path))
    rest = {key: value for key, value in content.items() if key not in LISTS}
    rest["notes"] = tuple(rest.get("notes", ()))
    recipe = _made(PublishedRow, rest | {"name": path.stem, "steps": steps, "expected": expected}, str(path))
    _check(recipe, path)
    return recipe


LISTS = ("steps", "expected")


def _tables(content: Mapping[str, Any], key: str, path: Path) -> Sequence[Mapping[str, Any]]:
    found = content.get(key)
    if not isinstance(found, list) or not found or not all(isinstance(each, dict) for each in found):
        raise InputError(f"{path}: has no [[{key}]]; write one")
    return found


def _made(kind: type[T], given: Mapping[str, Any], place: str) -> T:
    known = {each.name: each for each in fields(kind)}  # type: ignore[arg-type]
    strange = sorted(given.keys() - known.keys())
    if strange:
        raise InputError(f"{place}: {strange[0]} is no key; known are {', '.join(known)}")
    lacking = [n for n, each in known.items() if n not in given and each.default is MISSING is each.default_factory]
    if lacking:
        raise InputError(f"{place}: {lacking[0]} is missing; write it")
    return kind(**given)


def _check(recipe: PublishedRow, path: Path) -> None:
    if recipe.kind not in KINDS:
        raise InputError(f"{path}: kind = {recipe.kind!r}; one of {', '.join(KINDS)}")
    if recipe.layout not in LAYOUTS:
        raise InputError(f"{path}: layout = {recipe.layout!r}; events or event-boxes, or leave it away")
    before: list[str] = []
    for step in recipe.steps:
        for name, left in BLANK.findall(step.command):
            if name not in before or left not in LEFT:
                raise InputError(
                    f"{path}: step {step.name} asks for {{{name}.{left}}}; it can have {', '.join(LEFT)} of "
                    f"{', '.join(before) or 'no step, it is the first'}"
                )
        if step.name in before:
            raise InputError(f"{path}: two steps are called {step.name}; give one another name")
        if not isinstance(step.processes, int) or step.processes < 1:
            raise InputError(f"{path}: step {step.name}: processes = {step.processes!r}; a whole number from 1 up")
        before.append(step.name)
    for each in recipe.expected:
        if each.step not in before:
            raise InputError(f"{path}: expected {each.what} of step {each.step}; steps are {', '.join(before)}")
        numbers = (each.value, each.tolerance)
        if not all(isinstance(n, int | float) and math.isfinite(n) for n in numbers) or each.tolerance < 0:
            raise InputError(f"{path}: expected {each.what}: value and tolerance are numbers, not {numbers}")
