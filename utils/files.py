"""Files that are whole, under names that are free: nothing is half-written, nothing of an earlier run overwritten."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from utils.errors import InputError


@contextmanager
def writing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary name in the same folder; it becomes ``path`` when the block ends well, and vanishes when not.

    The temporary name keeps the suffix, because writers such as matplotlib choose their format by it. Whoever opens it
    gives it the mode that the umask says, as for any other file.

    Raises:
        InputError: the folder cannot be written or the disk is full; the earlier file is still there.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: {reason}; nothing there was changed, make room or allow it") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path | str, text: str) -> Path:
    """Write the whole text or nothing."""
    with writing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Path(path)


def free_path(path: Path | str) -> Path:
    """The path itself, or with ``-2``, ``-3`` … before its suffix when that name is taken: ``best-2.pt``.

    ``.snn.pt`` counts as one suffix, so the next one is ``x-2.snn.pt``; a suffix never starts with a digit, so
    ``slim_prune_0.8.pt`` becomes ``slim_prune_0.8-2.pt``.
    """
    path = Path(path)
    stem, suffix = _split(path.name)
    candidate, number = path, 1
    while candidate.exists() or candidate.is_symlink():
        number += 1
        candidate = path.with_name(f"{stem}-{number}{suffix}")
    return candidate


def _split(name: str) -> tuple[str, str]:
    stem, suffix = name, ""
    while (cut := stem.rfind(".")) > 0 and stem[cut + 1 :] and not stem[cut + 1].isdigit():
        stem, suffix = stem[:cut], stem[cut:] + suffix
    return stem, suffix


def shown(path: Path | str) -> str:
    """A path as records and logs print it: relative to the working directory where it lies under it."""
    path = Path(path)
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_absolute() and path.is_relative_to(here) else str(path)
