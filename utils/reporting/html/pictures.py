"""Pictures inside a page: JPEGs in base64, made smaller until all of them together fit."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
from numpy.typing import NDArray

ROOM = 3_000_000  # characters for all pictures of a page; a page is to stay under 5 MB
SIZES = ((448, 85), (448, 70), (320, 70), (224, 60), (160, 50))  # longest side in px and JPEG quality, best first

Embedded = tuple[str, int, int]  # data: address, width and height in px


def embedded(rows: Sequence[Mapping[str, Path]]) -> list[dict[str, Embedded]]:
    """Every picture as a ``data:`` address, as large as there is room for; one that cannot be read is left out."""
    images = [
        {name: image for name, path in row.items() if (image := cv2.imread(str(path))) is not None} for row in rows
    ]
    found: list[dict[str, Embedded]] = []
    for side, quality in SIZES:
        found = [{name: _data(image, side, quality) for name, image in row.items()} for row in images]
        if sum(len(each[0]) for row in found for each in row.values()) <= ROOM:
            break
    return found


def _data(image: NDArray[Any], side: int, quality: int) -> Embedded:
    factor = min(1.0, side / max(image.shape[:2]))
    if factor < 1:
        image = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done, "OpenCV writes JPEG"
    address = "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode("ascii")
    return address, image.shape[1], image.shape[0]
