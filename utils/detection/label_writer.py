"""Lists and label files as the project reads them, written from the annotations of another format.

The converters (``voc.py``, ``coco.py`` …) read; what they all do with what they read is here.
"""

from __future__ import annotations

import difflib
import logging
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from utils.errors import InputError

log = logging.getLogger(__name__)

MARK = "# converted from "
Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class Annotated:
    """One image: its path, and the class and (x1, y1, x2, y2; 0..1 of the image) of each object."""

    image: Path
    objects: tuple[tuple[str, Corners], ...]


Splits = Mapping[str, Sequence[Annotated]]  # "train" and "val"


@dataclass
class Findings:
    """What was odd in a set; boxes without area were named in the log."""

    images: int = 0
    boxes: int = 0
    difficult: int = 0
    skipped_difficult: int = 0
    crowd: int = 0
    shapeless: int = 0
    empty: int = 0
    clipped: int = 0
    resized: int = 0
    other_class: int = 0
    splits: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        parts = [f"{self.images} images ({', '.join(f'{n} {k}' for k, n in self.splits.items())}), {self.boxes} boxes"]
        names = {
            "difficult": "marked difficult (kept)",
            "skipped_difficult": "marked difficult (skipped)",
            "crowd": "crowd regions (skipped)",
            "shapeless": "with a segmentation but no box (skipped)",
            "empty": "without area (skipped)",
            "clipped": "cut at the image's edge",
            "resized": "images of another size than their annotation says",
            "other_class": "of other classes (skipped)",
        }
        return ", ".join(parts + [f"{n} {text}" for key, text in names.items() if (n := getattr(self, key))])


def refuse_taken(out: Path) -> None:
    """Nothing is overwritten.

    Raises:
        InputError: ``out``, ``out.data`` or ``out.names`` is there.
    """
    for taken in (out, Path(f"{out}.data"), Path(f"{out}.names")):
        if taken.exists():
            raise InputError(f"{taken}: exists already; choose another --out")


def unit_of(place: object, said: tuple[int, int], size: tuple[int, int], found: Findings) -> tuple[int, int]:
    """(height, width) to divide an image's pixel boxes by.

    Args:
        place: the annotation, for the log.
        said: (height, width) the annotation says; (0, 0) where it does not.
        size: (height, width) of the image itself.
        found: counts images of another size than was said.
    """
    if not min(said) or said == size:
        return size
    found.resized += 1
    log.warning("%s: says %d x %d px, the image has %d x %d", place, said[1], said[0], size[1], size[0])
    same_aspect = abs(said[0] * size[1] / (said[1] * size[0]) - 1) < 0.01
    return said if same_aspect else size  # an image only scaled keeps its shares, else trust the pixels


def clipped(place: object, corners: Sequence[float], unit: tuple[int, int], found: Findings) -> Corners | None:
    """A box (x1, y1, x2, y2 px) as shares of the image, cut at its edge; None where it has no area.

    Args:
        place: the annotation, for the log.
        corners: x1, y1, x2, y2 px.
        unit: (height, width) px that they are in.
        found: counts boxes cut, and boxes without area.
    """
    limits = (unit[1], unit[0], unit[1], unit[0])
    inside = [min(max(value, 0.0), limit) for value, limit in zip(corners, limits, strict=True)]
    x1, y1, x2, y2 = (value / limit for value, limit in zip(inside, limits, strict=True))
    if x2 <= x1 or y2 <= y1:
        found.empty += 1
        log.warning("%s: a box without area (%s); skipped", place, " ".join(f"{value:g}" for value in corners))
        return None
    found.clipped += inside != list(corners)
    return x1, y1, x2, y2


def random_split(count: int, valid: float, seed: int) -> tuple[list[int], list[int]]:
    """Numbers 0 to count - 1, the share ``valid`` of them (at least one, not all) apart; both in order."""
    order = np.random.Generator(np.random.PCG64(seed)).permutation(count).tolist()
    apart = min(count - 1, max(1, round(valid * count)))
    return sorted(order[apart:]), sorted(order[:apart])


def class_names(splits: Splits, classes: Sequence[str], source: object, known: Sequence[str] = ()) -> list[str]:
    """The classes in the order of their numbers.

    Args:
        splits: the images.
        classes: those asked for, in this order; empty: ``known``, or else all that occur, by name.
        source: what was converted, for messages.
        known: those the set itself lists, in its order.

    Raises:
        InputError: there is no object at all, or none of a class that was asked for.
    """
    counts = Counter(name for items in splits.values() for item in items for name, _ in item.objects)
    if not counts:
        raise InputError(f"{source}: no object in any annotation; there is nothing to learn")
    for name in classes:
        if name not in counts:
            near = difflib.get_close_matches(name, counts, n=1, cutoff=0.4)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(sorted(counts))}"
            raise InputError(f"--classes: no object of class '{name}' in {source}; {hint}")
    return list(classes) or list(known) or sorted(counts)


def write_set(out: Path, splits: Splits, names: Sequence[str], found: Findings, *, mark: str = "") -> None:
    """Write ``out.data``, ``out.names`` and the folder ``out`` (lists, labels); the ``.data`` file comes last.

    Raises:
        InputError: two images have one name.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:
        build = Path(temporary) / out.name
        write_lists(build, splits, names, found)
        names_file, data_file = Path(temporary) / "names", Path(temporary) / "data"
        names_file.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
        data_file.write_text(
            f"{MARK}{mark}\nclasses = {len(names)}\ntrain = {out.name}/train.txt\n"
            f"valid = {out.name}/val.txt\nnames = {out.name}.names\nlabels = {out.name}/labels\n",
            encoding="utf-8",
        )
        build.replace(out)
        names_file.replace(f"{out}.names")
        data_file.replace(f"{out}.data")  # last: where it is, everything is


def write_lists(folder: Path, splits: Splits, names: Sequence[str], found: Findings) -> None:
    """Write train.txt, val.txt and labels/ into a new folder; counts images and boxes.

    Raises:
        InputError: two images have one name.
    """
    (folder / "labels").mkdir(parents=True)
    numbers = {name: number for number, name in enumerate(names)}
    found.splits = {split: len(items) for split, items in splits.items()}
    found.images = sum(found.splits.values())
    for split, items in splits.items():
        (folder / f"{split}.txt").write_text("".join(f"{item.image}\n" for item in items), encoding="utf-8")
        for item in items:
            _write_labels(folder / "labels" / f"{item.image.stem}.txt", item, numbers, found)


def _write_labels(path: Path, item: Annotated, numbers: Mapping[str, int], found: Findings) -> None:
    if path.exists():
        raise InputError(f"{item.image}: two images of the set are named {path.stem}; rename one")
    rows = []
    for name, (x1, y1, x2, y2) in item.objects:
        if name not in numbers:
            found.other_class += 1
            continue
        found.boxes += 1
        rows.append(f"{numbers[name]} {(x1 + x2) / 2:.6f} {(y1 + y2) / 2:.6f} {x2 - x1:.6f} {y2 - y1:.6f}\n")
    path.write_text("".join(rows), encoding="utf-8")
