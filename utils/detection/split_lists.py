"""Which images a folder's own lists train on and validate on, and what is done where they do not say.

``train.txt`` and ``val.txt`` are what they say. ``trainval.txt`` trains, without what is validated on. Where there is
no list to validate on, ``test.txt`` is; where only that is there, everything else trains. With no list but one to
train on, or none at all, a seeded share is set apart, each image by its own name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from utils.data.set_apart import set_apart
from utils.errors import InputError

PLACES = ("", "ImageSets/Main", "ImageSets")
TRAIN, VALID = ("train", "trainval"), ("val", "valid", "test")

T = TypeVar("T")


@dataclass(frozen=True)
class Split(Generic[T]):
    """The images of both parts, and in words where they come from."""

    train: Sequence[T]
    valid: Sequence[T]
    told: str


def lists_in(folder: Path) -> dict[str, Path]:
    """The lists of a folder by what they are called; the first place with a pair counts, else the first with any."""
    places = [{kind: folder / place / f"{kind}.txt" for kind in TRAIN + VALID} for place in PLACES]
    there = [{kind: path for kind, path in place.items() if path.is_file()} for place in places]
    pairs = [place for place in there if "train" in place and "val" in place]
    return next(iter([*pairs, *(place for place in there if place)]), {})


def split(folder: Path, everything: Sequence[T], read: Callable[[Path], list[T]], valid: float, seed: int) -> Split[T]:
    """The two parts of a folder's images.

    Args:
        folder: holds the lists, if there are any.
        everything: all its images, in order.
        read: the images that a list names.
        valid: share that is set apart where no list says what to validate on.
        seed: of that choice.

    Raises:
        InputError: there are fewer than two images, or lists leave nothing to train on.
    """
    lists = lists_in(folder)
    trained = next((kind for kind in TRAIN if kind in lists), None)
    checked = next((kind for kind in VALID if kind in lists), None)
    if checked is None:
        items, source = (read(lists[trained]), lists[trained].name) if trained else (everything, _none(folder))
        return _apart(folder, items, source, valid, seed)
    if trained == "train":
        items, source, validated = read(lists["train"]), "train.txt", read(lists[checked])
    else:
        validated = read(lists[checked])
        held_out = {item for kind in VALID if kind in lists for item in read(lists[kind])}
        named = read(lists[trained]) if trained else everything
        items = [item for item in named if item not in held_out]
        source = f"{trained}.txt" if trained else "what no list names"
    if not items:
        raise InputError(f"{lists[checked]}: names every image, so none is left to train on; add a train.txt")
    told = f"split: {source} to train, {lists[checked].name} to validate on"
    return Split(items, validated, told + (", test.txt left out" if checked != "test" and "test" in lists else ""))


def _none(folder: Path) -> str:
    """That no list says how to split, and which files look as if they did."""
    texts = [path for place in ("*.txt", "ImageSets/**/*.txt") for path in sorted(folder.glob(place))]
    alike = [path.relative_to(folder) for path in texts if any(word in path.stem.lower() for word in TRAIN + VALID)]
    more = f" and {len(alike) - 1} more" if len(alike) > 1 else ""
    return f"no list (not {alike[0]}{more}: call them train.txt and val.txt)" if alike else "no list"


def _apart(folder: Path, items: Sequence[T], source: str, valid: float, seed: int) -> Split[T]:
    """A seeded share of the images set apart."""
    if len(items) < 2:
        raise InputError(f"{folder}: {len(items)} annotations; at least two are needed, to train and to validate on")
    train, apart = set_apart([str(item) for item in items], valid, seed)
    told = f"split: {source}, so {valid:.0%} by seed {seed} to validate on"
    return Split([items[i] for i in train], [items[i] for i in apart], told)
