"""Text that people and programs wrote: the encoding that its first bytes tell, else UTF-8; names that are alike."""

from __future__ import annotations

import codecs
import functools
import logging
from collections.abc import Sequence
from pathlib import Path

from utils.errors import InputError

MARKS = (  # longest first: UTF-32's mark begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
STRANGE = "\ufffd"  # stands where bytes are no text


def read_text(path: Path) -> str:
    """The whole text of a file, its byte order mark taken off; bytes that are no text show as U+FFFD.

    Raises:
        InputError: there is no such file, or it is none that can be read.
    """
    return decoded(read_bytes(path))


def read_bytes(path: Path) -> bytes:
    """What a file holds; what is no file (a folder, a pipe, a device) is not waited for.

    Raises:
        InputError: there is no such file, or it is none that can be read.
    """
    try:
        if path.is_file():
            return path.read_bytes()
        reason = "not a file" if path.exists() else "no such file"
    except OSError as error:
        reason = (error.strerror or "can not be read").lower()
    raise InputError(f"{path}: {reason}; correct the path or the file's permissions")


def decoded(data: bytes, otherwise: str = "utf-8") -> str:
    """The text of some bytes, in the encoding of their byte order mark, else in ``otherwise``."""
    for mark, encoding in MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, errors="replace")
    return data.decode(otherwise, errors="replace")


def same_names(these: Sequence[str], those: Sequence[str]) -> bool:
    """Whether classes are the same and in one order, however people write blanks and capitals."""
    plain = [[name.casefold().replace("_", " ").replace("-", " ") for name in names] for names in (these, those)]
    return plain[0] == plain[1]


@functools.lru_cache(maxsize=1024)
def say_once(log: logging.Logger, level: int, line: str) -> None:
    """Say a line once a process."""
    log.log(level, "%s", line)
