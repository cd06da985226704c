"""What happens to a picture's boxes between the disk and the network; every number is px unless it says 0..1.

Coordinates are continuous: pixel i covers i to i + 1, so that a box round pixels 3 to 5 is 3 to 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from utils.data.transforms import GREY, Jitter


@dataclass(frozen=True)
class Augment(Jitter):
    """How strongly training images and their boxes are changed.

    ``mosaic``: share of samples made of four images. ``visible``: the least share of a box that must be left of it;
    below, it is no longer an object that can be known.
    """

    mosaic: float = 1.0  # four times the objects and four contexts in an image: the largest gain on small sets
    visible: float = 0.25

    @classmethod
    def off(cls) -> Augment:
        """Nothing changes: a letterboxed image."""
        return cls(mosaic=0.0, translate=0.0, scale=0.0, hsv=(0.0, 0.0, 0.0), flip=0.0)


def to_corners(boxes: np.ndarray) -> np.ndarray:
    """Boxes [n, 5] (class, cx, cy, w, h) to (class, x1, y1, x2, y2), in the same unit."""
    half = boxes[:, 3:5] / 2
    return np.concatenate([boxes[:, :1], boxes[:, 1:3] - half, boxes[:, 1:3] + half], 1)


def to_shares(corners: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Boxes [n, 5] (class, corners in px of an image of ``size``) to (class, cx, cy, w, h; 0..1 of it)."""
    low, high, whole = corners[:, 1:3], corners[:, 3:5], np.array(size[::-1], np.float32)
    return np.concatenate([corners[:, :1], (low + high) / (2 * whole), (high - low) / whole], 1)


def place(corners: np.ndarray, size: tuple[int, int], pad: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Boxes [n, 5] (class, corners; 0..1 of an image) to px, the image being of ``size`` behind ``pad`` (top, left)."""
    (h, w), (top, left) = size, pad
    return corners * np.array([1, w, h, w, h], np.float32) + np.array([0, left, top, left, top], np.float32)


def mosaic(
    images: Sequence[np.ndarray], boxes: Sequence[np.ndarray], size: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Four images round a random centre of a canvas twice the size.

    Args:
        images: four of uint8 [h, w, C], each at most ``size``.
        boxes: of each, [n, 5] (class, corners; 0..1 of its image).
        size: (height, width) of the network's image.
        rng: where the centre comes from.

    Returns:
        The canvas [2H, 2W, C] and the boxes on it [n, 5], corners in px, not clipped: what is lost can be told.
    """
    height, width = size
    canvas = np.full((2 * height, 2 * width, images[0].shape[2]), GREY, np.uint8)
    cy, cx = (int(rng.integers(n // 2, n + n // 2 + 1)) for n in size)
    moved = []
    for quarter, (image, rows) in enumerate(zip(images, boxes, strict=True)):
        h, w = image.shape[:2]
        y = cy - h if quarter < 2 else cy  # each image touches the centre with a corner
        x = cx - w if quarter % 2 == 0 else cx
        y1, x1, y2, x2 = max(y, 0), max(x, 0), min(y + h, 2 * height), min(x + w, 2 * width)
        canvas[y1:y2, x1:x2] = image[y1 - y : y2 - y, x1 - x : x2 - x]
        moved.append(place(rows, (h, w), (y, x)))
    return canvas, np.concatenate(moved)


def warp_boxes(
    boxes: np.ndarray, matrix: np.ndarray, source: tuple[int, int], size: tuple[int, int], visible: float
) -> np.ndarray:
    """Move boxes [n, 5] (class, corners in px) from an image of ``source`` to one of ``size``, clipped to both.

    A box stays if it is at least 2 px wide and high and at least ``visible`` of its area is inside.
    """
    if not len(boxes):
        return boxes
    low, high = _moved(boxes[:, 1:3], boxes[:, 3:5], matrix)
    whole = (high - low).prod(1)
    edge = np.array(source[::-1], np.float32)
    inside = np.minimum(np.maximum(boxes[:, 1:].reshape(-1, 2, 2), 0), edge)
    low, high = _moved(inside[:, 0], inside[:, 1], matrix)
    edge = np.array(size[::-1], np.float32)
    low, high = np.maximum(low, 0), np.minimum(high, edge)
    left = np.maximum(high - low, 0)
    keep = (left.min(1) >= 2) & (left.prod(1) >= visible * whole)
    return np.concatenate([boxes[:, :1], low, high], 1)[keep].astype(np.float32)


def _moved(low: np.ndarray, high: np.ndarray, matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The upright boxes round moved boxes: the middle goes with the map, the half sides with its absolute values."""
    middle = (low + high) / 2 @ matrix[:, :2].T + matrix[:, 2]
    half = (high - low) / 2 @ np.abs(matrix[:, :2]).T
    return middle - half, middle + half


def with_mosaic(strength: Augment, on: bool) -> Augment:
    """The same strengths, the mosaic off where ``on`` is false."""
    return strength if on else replace(strength, mosaic=0.0)
