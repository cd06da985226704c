"""How a command ends, however it does: an exit code, and at most one line on stderr that says why it is not 0."""

from __future__ import annotations

import atexit
import errno
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from utils.errors import InputError, NotMet

DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)  # not the program's fault


class Terminated(KeyboardInterrupt):
    """SIGTERM: the process is asked to end, as by Ctrl-C."""


class OutputError(BaseException):
    """Standard output takes no more: nothing that handles a file's errors may take it for one."""


class Lines(logging.StreamHandler[Any]):
    """Lines on standard output; once nobody reads them any more, the run ends."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  # logging's own name
        """Stop where the line cannot be written."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            raise OutputError from error
        super().handleError(record)


def ended(work: Callable[[], object], name: str = "", left: str = "what was finished is on disk") -> int:
    """The exit code of a command, however it ends: with a code, a mistake, Ctrl-C, SIGTERM, a full disk, a lost reader.

    Behind the program's ``name`` a line on stderr tells why it is not 0; ``left``: what to know after Ctrl-C.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that a terminal cannot show is none that ends a run
        sys.stdout.reconfigure(errors="backslashreplace")
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[Lines(sys.stdout)])
    with _asked_to_end():
        try:
            code, line = _ended(work, left)
        finally:
            lost = _flushed()
    code, line = (code, line) if code or lost is None else lost
    if line:
        with suppress(OSError):
            sys.stderr.write(f"{name}: {line}\n" if name else f"{line}\n")
    return code


def leave(code: int) -> NoReturn:
    """End the process now, behind what it registered for its end, but without Python's own.

    For a process of a group: DistributedDataParallel (torch 2.13) keeps gloo's threads after the group is destroyed,
    and Python's end then aborted about one process in a hundred whose work was done.
    """
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def say(text: str) -> None:
    """A line on standard output, which ends the command where nobody reads it any more."""
    try:
        sys.stdout.write(f"{text}\n")
    except OSError as error:
        raise OutputError from error


def _ended(work: Callable[[], object], left: str) -> tuple[int, str]:
    """Run; the exit code, and the line that tells why it is not 0."""
    try:
        found = work()
        return found if isinstance(found, int) else 0, ""
    except InputError as error:
        return 2, str(error)
    except NotMet as error:
        return 3, str(error)
    except Terminated as error:
        return 143, f"terminated; {str(error) or left}"
    except KeyboardInterrupt as error:
        return 130, f"interrupted; {str(error) or left}"
    except OutputError as error:
        return _of_output(error.__cause__)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return 2, f"{error.filename}: {error.strerror}; give a shorter one"
        if error.errno not in DISK:
            raise
        return 2, f"{error.filename or 'the disk'}: {error.strerror}; make room or allow it, then run this again"


def _flushed() -> tuple[int, str] | None:
    """Write what is left; where standard output takes nothing, let it go, so that Python's end is quiet too."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _of_output(error)
    return None


def _of_output(error: BaseException | None) -> tuple[int, str]:
    """Exit code and line: nothing to say where the reader of a pipe (head, less) left."""
    if isinstance(error, BrokenPipeError):
        return 141, ""
    return 2, f"standard output: {getattr(error, 'strerror', error)}; make room or write elsewhere, then run this again"


@contextmanager
def _asked_to_end() -> Iterator[None]:
    """SIGTERM raises `Terminated`, once; a second one ends the process at once."""

    def end(number: int, frame: object) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        raise Terminated

    if threading.current_thread() is not threading.main_thread():  # Python lets no other one handle signals
        yield
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
