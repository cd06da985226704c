"""Label files: one object a row, ``class cx cy w h``, the last four as shares (0..1) of the image.

Rows of a polygon, ``class x1 y1 x2 y2 x3 y3 …``, as sets of masks and of turned boxes have them (ultralytics, Roboflow,
CVAT), are read as the upright box round it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import numpy as np

from utils.data.manifest import Manifest
from utils.data.text import read_text, say_once
from utils.errors import InputError
from utils.files import no_file

log = logging.getLogger(__name__)

ROUNDING = 1e-6  # how far outside 0..1 a value may lie: the last of the six digits label files are written with
TRIANGLE = 7  # numbers in the row of the smallest polygon


def label_path(image: Path, labels: Path | None = None) -> Path:
    """Where the labels of an image are: in ``labels``, else where the last folder named images becomes labels.

    Else they lie beside the image, if there is a file there and none in the folder labels.
    """
    if labels is not None:
        return labels / f"{image.stem}.txt"
    beside = image.with_suffix(".txt")
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] in ("images", "JPEGImages"):
            parts[i] = "labels"
            break
    usual = Path(*parts).with_suffix(".txt")
    return beside if usual != beside and not usual.is_file() and beside.is_file() else usual


def label_of(image: Path, manifest: Manifest) -> Path:
    """The same, of an image of a set."""
    return label_path(image, manifest.labels)


def is_label_file(path: Path) -> bool:
    """Whether an image has labels in this file; without one it is an image without objects.

    Raises:
        InputError: what is there is no file.
    """
    reason = no_file(path)
    if reason not in ("", "no such file"):
        raise InputError(f"{path}: {reason}; put the image's labels there, or nothing")
    return not reason


def read_labels(path: Path, classes: int) -> np.ndarray:
    """The objects of one file: float32 [n, 5] (class, cx, cy, w, h), clipped to the image.

    A box without area is reported and left out.

    Raises:
        InputError: a row is malformed, a class too high or a value outside 0..1; file, line and value are named.
    """
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        row = parse_row(line, f"{path}:{number}", classes)
        if is_polygon(line.split()):
            say_once(log, logging.WARNING, f"{path.parent}: holds polygons; the upright boxes round them count")
        if min(row[3:]) <= 0:
            log.warning("%s:%d: a box without area (%s); skipped", path, number, line.strip())
        else:
            rows.append(row)
    return clip_to_image(np.array(rows, dtype=np.float32).reshape(-1, 5))


def parse_row(line: str, place: str, classes: int) -> list[float]:
    """Class, cx, cy, w, h of one row; a box may still be without area, or hang over the image's edge.

    Raises:
        InputError: the row is malformed, the class too high or a value outside 0..1.
    """
    try:
        row = [float(word) for word in line.split()]
    except ValueError:
        row = []
    polygon = is_polygon(row)
    if not (len(row) == 5 or polygon) or not row[0].is_integer():
        raise InputError(
            f"{place}: '{line.strip()[:60]}' is not 'class cx cy w h'; five numbers a row, a whole one first"
        )
    if not 0 <= row[0] < classes:
        raise InputError(
            f"{place}: class {row[0]:.0f} of {classes} (0 to {classes - 1}): wrong class count; check classes="
        )
    for name, value in zip(cycle(("x", "y") if polygon else ("cx", "cy", "w", "h")), row[1:], strict=False):
        if not -ROUNDING <= value <= 1 + ROUNDING:
            raise InputError(
                f"{place}: {name} = {value:.8g} is outside 0..1; labels are shares of the image, not pixels"
            )
    return [row[0], *_upright(row[1:])] if polygon else row


def is_polygon(row: Sequence[object]) -> bool:
    """Whether a row is a class and the corners of a polygon, three or more."""
    return len(row) >= TRIANGLE and len(row) % 2 == 1


def _upright(points: Sequence[float]) -> list[float]:
    """cx, cy, w, h of the box round the corners x1, y1, x2, y2 …"""
    (left, right), (top, bottom) = ((min(side), max(side)) for side in (points[::2], points[1::2]))
    return [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]


def clip_to_image(rows: np.ndarray) -> np.ndarray:
    """Cut what hangs over the image's edge; rows inside stay bit for bit."""
    half = rows[:, 3:5] / 2
    low, high = rows[:, 1:3] - half, rows[:, 1:3] + half
    out = ((low < -ROUNDING) | (high > 1 + ROUNDING)).any(1)
    if out.any():
        rows = rows.copy()
        low, high = low[out].clip(0, 1), high[out].clip(0, 1)
        rows[out, 1:3], rows[out, 3:5] = (low + high) / 2, high - low
    return rows


def read_all(images: Sequence[Path], manifest: Manifest, source: Path) -> tuple[list[np.ndarray], int]:
    """The labels of every image of a list, and how many images have no label file (images without objects).

    Raises:
        InputError: no image at all has a label file, or one of the files is wrong.
    """
    found, missing = [], 0
    for image in images:
        path = label_path(image, manifest.labels)
        if is_label_file(path):
            rows = read_labels(path, manifest.classes)
            if manifest.numbers:
                rows[:, 0] = np.array(manifest.numbers, np.float32)[rows[:, 0].astype(int)]
            found.append(rows)
        else:
            missing += 1
            found.append(np.zeros((0, 5), dtype=np.float32))
    if missing == len(images):
        raise InputError(
            f"{source}: none of {len(images)} images has a label file, such as "
            f"{label_path(images[0], manifest.labels)}; labels are looked up with the folder 'images' replaced by "
            f"'labels', beside the images, or in the folder that a line 'labels = FOLDER' names in {manifest.path}"
        )
    if missing:
        log.info("%s: %d of %d images have no label file: images without objects", source, missing, len(images))
    return found, missing
