"""Folders given as ``--data``: what is made of one is kept under runs/data, and made again when the folder changes."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable
from pathlib import Path

from utils.data.lock import locked
from utils.data.text import read_text
from utils.detection.label_writer import MARK

log = logging.getLogger(__name__)

CONVERTED = Path("runs/data")  # from the current folder, as for every script
RULES = "2"  # changes when a conversion does, so that none made by earlier rules is taken


def kept(folder: Path, files: Iterable[Path], convert: Callable[[Path, str], object]) -> Path:
    """The ``.data`` file of a folder, made by ``convert`` when it is new or has changed.

    Args:
        folder: what was given.
        files: those in it that the outcome depends on.
        convert: writes ``out.data`` and all it needs, with a note in its first line; returns what is said of it.
    """
    folder = folder.resolve()
    note = f"({_fingerprint(files)})"
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


def _fingerprint(files: Iterable[Path]) -> str:
    """Changes when one of the files does."""
    rows = "".join(f"{p} {p.stat().st_size} {p.stat().st_mtime_ns}\n" for p in sorted(files))
    return hashlib.sha256(f"{RULES}\n{rows}".encode(errors="surrogateescape")).hexdigest()[:16]
