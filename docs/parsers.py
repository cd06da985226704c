"""The command lines of this repository, found and asked rather than written down.

A command is a file (``train.py``, ``benchmarks/pruning.py``) or a module (``-m utils.data``). What has a function
``parser()`` is asked for it; of the others ``main()`` is called, and ended where it would parse.
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
MODULES = {
    "-m utils.data": "utils/data/__main__.py",
    "-m utils.darknet.import": "utils/darknet/import.py",
    "-m utils.spiking.surgery": "utils/spiking/surgery.py",
    "-m darkspike.dashboard": "darkspike/dashboard.py",
    "-m darkspike.recipe": "darkspike/recipe.py",
}
PACKAGE = ("-m darkspike", "darkspike/__main__.py")  # the library's own command, where it is there


class _ParsedError(Exception):
    """Carries the parser out of a ``main()`` that was about to use it."""


def commands() -> dict[str, Path]:
    """Every command, as it stands behind ``python3``, and the file that it runs."""
    files = [*ROOT.glob("*.py"), *ROOT.glob("benchmarks/*.py"), ROOT / "data/get.py", *ROOT.glob("docs/*.py")]
    own = {path.relative_to(ROOT).as_posix(): path for path in sorted(files) if _is_command(path)}
    modules = dict([*MODULES.items(), PACKAGE])
    return own | {name: ROOT / path for name, path in modules.items() if (ROOT / path).is_file()}


def scripts() -> dict[str, Path]:
    """The commands in the root folder."""
    return {name: path for name, path in commands().items() if path.parent == ROOT}


def parser_of(path: Path) -> argparse.ArgumentParser:
    """The parser of a command."""
    module = load(path)
    if hasattr(module, "parser"):
        return module.parser()
    return _caught(module.main)


def load(path: Path) -> Any:
    """A file as a module under a name of its own, so that test.py does not meet Python's own ``test``."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    name = "command_" + "_".join(path.relative_to(ROOT).with_suffix("").parts)
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None, path
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


def _caught(main: Callable[[], object]) -> argparse.ArgumentParser:
    def caught(parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        raise _ParsedError(parser)

    with mock.patch.object(argparse.ArgumentParser, "parse_args", caught):
        try:
            main()
        except _ParsedError as found:
            return found.args[0]
    raise TypeError(f"{main.__module__}.main() parses no command line")


def _is_command(path: Path) -> bool:
    return re.search(r'^if __name__ == "__main__":', path.read_text(encoding="utf-8"), re.MULTILINE) is not None
