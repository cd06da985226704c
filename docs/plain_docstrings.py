"""An extension of griffe: docstrings are plain text, so Markdown must show [N,C,H,W] and <name> as they stand."""

from __future__ import annotations

import re
from typing import Any

import griffe

CODE = re.compile(r"(``[^`]+``|`[^`]+`)")
SECTION = re.compile(r"(Args|Attributes|Returns|Yields|Raises):$")
SPECIAL = re.compile(r"([*\[\]]|(?<!\w)_|_(?!\w))")  # within a word an underscore is one


class PlainDocstrings(griffe.Extension):
    """Escapes what Markdown would take for links, tags and emphasis, outside code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for every module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = "\n".join(_escaped(obj.docstring.value.splitlines()))


def _escaped(lines: list[str]) -> list[str]:
    """All lines but those of indented formulas and commands, which are code; what stands under ``Args:`` is not."""
    out, code, heading, before = [], False, "", ""
    for line in lines:
        indented = line.startswith("    ")
        heading = line if line and not indented else heading
        code = (indented and not SECTION.match(heading) and (code or not before)) or (code and not line)
        out.append(line if code else _plain(line))
        before = line
    return out


def _plain(line: str) -> str:
    pieces = CODE.split(line)
    return "".join(each if each.startswith("`") else SPECIAL.sub(r"\\\1", each).replace("<", "&lt;") for each in pieces)
