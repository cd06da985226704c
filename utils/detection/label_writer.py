"""Lists and label files as the project reads them, written from the annotations of another format.

The converters (``voc.py``, ``coco.py`` …) read; what they all do with what they read is here.
"""

from __future__ import annotations

import difflib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from utils.data.conversions import publish
from utils.data.manifest import list_text
from utils.data.source_ids import write_ids
from utils.errors import InputError

log = logging.getLogger(__name__)

NOTES = "conversion_notes.txt"  # in the folder of the lists
Corners = tuple[float, float, float, float]


@dataclass(frozen=True)
class Annotated:
    """One image: its path, class and (x1, y1, x2, y2; 0..1 of the image) of each object, its id where it has one."""

    image: Path
    objects: tuple[tuple[str, Corners], ...]
    id: int | str | None = None


Splits = Mapping[str, Sequence[Annotated]]  # "train" and "val"


@dataclass
class Findings:
    """What was odd in a set: counts, and ``notes`` that name each place.

    ``split`` says which lists were used; ``categories`` are the source's own numbers of the classes, by name.
    """

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
    shares: int = 0
    turned: int = 0
    as_shown: int = 0
    unsure: int = 0
    renamed: int = 0
    unreadable: int = 0
    unlabelled: int = 0
    splits: dict[str, int] = field(default_factory=dict)
    split: str = ""
    notes: list[str] = field(default_factory=list)
    categories: dict[str, int | str] = field(default_factory=dict)

    def note(self, kind: str, message: str) -> None:
        """Count something odd and remember where it was."""
        setattr(self, kind, getattr(self, kind) + 1)
        self.notes.append(message)

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
            "shares": "images with boxes in 0..1, taken as shares",
            "turned": "images turned by EXIF, their boxes with them",
            "as_shown": "images turned by EXIF, their boxes as they are",
            "unsure": "images turned by EXIF whose annotation does not say which way (boxes as they are)",
            "renamed": "annotations that name another image (taken as of their own name)",
            "unreadable": "images that can not be read (still listed)",
            "unlabelled": "images without an annotation (left out)",
        }
        parts += [f"{n} {text}" for key, text in names.items() if (n := getattr(self, key))]
        return ", ".join([*parts, *([self.split] if self.split else [])])


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
        message = f"{place}: a box without area ({' '.join(f'{value:g}' for value in corners)}); skipped"
        found.note("empty", message)
        log.warning("%s", message)
        return None
    found.clipped += inside != list(corners)
    return x1, y1, x2, y2


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
    publish(out, lambda build: write_lists(build, splits, names, found), names, mark, f"labels = {out.name}/labels\n")


def write_lists(folder: Path, splits: Splits, names: Sequence[str], found: Findings) -> None:
    """Write train.txt, val.txt, labels/ and what else is known of the set into a new folder; counts images and boxes.

    ``conversion_notes.txt`` holds what was odd, for ``utils.data check``; ``coco_ids.json`` the source's own numbers of
    classes and images, for ``--save-json``.

    Raises:
        InputError: two images have one name.
    """
    (folder / "labels").mkdir(parents=True)
    numbers = {name: number for number, name in enumerate(names)}
    found.splits = {split: len(items) for split, items in splits.items()}
    found.images = sum(found.splits.values())
    written: dict[str, Annotated] = {}
    for split, items in splits.items():
        (folder / f"{split}.txt").write_text(list_text(item.image for item in items), encoding="utf-8")
        for item in items:
            stem = item.image.stem
            if stem not in written:
                _write_labels(folder / "labels" / f"{stem}.txt", item, numbers, found)
            elif written[stem] != item:  # an image may well be in both lists; that is told where the set is opened
                same = written[stem].image == item.image
                fact = "two annotations are of it; take" if same else f"two images of the set are named {stem}; rename"
                raise InputError(f"{item.image}: {fact} one")
            written[stem] = item
    (folder / NOTES).write_text("".join(f"{note}\n" for note in found.notes), encoding="utf-8")
    if found.categories:
        ids = {item.image.stem: item.id for items in splits.values() for item in items if item.id is not None}
        write_ids(folder, found.categories, ids)


def _write_labels(path: Path, item: Annotated, numbers: Mapping[str, int], found: Findings) -> None:
    rows = []
    for name, (x1, y1, x2, y2) in item.objects:
        if name not in numbers:
            found.other_class += 1
            continue
        found.boxes += 1
        rows.append(f"{numbers[name]} {(x1 + x2) / 2:.6f} {(y1 + y2) / 2:.6f} {x2 - x1:.6f} {y2 - y1:.6f}\n")
    path.write_text("".join(rows), encoding="utf-8")
