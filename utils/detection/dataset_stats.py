"""What is in a set and what is wrong with it: every image decoded, every label row read, nothing stopped at.

``read_labels`` and ``read_image`` refuse the first mistake, as training must; here each one is noted, and on it goes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.data.look_over import LookedAt, duplicates, few, in_both, look_over, with_picture
from utils.data.manifest import Manifest
from utils.data.overlaps import shared
from utils.data.text import read_text
from utils.detection.label_writer import NOTES
from utils.detection.labels import clip_to_image, label_of, label_path, parse_row
from utils.errors import InputError
from utils.files import no_file

TURNED = "EXIF turns it (orientation {}); its labels must be of the picture as shown, look at samples.jpg"

MOSTLY = 0.5  # of a box that is in the image: a centre lies in it, so that a quarter always is
OUTSIDE = "{:.0%} of the box lies outside the image; are its numbers corners? wanted are cx cy w h"


@dataclass(kw_only=True)
class Seen(LookedAt):
    """One image of a list, with what its files say.

    ``boxes`` float32 [n, 5] (class, cx, cy, w, h; 0..1) are those of rows that are right.
    """

    boxes: np.ndarray
    labelled: bool = True


@dataclass(frozen=True)
class Survey:
    """A set as it was found; ``splits`` are "train" and "valid", in the lists' order.

    ``notes`` are what its conversion found odd, an empty list included; None where it was not converted.
    """

    manifest: Manifest
    splits: dict[str, list[Seen]]
    notes: list[str] | None = None

    @property
    def errors(self) -> list[str]:
        """What a training would refuse."""
        found = [message for items in self.splits.values() for seen in items for message in seen.errors]
        images = [seen.path for items in self.splits.values() for seen in items]
        for label, users in shared(images, self.manifest, label_of).items():
            found.append(f"{label}: the label file of {len(users)} images, {few([str(path) for path in users])}")
        for split, items in self.splits.items():
            if not any(seen.labelled for seen in items):
                where = label_path(items[0].path, self.manifest.labels)
                found.append(f"{split}: none of {len(items)} images has a label file, such as {where}")
            elif not any(len(seen.boxes) for seen in items):
                found.append(f"{split}: not one box in {len(items)} images; there is nothing to learn or to measure")
        return list(dict.fromkeys(found))  # an image that is in both lists says it once

    @property
    def warnings(self) -> list[str]:
        """What a training would do with, but somebody should know."""
        found = [*duplicates(self.splits), *(self.notes or [])]
        boxes = {split: self.count(split) for split in self.splits}
        for number, name in enumerate(self.manifest.names):
            absent = [split for split in self.splits if not boxes[split][number]]
            if absent:
                found.append(f"class {number} ({name}): no box in {' nor '.join(absent)}")
        found += [message for items in self.splits.values() for seen in items for message in seen.warnings]
        if self.notes is None:
            turned = [seen for items in self.splits.values() for seen in items if seen.turn != 1]
            found += [f"{seen.path}: {TURNED.format(seen.turn)}" for seen in turned]
        for split, items in self.splits.items():
            bare = [seen for seen in items if not seen.labelled]
            if bare and len(bare) < len(items):
                first = f"{split}: {len(bare)} of {len(items)} images have no label file (no objects), first"
                found.append(f"{first} {bare[0].path}")
        return list(dict.fromkeys(found))

    def in_both(self, split: str) -> list[Seen]:
        """The images of a list that are in the other one too."""
        return in_both(self.splits, split)

    def count(self, split: str) -> Counter[int]:
        """Boxes of each class."""
        return Counter(int(row[0]) for seen in self.splits[split] for row in seen.boxes)

    def sizes(self, split: str) -> np.ndarray:
        """(width, height) of every box, px of the original image: float64 [n, 2]."""
        rows = [seen.boxes[:, 3:5] * seen.shape[::-1] for seen in self.splits[split] if seen.shape]
        return np.concatenate([np.zeros((0, 2)), *rows])


def survey(manifest: Manifest) -> Survey:
    """Look at every image and label file of a set, on all cores.

    Raises:
        InputError: a list is missing or empty.
    """
    splits = look_over(manifest, lambda path: with_picture(_with_labels(path, manifest)))
    notes = manifest.train.parent / NOTES
    said = read_text(notes).splitlines() if notes.is_file() else None
    return Survey(manifest, splits, said)


def _with_labels(path: Path, manifest: Manifest) -> Seen:
    """The rows of an image's label file that are right, and what is wrong with the others."""
    place = label_path(path, manifest.labels)
    seen = Seen(path=path, boxes=np.zeros((0, 5), np.float32), labelled=not no_file(place))
    if not seen.labelled:
        seen.errors += [f"{place}: {no_file(place)}"] * (no_file(place) != "no such file")
        return seen
    rows: list[list[float]] = []
    for number, line in enumerate(read_text(place).splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = parse_row(line, f"{place}:{number}", manifest.classes)
        except InputError as error:
            seen.errors.append(str(error))
            continue
        if min(row[3:]) <= 0:
            seen.warnings.append(f"{place}:{number}: a box without area ({line.strip()}); it is skipped")
        elif row in rows:
            seen.warnings.append(f"{place}:{number}: the same box as in line {rows.index(row) + 1}")
        else:
            rows.append(row)
            if _inside(row) < MOSTLY:
                seen.warnings.append(f"{place}:{number}: {OUTSIDE.format(1 - _inside(row))}")
    seen.boxes = clip_to_image(np.array(rows, dtype=np.float32).reshape(-1, 5))
    return seen


def _inside(row: list[float]) -> float:
    """The share of a box (class, cx, cy, w, h) that lies in the image."""
    cut = clip_to_image(np.array([row], np.float64))[0]
    return float(cut[3] * cut[4] / (row[3] * row[4]))
