"""What happens to a picture and its boxes between the disk and the network; every number is px unless it says 0..1.

Coordinates are continuous: pixel i covers i to i + 1, so that a box round pixels 3 to 5 is 3 to 6.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

GREY = 114  # the border's brightness, as every YOLO since v3 was trained with


@dataclass(frozen=True)
class Augment:
    """How strongly training images are changed.

    ``mosaic``: share of samples made of four images. ``degrees``, ``shear``: at most, to either side.
    ``translate``: at most, as a share of the side. ``scale``: a factor from 1 - scale to 1 + scale.
    ``hsv``: greatest relative change of hue, saturation, value. ``flip``: share mirrored left to right.
    ``visible``: the least share of a box that must be left of it; below, it is no longer an object that can be known.
    """

    mosaic: float = 1.0  # four times the objects and four contexts in an image: the largest gain on small sets
    degrees: float = 0.0  # a rotated box no longer fits its object; set it for aerial images
    translate: float = 0.1
    scale: float = 0.4  # 0.5 and more makes the smallest objects vanish at the sizes small networks run at
    shear: float = 0.0  # as degrees
    hsv: tuple[float, float, float] = (0.0138, 0.678, 0.36)  # the gains yolov3 has been trained with since 2019
    flip: float = 0.5
    visible: float = 0.25

    @classmethod
    def off(cls) -> Augment:
        """Nothing changes: a letterboxed image."""
        return cls(mosaic=0.0, translate=0.0, scale=0.0, hsv=(0.0, 0.0, 0.0), flip=0.0)

    @property
    def moves(self) -> bool:
        """Whether pixels change places."""
        return bool(self.degrees or self.translate or self.scale or self.shear)


@dataclass(frozen=True)
class Letterbox:
    """How an image was fitted into the network's: scaled, aspect kept to the pixel, and bordered.

    ``original``, ``scaled``, ``size`` are (height, width); ``pad`` is (top, left).
    """

    original: tuple[int, int]
    scaled: tuple[int, int]
    pad: tuple[int, int]
    size: tuple[int, int]

    @property
    def scale(self) -> tuple[float, float]:
        """(vertical, horizontal) factor from the original to the network's image."""
        return self.scaled[0] / self.original[0], self.scaled[1] / self.original[1]

    def to_network(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes [n, 4] (x1, y1, x2, y2) in px of the original to px of the network's image."""
        (sy, sx), (top, left) = self.scale, self.pad
        return boxes * np.array([sx, sy, sx, sy], np.float32) + np.array([left, top, left, top], np.float32)

    def to_original(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes [n, 4] (x1, y1, x2, y2) in px of the network's image to px of the original, clipped to it."""
        (sy, sx), (top, left), (h, w) = self.scale, self.pad, self.original
        moved = (boxes - np.array([left, top, left, top], np.float32)) / np.array([sx, sy, sx, sy], np.float32)
        return moved.clip(0, np.array([w, h, w, h], np.float32))


def fit(original: tuple[int, int], size: tuple[int, int]) -> Letterbox:
    """The letterbox that fits an image (height, width) into ``size``, in the middle."""
    factor = min(size[0] / original[0], size[1] / original[1])
    h, w = (min(limit, max(1, round(n * factor))) for n, limit in zip(original, size, strict=True))
    return Letterbox(original, (h, w), ((size[0] - h) // 2, (size[1] - w) // 2), size)


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale uint8 [H, W, C] to (height, width): areas averaged on the way down, linear on the way up."""
    if image.shape[:2] == size:
        return image
    smaller = size[0] < image.shape[0] or size[1] < image.shape[1]
    scaled = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    return scaled.reshape(*size, -1)  # OpenCV drops a single channel


def letterbox(image: np.ndarray, box: Letterbox) -> np.ndarray:
    """Scale and border an image as ``box`` says: uint8 [H, W, C] of ``box.size``."""
    inner = resize(image, box.scaled)
    if box.scaled == box.size:
        return inner
    out = np.full((*box.size, image.shape[2]), GREY, np.uint8)
    (top, left), (h, w) = box.pad, box.scaled
    out[top : top + h, left : left + w] = inner
    return out


def to_corners(boxes: np.ndarray, size: tuple[int, int], pad: tuple[int, int] = (0, 0)) -> np.ndarray:
    """Boxes [n, 5] (class, cx, cy, w, h; 0..1 of an image of ``size``) to corners in px behind ``pad``."""
    h, w = size
    out = boxes.copy()
    half = boxes[:, 3:5] / 2
    out[:, 1:3] = (boxes[:, 1:3] - half) * (w, h) + pad[::-1]
    out[:, 3:5] = (boxes[:, 1:3] + half) * (w, h) + pad[::-1]
    return out


def to_shares(boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The inverse of ``to_corners`` without a pad."""
    h, w = size
    out = boxes.copy()
    out[:, 1:3] = (boxes[:, 1:3] + boxes[:, 3:5]) / 2 / (w, h)
    out[:, 3:5] = (boxes[:, 3:5] - boxes[:, 1:3]) / (w, h)
    return out


def mosaic(
    images: Sequence[np.ndarray], boxes: Sequence[np.ndarray], size: tuple[int, int], rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Four images round a random centre of a canvas twice the size.

    Args:
        images: four of uint8 [h, w, C], each at most ``size``.
        boxes: of each, [n, 5] with corners in px.
        size: (height, width) of the network's image.
        rng: where the centre comes from.

    Returns:
        The canvas [2H, 2W, C] and the boxes on it [n, 5], not clipped (so that what is lost of each can be told).
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
        moved.append(rows + np.array([0, x, y, x, y], np.float32))
    return canvas, np.concatenate(moved)


def random_matrix(
    source: tuple[int, int], size: tuple[int, int], strength: Augment, rng: np.random.Generator
) -> np.ndarray:
    """A random affine map [3, 3] (x, y, 1) from an image of ``source`` to one of ``size``, middle to middle."""
    angle, shear_x, shear_y = np.radians(rng.uniform(-1, 1, 3) * (strength.degrees, strength.shear, strength.shear))
    factor = rng.uniform(1 - strength.scale, 1 + strength.scale)
    shift = rng.uniform(-1, 1, 2) * strength.translate * (size[1], size[0])
    centre = np.array([[1, 0, -source[1] / 2], [0, 1, -source[0] / 2], [0, 0, 1]])
    cos, sin = factor * math.cos(angle), factor * math.sin(angle)
    turn = np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
    slant = np.array([[1, math.tan(shear_x), 0], [math.tan(shear_y), 1, 0], [0, 0, 1]])
    back = np.array([[1, 0, size[1] / 2 + shift[0]], [0, 1, size[0] / 2 + shift[1]], [0, 0, 1]])
    return back @ slant @ turn @ centre


def mirror(matrix: np.ndarray, width: int) -> np.ndarray:
    """The map followed by a flip left to right."""
    return np.array([[-1, 0, width], [0, 1, 0], [0, 0, 1]]) @ matrix


def warp(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Move an image by a map of continuous coordinates: uint8 [*size, C]."""
    half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
    by_index = np.linalg.inv(half) @ matrix @ half  # OpenCV counts from the middle of a pixel
    out = cv2.warpAffine(image, by_index[:2], size[::-1], borderValue=(GREY,) * 3)
    return out.reshape(*size, -1)


def warp_boxes(boxes: np.ndarray, matrix: np.ndarray, size: tuple[int, int], visible: float) -> np.ndarray:
    """Move boxes [n, 5] (class, corners in px) and clip them; leave out those of which too little can be seen.

    A box stays if it is at least 2 px wide and high and at least ``visible`` of its area is inside.
    """
    if not len(boxes):
        return boxes
    corners = boxes[:, [1, 2, 3, 2, 3, 4, 1, 4]].reshape(-1, 4, 2)
    moved = corners @ matrix[:2, :2].T + matrix[:2, 2]  # [n, 4, 2]
    low, high = moved.min(1), moved.max(1)
    limit = np.array([size[1], size[0]])
    inner_low, inner_high = low.clip(0, limit), high.clip(0, limit)
    left = inner_high - inner_low
    keep = (left >= 2).all(1) & (left.prod(1) >= visible * (high - low).prod(1))
    return np.concatenate([boxes[:, :1], inner_low, inner_high], 1)[keep].astype(np.float32)


def shift_colours(image: np.ndarray, gains: tuple[float, float, float], rng: np.random.Generator) -> np.ndarray:
    """Change hue, saturation and value by random factors up to 1 ± gain; a grey image knows value only."""
    hue, saturation, value = rng.uniform(-1, 1, 3) * gains + 1
    steps = np.arange(256)
    if image.shape[2] == 1:
        return cv2.LUT(image, (steps * value).clip(0, 255).astype(np.uint8)).reshape(image.shape)
    tables = [(steps * hue) % 180, (steps * saturation).clip(0, 255), (steps * value).clip(0, 255)]
    hsv = cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), np.stack(tables, -1).astype(np.uint8)[None])
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)


def with_mosaic(strength: Augment, on: bool) -> Augment:
    """The same strengths, the mosaic off where ``on`` is false."""
    return strength if on else replace(strength, mosaic=0.0)
