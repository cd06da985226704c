"""The text of a cfg as sections: where each key stands, and its value as a number, a name or a list of layers."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from utils.darknet.activations import ACROSS, ACTIVATIONS, ALIASES
from utils.darknet.neuron_spec import NEURONS
from utils.darknet.spec import Options
from utils.darknet.words import REFUSED, words
from utils.errors import InputError


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint like ``; did you mean 'filters'?``, empty when nothing is near."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f"; did you mean '{match[0]}'?" if match else ""


@dataclass
class Section:
    """One ``[section]`` as written: where, what, and its keys with their lines."""

    name: str
    line: int
    kind: str
    options: dict[str, tuple[int, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)  # what Darknet reads otherwise than it stands there, in words
    before: tuple[int, ...] = ()  # for each section before it the layer that gives its output

    @property
    def place(self) -> str:
        """File and line, for messages."""
        return f"{self.name} line {self.line}"

    def check_words(self, known: frozenset[str]) -> None:
        """Refuse a key that is not ``known``."""
        for key, (line, _) in self.options.items():
            if key not in known:
                raise InputError(f"{self.name} line {line}: unknown key '{key}' in [{self.kind}]{nearest(key, known)}")
        for key, (idle, does) in REFUSED.get(self.kind, {}).items():
            line, value = self.options.get(key, (0, idle))
            if value != idle:
                raise InputError(
                    f"{self.name} line {line}: {key}={value} {does}, which is not supported; use a cfg without it"
                )

    def text(self, key: str, default: str) -> str:
        """The value as written."""
        return self.options.get(key, (0, default))[1]

    def numbers(self, key: str, convert: Callable[[str], float], default: str = "") -> list[float]:
        """Numbers between commas, or spaces."""
        line, value = self.options.get(key, (self.line, default))
        try:
            return [convert(part) for part in value.replace(",", " ").split()]
        except ValueError:
            kind = "whole numbers" if convert is int else "numbers"
            raise InputError(f"{self.name} line {line}: {key}={value} must be {kind}") from None

    def integers(self, key: str, default: str = "") -> list[int]:
        """Whole numbers between commas."""
        return [int(x) for x in self.numbers(key, int, default)]

    def integer(self, key: str, default: int, least: int = 0) -> int:
        """One whole number, ``least`` or more."""
        found = self.integers(key, str(default))
        line = self.options.get(key, (self.line, ""))[0]
        if len(found) != 1 or found[0] < least:
            raise InputError(
                f"{self.name} line {line}: {key}={self.text(key, '')} must be one whole number from {least} up"
            )
        return found[0]

    def real(self, key: str, default: float) -> float:
        """One number."""
        found = self.numbers(key, float, str(default))
        if len(found) != 1:
            raise InputError(f"{self.place}: {key} must be one number")
        return found[0]

    def required(self, key: str) -> None:
        """Refuse a section without this key."""
        if key not in self.options:
            raise InputError(f"{self.place}: [{self.kind}] needs {key}=")

    def activation(self, default: str) -> str:
        """The name of a known activation."""
        line, name = self.options.get("activation", (self.line, default))
        name, known = ALIASES.get(name, name), (*ACTIVATIONS, *NEURONS)
        if name in ACROSS:
            raise InputError(
                f"{self.name} line {line}: activation={name} divides each value by a sum over channels, which is not "
                "supported; use relu and train it again"
            )
        if name not in known:
            raise InputError(f"{self.name} line {line}: unknown activation '{name}'{nearest(name, known)}")
        return name

    def one_of(self, key: str, known: dict[str, str]) -> str:
        """The word a key is set to, by the name we know it under; ``none`` where it is not set."""
        line, word = self.options.get(key, (self.line, "none"))
        if word not in known:
            names = ", ".join(dict.fromkeys(known.values()))
            raise InputError(f"{self.name} line {line}: {key}={word} is none of {names}{nearest(word, known)}")
        return known[word]

    def passive(self) -> Options:
        """The keys that change nothing in the network, in the order they stand in."""
        kept = words(self.kind) | frozenset(REFUSED.get(self.kind, ()))
        return tuple((k, v) for k, (_, v) in self.options.items() if k in kept)

    def references(self, key: str) -> tuple[int, ...]:
        """The layers of the sections that are named; Darknet counts negative numbers back from this section."""
        self.required(key)
        here = len(self.before)
        found = tuple(n if n >= 0 else here + n for n in self.integers(key))
        line = self.options[key][0]
        if not found:
            raise InputError(f"{self.name} line {line}: {key}= names no layer")
        for wrong in (n for n in found if not 0 <= n < here):
            before = f"only layers 0 to {here - 1} come before it" if here else "no layer comes before it"
            raise InputError(f"{self.name} line {line}: [{self.kind}] reads layer {wrong}, but {before}")
        return tuple(self.before[n] for n in found)


def split_sections(text: str, name: str) -> list[Section]:
    """The sections of a cfg in order, without comments; of a key that stands twice the first counts.

    Raises:
        InputError: a line that is neither a section nor a key with a value.
    """
    sections: list[Section] = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.split("#", 1)[0].strip()
        if not line or line.startswith(";"):
            continue
        if line.startswith("["):
            sections.append(Section(name, number, line.strip("[] ")))
            continue
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals or not sections:
            raise InputError(f"{name} line {number}: expected [section] or key=value, got '{line[:40]}'")
        if key in sections[-1].options:
            first, kept = sections[-1].options[key]
            sections[-1].notes.append(
                f"{name} line {number}: {key}={value} stands a second time in its section; as in Darknet the first "
                f"counts, {key}={kept} of line {first}"
            )
            continue
        sections[-1].options[key] = (number, value)
    return sections
