"""Follow a recipe: a published row as commands, ours printed beside theirs.

python3 -m darkspike.recipe --list
python3 -m darkspike.recipe oxfordhand-yolov3-normal
python3 -m darkspike.recipe oxfordhand-yolov3-normal --show
python3 -m darkspike.recipe oxfordhand-yolov3-normal --smoke

Run it again after an interruption: finished steps are kept, a training that was cut goes on. Recipes that begin alike
share their first steps. The end is a table, and runs/recipe-NAME/record.json; exit code 3 where ours is worse than
theirs by more than the tolerance. --smoke goes through every command on a handful of made-up images and thin networks,
which says that the commands run, and nothing of what they reach. No recipe was run at full size yet.
"""

from __future__ import annotations

import argparse
import logging
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import chdir, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from utils.cli import OneLineParser, positive
from utils.endings import ended
from utils.errors import InputError, NotMet
from utils.recipes.follow import Outcome, follow, outcomes, shown, table
from utils.recipes.recipe import BLANK, PublishedRow, names, read_recipe

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent
log = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = OneLineParser(
        prog="recipe",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    flags.add_argument("names", nargs="*", metavar="NAME", help="of recipes, or .toml files; with --smoke none: all")
    flags.add_argument("--list", action="store_true", help="name them all, and what they are")
    flags.add_argument("--show", action="store_true", help="print the commands and what is expected; run nothing")
    flags.add_argument(
        "--smoke", action="store_true", help="on a handful of made-up images, in a folder that goes away"
    )
    flags.add_argument(
        "--processes", type=positive, metavar="N", help="of a training that has several, in the place of the recipe's"
    )
    return flags


def run(recipe: PublishedRow, processes: int | None = None) -> list[Outcome]:
    """Follow a recipe in the present folder and print ours beside theirs.

    Raises:
        InputError: something it needs is not there, or a command failed.
        NotMet: ours is worse than theirs by more than the tolerance.
    """
    from utils.reporting.record import finish_record, new_run_folder, start_record

    follow(recipe, command, processes=processes)
    folder = new_run_folder("runs", "recipe", recipe.name)
    record = start_record(folder, script="recipe", args={"name": recipe.name, "processes": processes})
    found = outcomes(recipe)
    rows = [{"what": e.expected.what, "theirs": e.expected.value, "ours": e.ours, "verdict": e.verdict} for e in found]
    finish_record(record, metrics={"rows": rows})
    log.info("%s\n%s", table(recipe, found), f"theirs: {recipe.source}; ours: {folder}")
    worse = [each.expected.what for each in found if each.verdict not in ("within", "better")]
    if worse:
        raise NotMet(f"{recipe.name}: worse than theirs by more than the tolerance: {', '.join(worse)}")
    return found


def command(words: Sequence[str], processes: int) -> None:
    """Run a command to its end; what it says is seen.

    Raises:
        InputError: it failed.
    """
    first = [
        sys.executable,
        *(["-m", "torch.distributed.run", f"--nproc_per_node={processes}", "--"] * (processes > 1)),
    ]
    rest = list(words) if words[0] == "-m" else [str(ROOT / words[0]), *words[1:]]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    code = subprocess.call([*first, *rest], env=os.environ | {"PYTHONPATH": paths})
    if code:
        raise InputError(f"{words[0]} ended with code {code}; mend what it said, then run this again to go on")


def smoke(recipe: PublishedRow) -> list[Outcome]:
    """Go through every command on made-up data, in this process and a folder that goes away.

    Raises:
        InputError: a command fails, or a number that is expected is not in what it leaves.
    """
    from utils.recipes.smoke import brief, prepare

    with tempfile.TemporaryDirectory(prefix="recipe-") as place, quiet():
        prepare(recipe, ROOT, Path(place), random_weights)
        with chdir(place):
            follow(recipe, in_this_process, extra=brief)
            found = outcomes(recipe)
    missing = [f"{each.expected.step}: {each.expected.metric}" for each in found if each.ours is None]
    if missing:
        raise InputError(f"{recipe.name}: no such number in the record of step {', '.join(missing)}; mend the recipe")
    return found


def in_this_process(words: Sequence[str], processes: int) -> None:
    """What ``command`` does, without the seconds that a new process takes; always as one."""
    if words[0] == "-m":
        module = sys.modules.get(words[1]) or __import__(words[1], fromlist=["main"])
        module.main(words[2:])
        return
    script = runpy.run_path(str(ROOT / words[0]))
    script["run"](script["parser"]().parse_args(list(words[1:])))


def random_weights(cfg: Path, weights: Path) -> Path:
    """Darknet weights of a network that knows nothing."""
    from models import Darknet, network_of
    from utils.darknet.cfg import read_cfg
    from utils.darknet.weights import write_weights

    return write_weights(weights, network_of(Darknet(read_cfg(cfg))))


@contextmanager
def quiet() -> Iterator[None]:
    """Only warnings are said meanwhile."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.WARNING)
    try:
        yield
    finally:
        root.setLevel(before)


def show(recipe: PublishedRow) -> str:
    """The commands as they are typed, and what is expected of them; a file that a step will leave stands as a name."""
    lines = [f"{recipe.title} ({recipe.kind})", f"data: {recipe.data}; {recipe.fetch}"]
    lines += [f"needs {path}: {where}" for path, where in recipe.needs.items()]
    for step in recipe.steps:
        plain = BLANK.sub(lambda match: f"<{match[2]} of {match[1]}>", step.command)
        lines.append(f"{step.name}: {shown(plain.split(), step)}")
    lines += [
        f"expected: {each.what} {each.value:.4g}, within {each.tolerance:g}; {each.source or recipe.source}"
        for each in recipe.expected
    ]
    return "\n".join([*lines, *(f"note: {note}" for note in recipe.notes)])


def act(which: Sequence[str], *, listed: bool, shown: bool, smoked: bool, processes: int | None) -> None:
    """What the command line asks for.

    Raises:
        InputError: flags of which one alone can act.
    """
    asked = [flag for flag, said in (("--list", listed), ("--show", shown), ("--smoke", smoked)) if said]
    if len(asked) > 1:
        raise InputError(f"{asked[0]} and {asked[1]}: each is all that is done; leave one of them away")
    if asked and processes is not None:
        raise InputError(f"--processes and {asked[0]}: nothing is trained in processes there; leave one of them away")
    if listed and which:
        raise InputError(f"{which[0]} and --list: it names all recipes; leave one of them away")
    if listed:
        for name in names():
            recipe = read_recipe(name)
            log.info("%-40s %-13s %s", name, recipe.kind, recipe.title)
        return
    if not which and not smoked:
        raise InputError("which recipe? give a NAME, or --list to see them")
    for recipe in [read_recipe(name) for name in which or names()]:
        if shown:
            log.info("%s", show(recipe))
        elif smoked:
            found = smoke(recipe)
            log.info("%s: %d commands ran, %d numbers are there", recipe.name, len(recipe.steps), len(found))
        else:
            run(recipe, processes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; exit code 2 for a mistake, 3 where ours is worse."""
    given = parser().parse_args(arguments)
    work = partial(act, given.names, listed=given.list, shown=given.show, smoked=given.smoke, processes=given.processes)
    return ended(work, "recipe", left="run this again to go on")


if __name__ == "__main__":
    sys.exit(main())
