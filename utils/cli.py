"""Command lines made from configs: a flag is a field of a frozen dataclass, and an error is one line."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, NoReturn, Protocol, Self, TypeVar

from utils.endings import ended, leave

Number = TypeVar("Number", int, float)


class Tellable(Protocol):
    """A config that can be made of what somebody said."""

    @classmethod
    def from_given(cls, given: Mapping[str, Any], usual: Mapping[str, Any]) -> Self:
        """The config of these fields; ``usual`` are defaults that differ from its own. Refuses what cannot act."""


Config = TypeVar("Config", bound=Tellable)

log = logging.getLogger(__name__)

UNKNOWN = "unrecognized arguments: "  # argparse's own words
LONGEST_NAME = 128  # bytes; a file's name has 255, and "." and what a script adds stand beside it
UNSAID = object()  # in the place of a flag that is not typed: its default would look like one that is


def flag(default: Any, help: str, *names: str, **options: Any) -> Any:
    """A field of a config that a flag sets.

    Args:
        default: of the field; False makes a switch.
        help: the flag's line in ``--help``.
        names: of the flag; by default the field's, with dashes. A name without a dash is a position.
        options: what argparse's ``add_argument`` takes besides.
    """
    if default is False and "action" not in options:
        options["action"] = "store_true"
    about = {"names": names, "help": help, "options": options}
    return dataclasses.field(default=default, metadata={"flag": about})


def flag_fields(config: type) -> list[dataclasses.Field[Any]]:
    """The fields that flags set, in the order of ``--help``."""
    return [field for field in dataclasses.fields(config) if "flag" in field.metadata]


def option_names(field: dataclasses.Field[Any]) -> tuple[str, ...]:
    """The names of the flag that sets a field, as they are typed."""
    names: tuple[str, ...] = field.metadata["flag"]["names"]
    return names or (f"--{field.name.replace('_', '-')}",)


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the commands of the docstring as they are and appends each flag's default."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        shown = action.default not in (None, argparse.SUPPRESS, False) and action.option_strings
        return f"{action.help} (default: %(default)s)" if shown and "default" not in str(action.help) else action.help


class Typed:
    """What argparse writes into."""


class OneLineParser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line; so are those of its commands."""

    def error(self, message: str) -> NoReturn:
        """One line and exit code 2."""
        self.exit(2, f"{self.prog}: {message}; see --help\n")


class Parser(OneLineParser, Generic[Config]):
    """One that returns a config."""

    config: type[Config]
    usual: Mapping[str, Any]
    instead: Mapping[str, str]  # flags of other projects: what to use here

    def error(self, message: str) -> NoReturn:
        """The line of a flag that has another name here says that name."""
        unknown = message.removeprefix(UNKNOWN).split() if message.startswith(UNKNOWN) else []
        for flag in (word.partition("=")[0] for word in unknown):
            if flag in self.instead:
                self.exit(2, f"{self.prog}: {flag}: {self.instead[flag]}\n")
            if (near := flag.replace("_", "-")) != flag and near in self._option_string_actions:
                self.exit(2, f"{self.prog}: {flag}: is {near} here\n")
        super().error(message)

    def parse_args(self, args: Sequence[str] | None = None, namespace: None = None) -> Config:  # type: ignore[override]
        """The config of a command line; lists become tuples.

        Raises:
            InputError: a flag cannot act beside the others.
        """
        typed = Typed()
        self._refuse_nothing([*(sys.argv[1:] if args is None else args)])
        vars(typed).update({action.dest: UNSAID for action in self._actions if action.dest != "help"})
        found = vars(super().parse_args(args, typed))
        places = {action.dest: action.default for action in self._actions if not action.option_strings}
        given = {k: v for k, v in found.items() if v is not UNSAID and (k not in places or v != places[k])}
        return self.config.from_given({k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}, self.usual)

    def _refuse_nothing(self, words: Sequence[str]) -> None:
        """An empty word is a shell's variable that nobody set: it would mean the same as no flag."""
        for before, word in zip(["", *words], words, strict=False):
            name, said, value = word.partition("=")
            if (not word and before != "--name") or (name.startswith("--") and said and not value and name != "--name"):
                self.error(f"{name or before or 'the first word'}: is empty; give a value, or leave it away")


def parser(doc: str, config: type[Config], **defaults: Any) -> Parser[Config]:
    """The command line of a script.

    Args:
        doc: the help's text, the script's docstring.
        config: whose fields are the flags.
        defaults: of fields, where this script's differ from the config's.
    """
    flags: Parser[Config] = Parser(description=doc, formatter_class=Formatter, allow_abbrev=False)
    flags.config = config
    flags.instead = getattr(config, "instead", {})
    flags.usual = {name: value for name, value in defaults.items() if value is not None}
    for field in flag_fields(config):
        about = field.metadata["flag"]
        names = option_names(field)
        default = defaults.get(field.name, field.default)
        default = [*default] if isinstance(default, tuple) else default  # as argparse writes it in --help
        place: dict[str, Any] = {"dest": field.name} if names[0].startswith("-") else {}
        flags.add_argument(*names, **place, default=default, help=about["help"], **about["options"])
    return flags


def main(run: Callable[[Any], object], flags: argparse.ArgumentParser) -> None:
    """Parse, run; a user's mistake is one line on stderr and exit code 2, never a traceback."""
    code = ended(lambda: run(flags.parse_args()), flags.prog)
    if "WORLD_SIZE" in os.environ:
        leave(code)
    if code:
        sys.exit(code)


def renamed(known: Sequence[str], before: Mapping[str, str]) -> Callable[[str], str]:
    """A type of flag: one of the words ``known``; an earlier word for one is accepted, and that is logged once."""
    seen: set[str] = set()

    def word(text: str) -> str:
        if text in before and text not in seen:
            seen.add(text)
            log.info("%s is called %s now; the earlier word is still accepted", text, before[text])
        found = before.get(text, text)
        if found not in known:
            raise argparse.ArgumentTypeError(f"must be one of {', '.join(known)}, got {text}")
        return found

    return word


def whole(text: str) -> int:
    """A whole number from 0 up."""
    return _number(text, int, lambda x: x >= 0, "a whole number from 0 up")


def seed(text: str) -> int:
    """A whole number of 32 bits: every generator takes that."""
    return _number(text, int, lambda x: 0 <= x < 2**32, f"a whole number from 0 to {2**32 - 1:,}")


def positive(text: str) -> int:
    """A whole number from 1 up."""
    return _number(text, int, lambda x: x >= 1, "a whole number from 1 up")


def fraction(text: str) -> float:
    """A number with 0 <= x < 1."""
    return _number(text, float, lambda x: 0 <= x < 1, "a number from 0 up to, but not, 1")


def share_above_zero(text: str) -> float:
    """A number with 0 < x <= 1."""
    return _number(text, float, lambda x: 0 < x <= 1, "a number above 0 and up to 1")


def non_negative(text: str) -> float:
    """A number from 0 up."""
    return _number(text, float, lambda x: 0 <= x < float("inf"), "a number from 0 up")


def above_zero(text: str) -> float:
    """A number above 0."""
    return _number(text, float, lambda x: 0 < x < float("inf"), "a number above 0")


def plain_name(text: str) -> str:
    """A part of a file's name: no slashes."""
    if "/" in text or "\\" in text:
        raise argparse.ArgumentTypeError(f"must be a name without slashes, got {text}")
    if len(text.encode(errors="replace")) > LONGEST_NAME or not text.isprintable():
        raise argparse.ArgumentTypeError(f"must be at most {LONGEST_NAME} bytes that can be printed, got {text!r}")
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
