"""The import directions drawn in docs/architecture.md, and the rules that keep the house in rooms, checked."""

from __future__ import annotations

import argparse
import ast
import importlib
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

FREE = {"endings", "errors", "files", "jobs", "memory", "numbers", "thresholds"}  # what every room may use
MAY_IMPORT: dict[str, set[str]] = {  # room, or file beside the rooms -> those under utils it may use
    "cli": set(),
    "flag_words": {"cli"},
    "chain": set(),
    "darknet": set(),
    "data": set(),
    "training": set(),
    "reporting": {"darknet"},
    "search": set(),
    "recipes": {"data", "reporting"},
    "dashboard": {"reporting"},
    "task": {"darknet", "data", "reporting"},
    "answers": {"data", "reporting", "task", "temporal"},
    "one_output": {"darknet", "data"},
    "segmentation": {"darknet", "data", "one_output", "reporting", "task"},
    "sequences": {"darknet", "data", "one_output", "reporting", "task"},
    "classification": {"darknet", "data", "one_output", "reporting", "task"},
    "detection": {"darknet", "data", "reporting", "task"},
    "tasks": {"classification", "darknet", "detection", "segmentation", "sequences", "task"},
    "distillation": {"darknet", "data", "detection", "task"},
    "pruning": {"darknet"},
    "temporal": {"darknet"},
    "quantization": {"darknet", "task"},
    "spiking": {"darknet", "quantization", "temporal"},
    "export": {"darknet", "quantization", "spiking"},
    "config": {"cli", "darknet", "distillation", "export", "pruning", "quantization", "search", "spiking", "task"},
}
COMMANDS = {  # modules that are commands -> what they use besides their room's
    "utils/data/__main__.py": {"classification", "cli", "detection", "reporting", "segmentation"},
    "utils/darknet/import.py": {"cli"},
    "utils/spiking/surgery.py": {"cli"},
}
MODELS_MAY_IMPORT = {"darknet", "quantization", "spiking", "temporal"}
TASK_ROOMS = {"classification", "detection", "segmentation", "sequences"}  # each a task; who may know which there are:
TASK_USERS = ("utils/distillation/", "utils/tasks.py", "utils/data/__main__.py", "data/get.py")
NAMESPACES = {"utils/data/__main__.py"}  # a command below the scripts, with parsers of its own
PIPELINE_FILES = 25
FILE_LINES, FUNCTION_LINES = 300, 40  # a function's without its docstring
LONG_FILES = {"utils/export/verify.py": "goes into the hand-off, where one file checks all with nothing but NumPy"}
NOT_ONE_DEFAULT = {  # flag -> why scripts differ in it
    "--timesteps": "a network that was trained as spikes needs few steps, a converted one many",
    "--conf-thres": "AP needs the tail of the scores; a person wants what is sure",
    "--iou-thres": "as --conf-thres",
    "--epochs": "the first of three trainings of a chain is shorter than one that stands alone",
    "--max-drop": "a whole chain may lose more than one of its steps",
    "--patience": "a chain's trainings end when they have enough; train.py sees all its epochs unless it is told",
    "--s": "a chain's follows from the size of its data",
    "--s-schedule": "as --s",
    "--lr": "a chain halves it where a training loses",
    "--percent": "what a strategy cuts without harm on the sample set",
    "--KDstr": "a chain's baseline teaches; train.py has no teacher unless it is given one",
    "--kd": "the same flag",
    "--engine": "two things: what runs the points of a sweep, and the hardware of a hand-off, of which most need none",
    "--quantized": "train.py trains floats where nothing is said",
}

WHAT_EACH_IS_ABOUT = {"--weights", "--cfg"}  # the newest network of a kind, or none
NOTHING = (None, "", False)  # defaults that say that a flag is not given

SCRIPTS = {path.stem for path in ROOT.glob("*.py")} - {"models"}  # pipeline/ is theirs, a floor below
TOPS = {"darkspike", "pipeline", "utils", "models", *SCRIPTS}


def files(*places: str) -> list[Path]:
    """The Python files of some folders; a file stands for itself."""
    found = [ROOT / place for place in places]
    return [path for place in found for path in (sorted(place.rglob("*.py")) if place.is_dir() else [place])]


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imported(path: Path) -> set[str]:
    """Everything a file imports, wherever in it."""
    return {name for node in ast.walk(tree(path)) for name in names(node)}


def names(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.ImportFrom) and node.module:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)


def tops(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


def room_of(path: Path) -> str:
    return path.relative_to(ROOT / "utils").with_suffix("").parts[0]


def rooms(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imported(path) if name.startswith("utils.")} - FREE


def test_every_room_is_on_the_map():
    found = {room_of(path) for path in files("utils")} - {"__init__"}
    assert found == set(MAY_IMPORT) | FREE


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_rooms_import_only_what_the_map_allows(room):
    mine = [path for path in files("utils") if room_of(path) == room]
    assert mine
    for path in mine:
        extra = rooms(path) - MAY_IMPORT[room] - COMMANDS.get(shown(path), set()) - {room}
        assert not extra, f"{path} imports {extra}; {room} may import {MAY_IMPORT[room] or 'nothing'}"


@pytest.mark.parametrize("name", sorted(FREE))
def test_what_is_free_to_all_knows_no_room(name):
    assert not rooms(ROOT / "utils" / f"{name}.py")


def test_no_arrow_runs_back_up():
    for path in files("utils"):
        assert not tops(path) & (TOPS - {"utils"}), f"{path} imports {tops(path) & (TOPS - {'utils'})}"
    for path in files("pipeline"):
        assert not tops(path) & (SCRIPTS | {"darkspike"}), f"{path} imports {tops(path) & (SCRIPTS | {'darkspike'})}"
    for path in files("darkspike"):
        assert not tops(path) & SCRIPTS, f"{path} imports {tops(path) & SCRIPTS}"


def test_models_imports_only_the_kinds_of_network():
    assert rooms(ROOT / "models.py") <= MODELS_MAY_IMPORT
    assert not tops(ROOT / "models.py") & (TOPS - {"utils"})


def test_only_compress_imports_scripts():
    for path in ROOT.glob("*.py"):
        assert not tops(path) & SCRIPTS or path.stem == "compress", f"{path} imports {tops(path) & SCRIPTS}"


def modules() -> dict[str, Path]:
    """Dotted name -> file, of all that the scripts are made of."""
    found = {}
    for path in files("utils", "pipeline", "darkspike", *(f"{name}.py" for name in (*SCRIPTS, "models"))):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def at_import(node: ast.AST) -> Iterator[str]:
    """What is imported when a module is: not what stands in a function or under TYPE_CHECKING."""
    yield from names(node)
    for child in ast.iter_child_nodes(node):
        typed = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if not typed and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from at_import(child)


def test_there_are_no_circles():
    known = modules()
    graph = {
        name: {target for full in at_import(tree(path)) if (target := _module(full, known)) and target != name}
        for name, path in known.items()
    }
    left = dict(graph)
    while ready := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in ready:
            del left[name]
    assert not left, f"import one another: {sorted(_circle(left))}"


def _module(full: str, known: dict[str, Path]) -> str | None:
    """The module that a dotted name is, or is in."""
    return full if full in known else full.rpartition(".")[0] if full.rpartition(".")[0] in known else None


def _circle(left: dict[str, set[str]]) -> list[str]:
    """One circle of those that are left."""
    path = [next(iter(left))]
    while True:
        following = next(target for target in left[path[-1]] if target in left)
        if following in path:
            return path[path.index(following) :]
        path.append(following)


def test_below_the_scripts_there_is_no_namespace():
    for path in files("utils", "pipeline", "darkspike"):
        if shown(path) not in NAMESPACES:
            used = [
                node for node in ast.walk(tree(path)) if getattr(node, "attr", getattr(node, "id", "")) == "Namespace"
            ]
            assert not used, f"{shown(path)}:{used[0].lineno}: a Namespace; take a config"


def test_a_config_is_taken_by_name_and_never_as_a_dict_of_flags():
    for path in files("pipeline", "darkspike"):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef):
                given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                assert not [each for each in given if each.arg == "args"], (
                    f"{shown(path)}:{node.lineno}: {node.name}(args)"
                )


def test_only_its_own_list_knows_a_task():
    for path in files(
        "utils", "pipeline", "darkspike", "models.py", "data/get.py", *(f"{name}.py" for name in SCRIPTS)
    ):
        known = {name for name in imported(path) if name.startswith("utils.")}
        used = {name.split(".")[1] for name in known} & TASK_ROOMS
        own = shown(path).startswith(tuple(f"utils/{room}/" for room in TASK_ROOMS))
        assert not used or own or shown(path).startswith(TASK_USERS), f"{shown(path)} imports {used}; ask the task"


def test_only_a_tasks_room_spells_its_metric():
    for path in files("utils", "pipeline", "darkspike", "models.py", *(f"{name}.py" for name in SCRIPTS)):
        if not shown(path).startswith(tuple(f"utils/{room}/" for room in TASK_ROOMS)):
            assert "map50" not in path.read_text(), f"{shown(path)} spells map50; ask the task for its headline"


def test_no_class_name_is_there_twice():
    places = defaultdict(list)
    for path in files("utils", "pipeline"):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{shown(path)}:{node.lineno}")
    twice = {name: where for name, where in places.items() if len(where) > 1}
    assert not twice


def test_pipeline_stays_small():
    assert len(files("pipeline")) <= PIPELINE_FILES


def test_no_file_is_long():
    long = {shown(path) for path in source() if len(path.read_text().splitlines()) > FILE_LINES}
    assert long == LONG_FILES.keys()


def test_no_function_is_long():
    for path in source():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.FunctionDef):
                assert lines_of(node) <= FUNCTION_LINES, f"{shown(path)}:{node.lineno}: {node.name}, {lines_of(node)}"


def source() -> list[Path]:
    """What the scripts are made of, and they."""
    return files("utils", "pipeline", "darkspike", "models.py", "data/get.py", *(f"{name}.py" for name in SCRIPTS))


def lines_of(function: ast.FunctionDef) -> int:
    """From its name to its end, what a docstring takes not counted."""
    assert function.end_lineno
    text = function.body[0] if ast.get_docstring(function, clean=False) is not None else None
    said = text.end_lineno - text.lineno + 1 if text and text.end_lineno else 0
    return function.end_lineno - function.lineno + 1 - said


def actions() -> Iterator[tuple[str, argparse.Action]]:
    """Every flag of every script, and what the script's parser knows of it."""
    for script in sorted(SCRIPTS):
        for action in importlib.import_module(script).parser()._actions:
            yield from ((option, action) for option in action.option_strings)


def several_defaults(found: list[argparse.Action]) -> bool:
    """Whether scripts differ in what a flag is when it is not given; a help may tell it where the parser has none."""
    given = {str(action.default) for action in found if action.default not in NOTHING}
    rest = [re.search(r"\(default: ([^)]*)\)", str(action.help)) for action in found if action.default in NOTHING]
    told = {match[1] for match in rest if match}
    return len(given | told) > 1 or bool(given and None in rest)


def test_a_flag_has_one_default_in_all_scripts():
    found = defaultdict(list)
    for option, action in actions():
        if option not in WHAT_EACH_IS_ABOUT:
            found[option].append(action)
    assert {option for option, each in found.items() if several_defaults(each)} == NOT_ONE_DEFAULT.keys()


def test_no_star_imports():
    for path in files("utils", "pipeline", "darkspike", "tests", "models.py", *(f"{name}.py" for name in SCRIPTS)):
        assert not [name for name in imported(path) if name.endswith(".*")], path
