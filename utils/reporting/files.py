"""What a file is known by: its digest, its length."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from utils.errors import InputError
from utils.files import shown


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


def file_bytes(path: Path | str) -> int:
    """Size of a file on disk."""
    return Path(path).stat().st_size


def fingerprint(files: Sequence[Path], words: Sequence[str]) -> str:
    """What a stage's outcome depends on: the bytes of its inputs and its flags.

    Raises:
        InputError: an input is missing.
    """
    message = json.dumps([*words, *(stamp["sha256"] for stamp in stamps(files))])
    return hashlib.sha256(message.encode()).hexdigest()
