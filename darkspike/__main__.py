"""The scripts as one command: ``darkspike train --epochs 50`` is ``python3 train.py --epochs 50``, from any folder.

python3 -m darkspike train -sr --s 0.001
python3 -m darkspike slim_prune --percent 0.8
python3 -m darkspike convert_snn --help
"""

from __future__ import annotations

import argparse
import ast
import runpy
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = (
    "train",
    "test",
    "detect",
    "normal_prune",
    "regular_prune",
    "shortcut_prune",
    "slim_prune",
    "layer_prune",
    "layer_channel_prune",
    "layer_channel_regular_prune",
    "quantize",
    "convert",
    "convert_snn",
    "export",
    "compress",
)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = argparse.ArgumentParser(
        prog="darkspike",
        description=__doc__,
        epilog="\n".join(["scripts:", *(f"  {name:28}{first_line(name)}" for name in SCRIPTS)]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    flags.add_argument("script", choices=SCRIPTS, metavar="script", help="what to do; one of those below")
    flags.add_argument("flags", nargs=argparse.REMAINDER, help="of the script; --help lists them")
    return flags


def first_line(script: str) -> str:
    """What a script says of itself in its first line."""
    path = ROOT / f"{script}.py"
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) if path.is_file() else None
    return (doc or "").partition("\n")[0]


def main() -> None:
    """Run a script of the checkout as if it had been called by its path."""
    given = parser().parse_args()
    path = ROOT / f"{given.script}.py"
    if not path.is_file():
        sys.stderr.write(f"darkspike: {path}: no such script; they live in a checkout: pip install -e . there\n")
        sys.exit(2)
    sys.argv = [str(path), *given.flags]
    sys.path.insert(0, str(ROOT))  # as Python does for a script: compress.py imports the others from beside it
    runpy.run_path(str(path), run_name="__main__")


if __name__ == "__main__":
    main()
