"""The data.yaml of ultralytics' trainers and of Roboflow's exports: names, and where the images of each part are.

    path: ../datasets/mine        # optional; where the parts are looked up, beside this file or in the current folder
    train: images/train           # a folder, a list of images, or several of them
    val: images/val
    names: {0: car, 1: bus}       # or [car, bus]

Paths are often those of another machine (Roboflow's say ../train/images, Colab's /content/set/train/images): what is
not there is looked for by its last parts beside the file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from utils.data.text import read_text
from utils.errors import InputError
from utils.numbers import is_whole

VALID = ("val", "valid", "validation", "test")  # the first that is there


@dataclass(frozen=True)
class YamlSet:
    """Names in the order of their numbers; folders or lists of each part, () where the file says none."""

    names: tuple[str, ...]
    train: tuple[Path, ...]
    valid: tuple[Path, ...]


def read_yaml(path: Path) -> YamlSet:
    """What a data.yaml says.

    Raises:
        InputError: it is no yaml, names no classes, or a part is not there.
    """
    try:
        said = yaml.safe_load(read_text(path))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: no valid yaml ({' '.join(str(error).split())[:80]}); repair it") from None
    if not isinstance(said, Mapping) or "names" not in said:
        raise InputError(f"{path}: no 'names:' in it, so no data.yaml of a set; name the classes there")
    if "kpt_shape" in said:
        raise InputError(f"{path}: its labels are key points (kpt_shape:), no boxes; export the set for detection")
    parts = {str(key).casefold(): value for key, value in said.items()}  # CVAT's are called as its subsets: Train
    train, valid = parts.get("train"), next((key for key in VALID if parts.get(key)), None)
    if not train:
        raise InputError(f"{path}: no 'train:' in it; say where the images to train on are")
    base, without = said.get("path"), f"correct the path, or leave '{valid}:' away: a share is set apart then"
    places = _places(path, base, parts[valid], without) if valid else ()
    return YamlSet(_names(path, said), _places(path, base, train), places)


def _names(path: Path, said: Mapping[str, Any]) -> tuple[str, ...]:
    names = said["names"]
    if isinstance(names, Mapping):
        numbers = sorted(names, key=lambda key: int(key) if is_whole(str(key)) else -1)
        if [str(key) for key in numbers] != [str(i) for i in range(len(names))]:
            raise InputError(f"{path}: names: are numbered {list(names)[:8]}; number them from 0 on without a gap")
        names = [names[key] for key in numbers]
    if isinstance(names, list) and any(isinstance(name, bool) for name in names):
        raise InputError(f"{path}: names: yaml takes yes, no, on, off, true and false for no text; quote them: 'no'")
    if not isinstance(names, list) or not names or not all(isinstance(name, str | int | float) for name in names):
        raise InputError(f"{path}: names: {str(names)[:60]} is no list of classes; write [car, bus] or 0: car, 1: bus")
    count = said.get("nc", len(names))
    if count != len(names):
        raise InputError(f"{path}: nc: {count}, but names: has {len(names)}; make them agree")
    return tuple(" ".join(str(name).split()) for name in names)


def _places(path: Path, base: object, said: object, remedy: str = "correct the path") -> tuple[Path, ...]:
    entries = said if isinstance(said, list) else [said]
    return tuple(_place(path, base, str(entry), remedy) for entry in entries)


def _place(path: Path, base: object, entry: str, remedy: str) -> Path:
    """A part's folder or list: as written, under ``path:``, else by its last parts beside the file."""
    here, named = path.absolute().parent, Path(entry.replace("\\", "/"))
    roots = [here / str(base), Path(str(base)).absolute()] if base else []
    candidates = [named] if named.is_absolute() else [*(root / named for root in roots), here / named]
    last = [part for part in named.parts if part not in ("..", ".", "/")]
    candidates += [here.joinpath(*last[i:]) for i in range(len(last))]
    for candidate in candidates:
        if candidate.is_dir() or (candidate.is_file() and candidate.suffix == ".txt"):
            return candidate.resolve()
    raise InputError(f"{path}: {entry}: no such folder or list, as written or beside this file; {remedy}")
