"""Files that are whole: nothing is ever half-written, and what cannot be written leaves the earlier file as it was."""

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
