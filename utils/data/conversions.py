"""Folders given as ``--data``: what is made of one is kept under runs/data, and made again when the folder changes."""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from utils.data.lock import locked
from utils.data.text import read_text
from utils.errors import InputError

log = logging.getLogger(__name__)

CONVERTED = Path("runs/data")  # from the current folder, as for every script
MARK = "# converted from "
RULES = "4"  # changes when a conversion does, so that none made by earlier rules is taken


def kept(folder: Path, files: Iterable[Path], convert: Callable[[Path, str], object], of: str = "") -> Path:
    """The ``.data`` file of a folder, made by ``convert`` when it is new or has changed.

    Args:
        folder: what was given.
        files: those in it that the outcome depends on.
        convert: writes ``out.data`` and all it needs, with a note in its first line; returns what is said of it.
        of: what is made, where another task makes something else of the same files.
    """
    folder = folder.resolve()
    note = f"({_fingerprint(files, of)})"
    with locked(CONVERTED / ".lock"):
        number = 1
        while True:
            out = CONVERTED / (folder.name if number == 1 else f"{folder.name}-{number}")
            data = Path(f"{out}.data")
            if not data.exists() and not out.exists():
                log.warning("%s: converted to %s: %s", folder, data, convert(out, note))
                return data
            if data.exists() and read_text(data).startswith(f"{MARK}{folder} {note}\n"):
                return data
            number += 1


def refuse_taken(out: Path) -> None:
    """Nothing is overwritten.

    Raises:
        InputError: ``out``, ``out.data`` or ``out.names`` is there.
    """
    for taken in (out, Path(f"{out}.data"), Path(f"{out}.names")):
        if taken.exists():
            raise InputError(f"{taken}: exists already; choose another --out")


def publish(
    out: Path, write: Callable[[Path], None], names: Sequence[str], mark: str, more: str = "", lists: str = "txt"
) -> None:
    """Write ``out.data``, ``out.names`` and the folder ``out``, or nothing at all.

    Args:
        out: without a suffix; nothing there is overwritten.
        write: fills a new folder, which becomes ``out``, with train.txt and val.txt.
        names: of the classes.
        mark: the source, for the first line.
        more: further lines of the ``.data`` file.
        lists: ending of the two lists: txt, or csv where rows tell classes too.
    """
    refuse_taken(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:
        build = Path(temporary) / out.name
        write(build)
        names_file, data_file = Path(temporary) / "names", Path(temporary) / "data"
        names_file.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        data_file.write_text(
            f"{MARK}{mark}\nclasses = {len(names)}\ntrain = {out.name}/train.{lists}\n"
            f"valid = {out.name}/val.{lists}\nnames = {out.name}.names\n{more}",
            encoding="utf-8",
        )
        build.replace(out)
        names_file.replace(f"{out}.names")
        data_file.replace(f"{out}.data")  # last: where it is, everything is


def _fingerprint(files: Iterable[Path], of: str) -> str:
    """Changes when one of the files does."""
    rows = "".join(f"{p} {p.stat().st_size} {p.stat().st_mtime_ns}\n" for p in sorted(files))
    return hashlib.sha256(f"{RULES}{of}\n{rows}".encode(errors="surrogateescape")).hexdigest()[:16]
