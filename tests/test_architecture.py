"""The import directions drawn in docs/architecture.md, checked."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

MAY_IMPORT: dict[str, set[str]] = {  # room -> rooms under utils it may use
    "darknet": set(),
    "data": set(),
    "detection": {"darknet"},
    "training": set(),
    "pruning": {"darknet"},
    "distillation": {"darknet", "detection"},
    "quantization": {"darknet"},
    "spiking": {"darknet", "quantization"},
    "export": {"darknet", "quantization", "spiking"},
    "reporting": {"darknet"},
}
FREE = {"errors", "files"}  # what every room may use
MODELS_MAY_IMPORT = {"darknet", "quantization", "spiking"}
SCRIPTS = {path.stem for path in ROOT.glob("*.py")} - {"models"}  # pipeline/ is theirs, a floor below


def imported(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names


def rooms(path: Path) -> set[str]:
    return {name.split(".")[1] for name in imported(path) if name.startswith("utils.")} - FREE


def test_every_room_is_on_the_map():
    assert {path.parent.name for path in (ROOT / "utils").glob("*/__init__.py")} == set(MAY_IMPORT)


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_rooms_import_only_what_the_map_allows(room):
    files = list((ROOT / "utils" / room).rglob("*.py"))
    assert files
    for path in files:
        extra = rooms(path) - MAY_IMPORT[room] - {room}
        assert not extra, f"{path} imports {extra}; {room} may import {MAY_IMPORT[room] or 'nothing'}"


def test_no_room_imports_a_script_or_models():
    for path in (ROOT / "utils").rglob("*.py"):
        roots = {name.split(".")[0] for name in imported(path)}
        assert not roots & (SCRIPTS | {"models"}), f"{path} imports {roots & (SCRIPTS | {'models'})}"


def test_models_imports_only_the_three_kinds_of_network():
    assert rooms(ROOT / "models.py") <= MODELS_MAY_IMPORT


def test_pipeline_imports_no_script():
    for path in (ROOT / "pipeline").rglob("*.py"):
        assert not {name.split(".")[0] for name in imported(path)} & SCRIPTS, path


def test_only_compress_imports_scripts():
    for path in ROOT.glob("*.py"):
        roots = {name.split(".")[0] for name in imported(path)} & SCRIPTS
        assert not roots or path.stem == "compress", f"{path} imports {roots}"


def test_no_star_imports():
    for path in [*ROOT.glob("*.py"), *(ROOT / "utils").rglob("*.py"), *(ROOT / "tests").rglob("*.py")]:
        assert not [name for name in imported(path) if name.endswith(".*")], path
