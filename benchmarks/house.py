"""How much has to be read: what the house's structure costs a reader, counted, for two checkouts side by side.

  python3 benchmarks/house.py                        this checkout
  python3 benchmarks/house.py ../before .            two, before -> after

Paths are the files (and their lines) that a run really enters, counted by Python's own profiler on drawn squares: from
the threshold on gamma to the cut network (slim_prune.py, the helpers of every room included), and from the flags to the
first optimizer step (train.py, dense; what arranges it: scripts, pipeline/, utils/training/, models.py). "Floors" is
the depth of the longest chain of imports among them. A second count of both leaves out files of which only properties
and constructors are entered, and counts the lines of the functions that are (docs/decisions/133).
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import functools
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType

ROOT = Path(__file__).resolve().parent.parent
BELOW = ("utils", "pipeline")  # scripts
NOT_LAYERS = {"Layer", "ModelSpec"}


def sources(tree: Path, *places: str) -> Iterator[Path]:
    """The Python files of some folders or of the root."""
    for place in places:
        yield from sorted((tree / place).rglob("*.py")) if (tree / place).is_dir() else [tree / place]


def namespace_functions(tree: Path) -> int:
    """Functions below the scripts that take an argparse.Namespace."""
    found = 0
    for path in (path for path in sources(tree, *BELOW) if path.name != "__main__.py"):  # that one is a script
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef):
                notes = [ast.unparse(a.annotation) for a in (*node.args.args, *node.args.kwonlyargs) if a.annotation]
                found += any("Namespace" in note for note in notes)
    return found


def layer_kinds(tree: Path) -> set[str]:
    """Classes of utils/darknet's layers, by the classes they are made from."""
    room = tree / "utils/darknet"
    found = [*room.glob("spec.py"), *sorted(room.glob("*layers.py"))]
    classes = [n for path in found for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ClassDef)]
    bases = {node.name: {ast.unparse(base) for base in node.bases} for node in classes}
    kinds = {"Layer"}
    while grown := {name for name, of in bases.items() if of & kinds} - kinds:
        kinds |= grown
    return kinds - NOT_LAYERS


def layer_matches(tree: Path) -> int:
    """Places that ask which kind a layer is: cases of a match, and calls of isinstance, that name a kind."""
    kinds, found = layer_kinds(tree), 0

    def named(node: ast.AST) -> bool:
        words = {
            ast.unparse(each).split(".")[-1] for each in ast.walk(node) if isinstance(each, ast.Name | ast.Attribute)
        }
        return bool(words & kinds)

    for path in sources(tree, *BELOW, "models.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.match_case):
                found += any(named(each.cls) for each in ast.walk(node.pattern) if isinstance(each, ast.MatchClass))
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance":
                found += named(node.args[1])
    return found


def files_that(tree: Path, pattern: str, *places: str) -> list[str]:
    """Files of some folders in which a pattern stands."""
    return [str(path.relative_to(tree)) for path in sources(tree, *places) if re.search(pattern, path.read_text())]


def lines(tree: Path, names: list[str]) -> int:
    """Lines of some files together."""
    return sum(len((tree / name).read_text().splitlines()) for name in names)


def floors(tree: Path, names: list[str]) -> int:
    """Files on the longest chain of imports among some files."""
    modules = {name.removesuffix(".py").replace("/", "."): name for name in names}
    arrows: dict[str, set[str]] = {}
    for module, name in modules.items():
        text = (tree / name).read_text()
        found = {
            f"{m[1]}.{n.strip()}"
            for m in re.finditer(r"^from (\S+) import \(?([^)\n]+)", text, re.M)
            for n in m[2].split(",")
        }
        found |= {m[1] for m in re.finditer(r"^(?:from|import) (\S+)", text, re.M)}
        arrows[module] = (found & set(modules)) - {module}
    depth: dict[str, int] = {}

    def below(module: str, above: tuple[str, ...] = ()) -> int:
        if module not in depth:
            others = [each for each in arrows[module] if each not in above]
            depth[module] = 1 + max((below(each, (*above, module)) for each in others), default=0)
        return depth[module]

    return max(map(below, modules))


def flag_files(tree: Path) -> list[str]:
    """Files that declare ``--a-bit`` or read what it says; those that are handed bits in a scheme do not count."""
    scripts = [path.name for path in tree.glob("*.py")]
    return files_that(
        tree, r"""["']--a-bit["'],? *(?:type=|$)|\ba_bit: .*= flag\(|\b(?:args|config)\.a_bit\b""", *BELOW, *scripts
    )


def entered(tree: Path, job: str) -> dict[str, int]:
    """The files a job enters, in a process of its own, each with the lines of its functions that are."""
    command = [sys.executable, __file__, "--trace", job, str(tree)]
    env = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as place:
        done = subprocess.run(command, cwd=place, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return dict(json.loads(done.stdout.splitlines()[-1]))


class EndOfTrace(Exception):  # noqa: N818 - no error
    """The job has come to where the trace ends."""


def attribute(frame: FrameType) -> bool:
    """Whether a call looks like none where it stands: of a constructor, of a property, or of what that is made of."""
    if frame.f_code.co_name in ("__init__", "__post_init__"):
        return True
    inner: FrameType | None = frame
    while inner and inner.f_code.co_filename == frame.f_code.co_filename:
        own = inner.f_locals.get("self")
        found = inspect.getattr_static(type(own), inner.f_code.co_name, None) if own is not None else None
        if isinstance(found, property | functools.cached_property):
            return True
        inner = inner.f_back
    return False


def length(codes: set[CodeType]) -> int:
    """Lines of functions, each once, those within others not counted again."""
    ends = {code: max(line for *_, line in code.co_lines() if line) for code in codes}
    return len({line for code, end in ends.items() for line in range(code.co_firstlineno, end + 1)})


def trace(tree: Path, job: str) -> dict[str, int]:
    """Run a script on drawn squares in this folder; the files entered between the functions that ``JOBS`` names.

    Each with the lines of its functions that are, 0 where these are properties and constructors alone.
    """
    import importlib

    sys.path.insert(0, str(tree))
    importlib.import_module("tests.scenes").write_scenes(Path.cwd(), train=8, valid=4)
    for words in PREPARE[job]:
        call(words)
    begin, end, rooms = JOBS[job]
    found: dict[str, set[CodeType]] = {}
    on = False

    @functools.cache
    def place_of(name: str) -> str:
        """A file's place in this checkout, "" if it has none."""
        path = Path(name)
        return path.relative_to(tree).as_posix() if path.is_relative_to(tree) and ".venv" not in path.parts else ""

    def look(frame: FrameType, event: str, _: object) -> None:
        nonlocal on
        name, shown = frame.f_code.co_name, place_of(frame.f_code.co_filename)
        first = name == begin and shown.startswith("pipeline/")
        if event == "call" and on and name == end:
            raise EndOfTrace
        if event == "call" and first:
            on = True
        if event == "call" and on and shown and shown.startswith(rooms):
            codes = found.setdefault(shown, set())
            if frame.f_code not in codes and not attribute(frame):
                codes.add(frame.f_code)
        if event == "return" and first:
            on = False

    sys.setprofile(look)
    with contextlib.suppress(EndOfTrace):
        call(SCRIPTS[job])
    sys.setprofile(None)
    script = SCRIPTS[job].split()[0] + ".py"
    return {script: lines(tree, [script])} | {name: length(codes) for name, codes in found.items()}


def call(words: str) -> None:
    """Run a script with flags in this process."""
    import importlib

    name, *flags = words.split()
    script = importlib.import_module(name)
    with contextlib.redirect_stdout(sys.stderr):
        script.run(script.parser().parse_args([*flags, "--data", "set.data", "--device", "cpu", "--workers", "0"]))


SPARSE = "train --cfg net.cfg -sr --epochs 1 --name sparse"
PREPARE = {"cut": [SPARSE], "step": []}
SCRIPTS = {
    "cut": "slim_prune --weights weights/last_sparse.pt --percent 0.3 --force --recalibrate 0",
    "step": "train --cfg net.cfg --epochs 1",
}
# first function (of pipeline/), last one, what counts: the cut is followed everywhere, a step in what arranges it
JOBS = {"cut": ("decide", "", ("",)), "step": ("train", "_init_group", ("pipeline", "utils/training", "models"))}


def without_attributes(found: dict[str, int]) -> str:
    """Files that more is entered of than properties and constructors, and the lines of what is."""
    return f"{sum(count > 0 for count in found.values())} / {sum(found.values()):,}"


def table(trees: list[Path]) -> list[list[str]]:
    """A row a measure, a column a checkout."""
    rows: dict[str, list[str]] = {}

    def add(name: str, value: object) -> None:
        rows.setdefault(name, []).append(str(value))

    for tree in trees:
        cut, step = entered(tree, "cut"), entered(tree, "step")
        add("gamma -> cut: files / lines", f"{len(cut)} / {lines(tree, list(cut)):,}")
        add("  cut: files without attributes / lines of functions", without_attributes(cut))
        add(
            "a step of training: files on floors / lines",
            f"{len(step)} on {floors(tree, list(step))} / {lines(tree, list(step)):,}",
        )
        add("  step: files without attributes / lines of functions", without_attributes(step))
        add("files that declare --a-bit or read it", len(flag_files(tree)))
        add("functions below the scripts that take a Namespace", namespace_functions(tree))
        add("files in pipeline/", len(list(sources(tree, "pipeline"))))
        known = r"utils\.detection"
        add(
            "pipeline files that know boxes",
            len(files_that(tree, known, "pipeline")) - (tree / "pipeline/tasks.py").exists(),
        )
        add("places that match on layer kinds", layer_matches(tree))
    return [[name, *values] for name, values in rows.items()]


def main() -> None:
    """Print the table."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("trees", nargs="*", type=Path, default=[ROOT])
    flags.add_argument("--trace", choices=sorted(JOBS), help=argparse.SUPPRESS)
    args = flags.parse_args()
    if args.trace:
        print(json.dumps(trace(args.trees[0].resolve(), args.trace)))
        return
    for row in table([tree.resolve() for tree in args.trees]):
        print(f"{row[0]:<52}", " -> ".join(row[1:]))


if __name__ == "__main__":
    main()
