"""Names that are free, and what a file is known by: nothing of an earlier run is overwritten."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from utils.errors import InputError


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


def sha256(path: Path | str) -> str:
    """Hexadecimal digest of a file's bytes."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def stamps(paths: Iterable[Path | str]) -> list[dict[str, str]]:
    """``[{path, sha256}]`` of each file, in the order given, doubles left out.

    Paths under the working directory are written relative to it, so that a record means the same on another machine.

    Raises:
        InputError: a file is missing.
    """
    result: dict[str, str] = {}
    for path in map(Path, paths):
        if not path.is_file():
            raise InputError(f"{path}: no such file; check the path")
        result.setdefault(shown(path), sha256(path))
    return [{"path": name, "sha256": digest} for name, digest in result.items()]


def shown(path: Path | str) -> str:
    """A path as records and logs print it: relative to the working directory where it lies under it."""
    path = Path(path)
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_absolute() and path.is_relative_to(here) else str(path)


def file_bytes(path: Path | str) -> int:
    """Size of a file on disk."""
    return Path(path).stat().st_size
