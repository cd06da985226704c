"""What the numbers of a box are measured in: pixels of the image, shares of it, pixels before it was turned.

An image whose EXIF turns it is read as it is shown. Its boxes are turned with it where the size that the annotation
says is that of the pixels as stored, and stay where it is that of the picture as shown.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from utils.data.images import Head, UnreadableImageError, image_head
from utils.detection.label_writer import Corners, Findings, clipped

log = logging.getLogger(__name__)

Size = tuple[int, int]  # (height, width) px
Placed = tuple[object, Sequence[float]]


def are_shares(corners: Sequence[Sequence[float]]) -> bool:
    """Whether boxes (x1, y1, x2, y2) are shares of the image (0..1): no box of pixels is so small."""
    values = [float(value) for box in corners for value in box]
    most = max(values, default=0.0)
    over_the_edge = most < 2 and not all(value.is_integer() for value in values)
    return most > 0 and (most <= 1 or over_the_edge)


def shares_of(
    place: object, image: Path, said: Size, boxes: Sequence[Placed], shares: bool, found: Findings
) -> list[Corners | None]:
    """The boxes of an image as shares (x1, y1, x2, y2) of it as it is read; None for those without area.

    A corrupt image has them by the size that its annotation says, and is left to who reads it.

    Args:
        place: the annotation, for the log.
        image: the file.
        said: (height, width) the annotation says; (0, 0) where it does not.
        boxes: of each its own place, for the log, and x1, y1, x2, y2.
        shares: whether they are shares of the image already, see ``are_shares``.
        found: what was odd.

    Raises:
        UnreadableImageError: it is corrupt, and nobody says its size.
    """
    try:
        head = image_head(image)
    except UnreadableImageError as error:
        if not min(said):
            raise
        found.note("unreadable", str(error))
        head = Head(said, 1)
    back = _turned_back(place, image, said, head, found) if boxes else False
    unit = (1, 1) if shares else unit_of(place, said, head.stored if back else head.size, found)
    inside = [clipped(of, corners, unit, found) for of, corners in boxes]
    return [turned_box(box, head.turn) if box and back else box for box in inside]


def turned_box(box: Corners, turn: int) -> Corners:
    """A box of the stored pixels (x1, y1, x2, y2; 0..1) in the picture that an EXIF orientation shows."""
    x1, y1, x2, y2 = box
    if turn in (2, 3):  # mirrored left to right, and so on as EXIF numbers them
        x1, x2 = 1 - x2, 1 - x1
    if turn in (3, 4):
        y1, y2 = 1 - y2, 1 - y1
    if turn >= 5:
        x1, y1, x2, y2 = y1, x1, y2, x2
    if turn in (6, 7):
        x1, x2 = 1 - x2, 1 - x1
    if turn in (7, 8):
        y1, y2 = 1 - y2, 1 - y1
    return x1, y1, x2, y2


def unit_of(place: object, said: Size, size: Size, found: Findings) -> Size:
    """(height, width) to divide an image's pixel boxes by.

    Args:
        place: the annotation, for the log.
        said: (height, width) the annotation says; (0, 0) where it does not.
        size: (height, width) of the image itself.
        found: counts images of another size than was said.
    """
    if not min(said) or said == size:
        return size
    message = f"{place}: says {said[1]} x {said[0]} px, the image has {size[1]} x {size[0]}"
    found.note("resized", message)
    log.warning("%s", message)
    return said if _same_aspect(said, size) else size  # an image only scaled keeps its shares, else trust the pixels


def _turned_back(place: object, image: Path, said: Size, head: Head, found: Findings) -> bool:
    """Whether the boxes are those of the pixels as stored, and are to be turned with them."""
    if head.turn == 1:
        return False
    stored, shown = (bool(min(said)) and _same_aspect(said, size) for size in (head.stored, head.size))
    name = f"{place}: EXIF turns {image.name} (orientation {head.turn})"
    if stored and not shown:
        found.note("turned", f"{name}; its boxes are turned with it, as its size is that before")
    elif shown and not stored:
        found.note("as_shown", f"{name}; its boxes stay, as its size is that after")
    else:
        found.note("unsure", f"{name} and no size says whether its boxes are turned; taken as they are, look at it")
    return stored and not shown


def _same_aspect(a: Size, b: Size) -> bool:
    return abs(a[0] * b[1] / (a[1] * b[0]) - 1) < 0.01
