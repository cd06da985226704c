"""What the scripts' command lines share: flags, their types, and how an error is told."""

from __future__ import annotations

import argparse
import errno
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeVar

from utils.errors import InputError

Number = TypeVar("Number", int, float)

CFG = "cfg/yolov3-tiny-digits.cfg"
DATA = "data/digits.data"
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM)  # not the program's fault


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the commands of the docstring as they are and appends each flag's default."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        shown = action.default not in (None, argparse.SUPPRESS, False) and action.option_strings
        return f"{action.help} (default: %(default)s)" if shown and "default" not in str(action.help) else action.help


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """One line and exit code 2."""
        self.exit(2, f"{self.prog}: {message}; see --help\n")


def parser(doc: str) -> Parser:
    """A parser whose help is the script's docstring, with the flags that every script has."""
    flags = Parser(description=doc, formatter_class=Formatter, allow_abbrev=False)
    flags.add_argument("--data", default=DATA, help="a .data file, or a folder of VOC annotations")
    flags.add_argument("--batch-size", type=positive, default=None, help="images a step (default: the cfg's)")
    flags.add_argument("--img-size", type=positive, nargs="+", default=None, help="px, one side or height width")
    flags.add_argument("--device", default="", help="cpu, or a GPU's number (default: the GPU if there is one)")
    flags.add_argument("--workers", type=whole, default=None, help="loader processes (default: by core count)")
    flags.add_argument("--cache", choices=["auto", "ram", "off"], default="auto", help="decoded images in memory")
    flags.add_argument(
        "--gray-scale", action="store_true", help="show grey images, also to a network of three channels"
    )
    flags.add_argument("--seed", type=whole, default=0, help="of everything random")
    flags.add_argument("--name", type=plain_name, default="", help="suffix of the run's folder and files")
    return flags


def main(run: Callable[[argparse.Namespace], object], flags: argparse.ArgumentParser) -> None:
    """Parse, run; a user's mistake is one line on stderr and exit code 2, never a traceback."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        run(flags.parse_args())
    except InputError as error:
        sys.stderr.write(f"{flags.prog}: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write(f"{flags.prog}: interrupted; what was finished is on disk\n")
        sys.exit(130)
    except BrokenPipeError:  # the reader of a pipe (head, less) left: nothing to tell
        sys.stderr.close()
    except OSError as error:
        if error.errno not in DISK:
            raise
        place = error.filename or "the disk"
        sys.stderr.write(f"{flags.prog}: {place}: {error.strerror}; make room or allow it, then run this again\n")
        sys.exit(2)


def whole(text: str) -> int:
    """A whole number from 0 up."""
    return _number(text, int, lambda x: x >= 0, "a whole number from 0 up")


def positive(text: str) -> int:
    """A whole number from 1 up."""
    return _number(text, int, lambda x: x >= 1, "a whole number from 1 up")


def fraction(text: str) -> float:
    """A number with 0 <= x < 1."""
    return _number(text, float, lambda x: 0 <= x < 1, "a number from 0 up to, but not, 1")


def non_negative(text: str) -> float:
    """A number from 0 up."""
    return _number(text, float, lambda x: 0 <= x < float("inf"), "a number from 0 up")


def plain_name(text: str) -> str:
    """A part of a file's name: no slashes."""
    if "/" in text or "\\" in text:
        raise argparse.ArgumentTypeError(f"must be a name without slashes, got {text}")
    return text


def existing_file(text: str) -> Path:
    """The path of a file that is there."""
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"{text}: no such file")
    return Path(text)


def _number(text: str, kind: Callable[[str], Number], valid: Callable[[Number], bool], wanted: str) -> Number:
    try:
        value = kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be {wanted}, got {text}") from None
    if not valid(value):
        raise argparse.ArgumentTypeError(f"must be {wanted}, got {text}")
    return value
