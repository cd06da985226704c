"""The commands that a Markdown page shows: from its code blocks, as a shell would take them, and from its prose.

A block whose commands cannot run on small data says so in a comment just above it, which no reader of the page sees:

    <!-- needs: two machines -->          or          <!-- takes: 10 minutes -->

and one whose folder ``photos`` is labelled otherwise than YOLO does it says ``<!-- photos: coco -->`` or ``voc``.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

MARK = re.compile(r"\s*<!-- (needs|takes|photos): (.+) -->")
FENCE = re.compile(r"\s*```(\w*)")
INLINE = re.compile(r"`((?:python3|torchrun|make) [^`]+)`", re.DOTALL)
SHELL = ("", "bash", "sh", "console")


@dataclass(frozen=True)
class Command:
    """One command: where it stands, its words, and whether a test can run it on small data.

    ``mark`` is (kind, text) of the comment above its block; ``inline`` commands stand in a sentence.
    """

    page: Path
    line: int
    words: tuple[str, ...]
    mark: tuple[str, str] = ("", "")
    inline: bool = False

    @property
    def runs(self) -> bool:
        """Whether it is to be run, and not only parsed."""
        return not self.inline and self.mark[0] not in ("needs", "takes")

    @property
    def photos(self) -> str:
        """How the folder ``photos`` is labelled."""
        return self.mark[1] if self.mark[0] == "photos" else "yolo"

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}: {' '.join(self.words)}"


def commands(page: Path) -> list[Command]:
    """All commands of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found: list[Command] = []
    for line, mark, block in _blocks(text.splitlines()):
        found += [Command(page, at, words, mark) for at, words in _commands(line, block)]
    for match in INLINE.finditer(text):
        words = " ".join(match[1].split())
        line = text.count("\n", 0, match.start()) + 1
        found += [Command(page, line, tuple(each), inline=True) for each in _split(words)]
    return found


def _blocks(lines: list[str]) -> list[tuple[int, tuple[str, str], list[str]]]:
    """Code blocks: number of the first line, the mark above, the lines."""
    found, mark, at = [], ("", ""), 0
    while at < len(lines):
        line = lines[at]
        fence = FENCE.match(line)
        if fence:
            end = next(i for i in range(at + 1, len(lines)) if FENCE.match(lines[i]))
            if fence[1] in SHELL:
                found.append((at + 2, mark, lines[at + 1 : end]))
            mark, at = ("", ""), end + 1
        elif line.startswith("    ") and (at == 0 or not lines[at - 1].strip()) and not MARK.match(line):
            end = at
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                if MARK.match(lines[end]):
                    break
                end += 1
            found.append((at + 1, mark, lines[at:end]))
            mark, at = ("", ""), end
        else:
            seen = MARK.match(line)
            mark = (seen[1], seen[2]) if seen else mark if not line.strip() else ("", "")
            at += 1
    return found


def _commands(first: int, block: list[str]) -> list[tuple[int, tuple[str, ...]]]:
    found: list[tuple[int, tuple[str, ...]]] = []
    names: dict[str, str] = {}
    at = 0
    while at < len(block):
        start, line = at, block[at].strip()
        while line.endswith("\\") and at + 1 < len(block):
            at += 1
            line = line[:-1].rstrip() + " " + block[at].strip()
        at += 1
        name = re.match(r"(\w+)=(\"[^\"]*\"|\S+)$", line)
        if name:
            names[name[1]] = name[2].strip('"')
            continue
        for key, value in names.items():
            line = re.sub(rf"\${key}\b", value, line)
        found += [(first + start, tuple(words)) for words in _split(line)]
    return found


def _split(line: str) -> list[list[str]]:
    """The words of each command of a line; what follows ``#`` or several blanks explains."""
    plain = re.split(r"\s#|\s{3,}", line)[0]
    parts = [shlex.split(part) for part in plain.split("&&")]
    return [part for part in parts if part and part[0].rpartition("/")[2] in ("python3", "python", "torchrun", "make")]
