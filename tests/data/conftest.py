"""Tiny sets made on the spot: rectangles of one brightness on another, so that a box can be measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.data.manifest import Manifest
from utils.detection.open_data import read_manifest

MakeSet = Callable[..., Manifest]


def write_set(
    folder: Path,
    count: int = 6,
    shape: tuple[int, int] = (60, 100),
    rectangle: tuple[int, int, int, int] = (20, 12, 70, 42),
) -> Manifest:
    """``count`` grey images, each with one bright rectangle (x1, y1, x2, y2 px) of class i % 2."""
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    x1, y1, x2, y2 = rectangle
    h, w = shape
    for i in range(count):
        image = np.full((h, w, 3), 114, np.uint8)
        image[y1:y2, x1:x2] = 255
        cv2.imwrite(str(folder / f"images/{i}.png"), image)
        row = f"{i % 2} {(x1 + x2) / 2 / w:.6f} {(y1 + y2) / 2 / h:.6f} {(x2 - x1) / w:.6f} {(y2 - y1) / h:.6f}\n"
        (folder / f"labels/{i}.txt").write_text(row)
    (folder / "list.txt").write_text("".join(f"images/{i}.png\n" for i in range(count)))
    (folder / "set.names").write_text("cat\ndog\n")
    (folder / "set.data").write_text("classes = 2\ntrain = list.txt\nvalid = list.txt\nnames = set.names\nflip = 0.5\n")
    return read_manifest(folder / "set.data")


@pytest.fixture
def tiny(tmp_path: Path) -> Manifest:
    return write_set(tmp_path / "tiny")
