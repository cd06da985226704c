"""What the list of faults may do to a place before a command is typed: one verb a line, its words between bars."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from utils.darknet.integrity import digest, sealed
from utils.darknet.network import PARTS


def write(path: str, text: str = "") -> None:
    """A file of this text."""
    if Path(path).is_dir():
        shutil.rmtree(path)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text.encode().decode("unicode_escape"), encoding="utf-8")


def repeat(path: str, count: str, text: str) -> None:
    """A text behind a file, so many times."""
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(text.encode().decode("unicode_escape") * int(count))


def sub(path: str, pattern: str, by: str = "") -> None:
    """A pattern in a text, wherever it stands."""
    before = Path(path).read_text()
    after = re.sub(pattern, by.encode().decode("unicode_escape"), before)
    assert after != before, f"{pattern} is not in {path}"
    Path(path).write_text(after)


def double(path: str, times: str) -> None:
    """Routes that each join what is before them with itself, where a line says #here."""
    before = Path(path).read_text()
    assert "#here" in before
    Path(path).write_text(before.replace("#here", "[route]\nlayers=-1,-1\n" * int(times)))


def cut(path: str, share: str) -> None:
    """What is left of a download that ended early."""
    content = Path(path).read_bytes()
    Path(path).write_bytes(content[: int(float(share) * len(content))])


def flip(path: str, share: str) -> None:
    """One bit, so far into the file."""
    content = bytearray(Path(path).read_bytes())
    content[int(float(share) * len(content))] ^= 16
    Path(path).write_bytes(content)


def hexed(path: str, digits: str) -> None:
    """A file of these bytes."""
    Path(path).write_bytes(bytes.fromhex(digits))


def remove(path: str) -> None:
    """A file or a folder."""
    shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()


def folder(path: str) -> None:
    """A folder, where a file of that name was."""
    Path(path).unlink(missing_ok=True)
    Path(path).mkdir(parents=True)


def copy(source: str, target: str) -> None:
    """A file or a folder under another name."""
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(source, target) if Path(source).is_dir() else shutil.copy(source, target)


def pipe(path: str) -> None:
    """A named pipe that nobody writes into, where a file of that name was."""
    Path(path).unlink(missing_ok=True)
    os.mkfifo(path)


def link(path: str, target: str) -> None:
    """A link, where a file of that name was."""
    Path(path).unlink(missing_ok=True)
    Path(path).symlink_to(target)


def setting(path: str, place: str, value: str = "") -> None:
    """A value inside a json or a checkpoint, which gets a right digest; without a value the key goes."""
    if path.endswith(".json"):
        content = json.loads(Path(path).read_text())
        _set(content, place, value)
        Path(path).write_text(json.dumps(content))
        return
    content = torch.load(path, weights_only=True)
    _set(content, place, value)
    if "digest" in content:
        content["digest"] = digest({key: content.get(key) for key in PARTS})
    made = io.BytesIO()
    torch.save(content, made)
    Path(path).write_bytes(sealed(made.getvalue()))


def _set(content: Any, place: str, value: str) -> None:
    *way, last = (int(key) if re.fullmatch(r"-?\d+", key) else key for key in place.split("/"))
    for key in way:
        content = content[key]
    if not value:
        del content[last]
    elif isinstance(content, torch.Tensor):
        content.view(-1)[last] = float(value)
    else:
        content[last] = json.loads(value)


VERBS: dict[str, Callable[..., None]] = {
    "write": write,
    "repeat": repeat,
    "sub": sub,
    "double": double,
    "cut": cut,
    "flip": flip,
    "hex": hexed,
    "remove": remove,
    "folder": folder,
    "copy": copy,
    "pipe": pipe,
    "link": link,
    "set": setting,
}


def damage(line: str) -> None:
    """Do what a line of the list says, in the working directory."""
    verb, _, rest = line.partition(" ")
    VERBS[verb](*(word.strip(" ") for word in rest.split(" | ")))
