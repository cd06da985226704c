"""Files that are whole, under names that are free: nothing is half-written, nothing of another run overwritten.

A run takes its names when it starts. Until its files are there a mark beside them, ``.last.pt.taken``, is locked: the
system lets go of the lock when the process dies, however it dies, and the next run clears what it left.
"""

from __future__ import annotations

import fcntl
import os
import platform
import re
import secrets
import shutil
import sys
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from itertools import count
from pathlib import Path

from utils.errors import InputError

TAKEN = ".taken"
_HOST = f"{zlib.crc32(platform.node().encode()):08x}"  # a process of another machine is not known here
_LEFT = re.compile(rf"\..*\.{_HOST}[0-9a-f]{{8}}\.(\d+)\.tmp(\..*)?")
_RUN: ContextVar[ExitStack] = ContextVar("_RUN")  # what is let go of when the run ends
_HELD: dict[Path, tuple[int, int]] = {}  # marks, the descriptors that hold their locks, the process
_CLEARED: set[Path] = set()  # folders that were looked through


@contextmanager
def writing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary name in the same folder; it becomes ``path`` when the block ends well, and vanishes when not.

    The temporary name keeps the suffix, because writers such as matplotlib choose their format by it. Whoever opens it
    gives it the mode that the umask says, as for any other file.

    Raises:
        InputError: the folder cannot be written or the disk is full; the earlier file is still there.
    """
    path = Path(path)
    temporary = temporary_name(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(path.parent)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{path}: {reason}; nothing there was changed, make room or allow it") from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def temporary_name(path: Path) -> Path:
    """A name beside it that nobody can guess, and that tells whose it is; `clear_leftovers` knows it again."""
    return path.with_name(f".{path.stem}.{_HOST}{secrets.token_hex(4)}.{os.getpid()}.tmp{path.suffix}")


def clear_leftovers(folder: Path) -> None:
    """Delete what killed runs left in a folder: temporary files whose process is gone, marks that nobody holds.

    Each process looks once.
    """
    folder = folder.absolute()
    if folder in _CLEARED:
        return
    _CLEARED.add(folder)
    for path in folder.glob(".*.tmp*"):
        found = _LEFT.fullmatch(path.name)
        if found and not _alive(int(found[1])):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    for mark in folder.glob(f".*{TAKEN}"):
        if mark not in _HELD and (handle := _lock(mark)) is not None:
            _HELD[mark] = handle, os.getpid()
            _let_go(mark)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def no_file(path: Path | str) -> str:
    """Why a path is no file whose content can be read to its end, in words; "" where it is one."""
    path = Path(path)
    try:
        if path.is_file():
            return ""
        if path.is_dir():
            return "a folder"
        return "a pipe or a device, not a file" if path.exists() else "no such file"
    except OSError as error:
        return (error.strerror or "cannot be read").lower()


def check_writable(*folders: Path | str) -> None:
    """Refuse folders in which nothing can be written; those that are not there are not made.

    Raises:
        InputError: names the folder.
    """
    for folder in map(Path, folders):
        there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
        if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
            fact = "cannot be written" if there.is_dir() else f"{shown(there)} is no folder"
            raise InputError(f"{folder}: {fact}; nothing was begun, make room or allow it")


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
    return next(each for number in count(1) if not _there(each := _numbered(path, number)))


def take(*paths: Path | str) -> tuple[Path, ...]:
    """The paths, or all of them with ``-2``, ``-3`` …, which no file and no living run has; now they are this run's.

    Raises:
        InputError: a folder cannot be written.
    """
    for number in count(1):
        wanted = [_numbered(Path(path), number) for path in paths]
        marks = [mark for path in wanted if (mark := _take(path)) is not None]
        if len(marks) == len(wanted):
            _until_the_end(*marks)
            return tuple(wanted)
        for mark in marks:
            _let_go(mark)
    raise AssertionError("numbers never end")


def hold(path: Path | str) -> bool:
    """Whether a name, of a file that is there or of anything else, is this run's now and nobody else's."""
    if _mark(Path(path)) in _HELD:
        return True
    mark = _take(Path(path), fresh=False)
    if mark is not None:
        _until_the_end(mark)
    return mark is not None


def holder(path: Path | str) -> str:
    """Who has a name, in words: the process and its command."""
    mark = _mark(Path(path))
    if mark in _HELD:  # to open it and close it would let go of its lock
        return "this process"
    try:
        process, _, words = mark.read_text(encoding="utf-8").partition(" ")
    except OSError:
        return "another process"
    return f"process {process} ({words[:100]})"


@contextmanager
def names_kept() -> Iterator[None]:
    """A run: the names it takes are its own until it ends, and nothing tells of them any more after that."""
    with ExitStack() as stack:
        token = _RUN.set(stack)
        try:
            yield
        finally:
            _RUN.reset(token)


@contextmanager
def alone(folder: Path | str) -> Iterator[None]:
    """The time in which no other run chooses names: those of one run have one number everywhere.

    Raises:
        InputError: the folder cannot be made.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}; choose a folder that can be written") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _take(path: Path, *, fresh: bool = True) -> Path | None:
    """Lock the mark of a path; None where somebody has it, or where it must be ``fresh`` and a file is there."""
    mark = _mark(path)
    if fresh and _there(path):
        return None
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        clear_leftovers(mark.parent)
        handle = None if mark in _HELD else _lock(mark)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; nothing was begun, make room or allow it") from error
    if handle is None:
        return None
    _HELD[mark] = handle, os.getpid()
    if fresh and _there(path):  # its run ended between the look and the lock
        _let_go(mark)
        return None
    os.truncate(handle, 0)
    os.write(handle, f"{os.getpid()} {Path(sys.argv[0]).name} {' '.join(sys.argv[1:])}".encode())
    return mark


def _until_the_end(*marks: Path) -> None:
    """Let go of them when the run ends; without a run, as in a test, when the process does."""
    stack = _RUN.get(None)
    if stack is not None:
        for mark in marks:
            stack.callback(_let_go, mark)


def _lock(mark: Path) -> int | None:
    """An open descriptor that holds the lock of this very file; None where another one does."""
    while True:
        handle = os.open(mark, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of this process: workers it forks outlive it a while
            if os.fstat(handle).st_ino == mark.stat().st_ino:
                return handle
        except BlockingIOError:
            os.close(handle)
            return None
        except FileNotFoundError:  # who held it ended just now, and took it away
            pass
        os.close(handle)


def _let_go(mark: Path) -> None:
    """Take a mark away, unless this is a fork of the process that holds it."""
    if _HELD[mark][1] == os.getpid():
        mark.unlink(missing_ok=True)
    os.close(_HELD.pop(mark)[0])


def _mark(path: Path) -> Path:
    path = path.absolute()
    return path.with_name(f".{path.name}{TAKEN}")


def _there(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _numbered(path: Path, number: int) -> Path:
    stem, suffix = _split(path.name)
    return path if number == 1 else path.with_name(f"{stem}-{number}{suffix}")


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
