"""What happens to a picture between the disk and the network, whatever is to be learned of it; numbers are px.

Coordinates are continuous: pixel i covers i to i + 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import torch
from torch import Tensor

Resize = Literal["letterbox", "stretch"]
IMAGE_AXES = 4  # [N, C, H, W]
GREY = 114  # the border's brightness, as every YOLO since v3 was trained with
STEPS = np.arange(256, dtype=np.float32)


@dataclass(frozen=True)
class Jitter:
    """How strongly training images are changed.

    ``degrees``, ``shear``: at most, to either side. ``translate``: at most, as a share of the side. ``scale``: a factor
    from 1 - scale to 1 + scale. ``hsv``: greatest relative change of hue, saturation, value. ``flip``: share mirrored
    left to right.
    """

    degrees: float = 0.0  # a rotated box no longer fits its object; set it for aerial images
    translate: float = 0.1
    scale: float = 0.4  # 0.5 and more makes the smallest objects vanish at the sizes small networks run at
    shear: float = 0.0  # as degrees
    hsv: tuple[float, float, float] = (0.0138, 0.678, 0.36)  # the gains yolov3 has been trained with since 2019
    flip: float = 0.5

    @property
    def moves(self) -> bool:
        """Whether pixels change places."""
        return bool(self.degrees or self.translate or self.scale or self.shear)


@dataclass(frozen=True)
class Letterbox:
    """How an image was fitted into the network's: scaled, aspect kept to the pixel, and bordered.

    Or stretched (`fit`): it fills the network's image then, with two factors and no border.
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


def fit(original: tuple[int, int], size: tuple[int, int], how: Resize = "letterbox") -> Letterbox:
    """How an image (height, width) goes into ``size``: whole and in the middle, or stretched to all of it."""
    if how == "stretch":
        return Letterbox(original, size, (0, 0), size)
    (height, width), (most_h, most_w) = original, size
    factor = min(most_h / height, most_w / width)
    h, w = min(most_h, max(1, round(height * factor))), min(most_w, max(1, round(width * factor)))
    return Letterbox(original, (h, w), ((most_h - h) // 2, (most_w - w) // 2), size)


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale uint8 [H, W, C] to (height, width): areas averaged on the way down, linear on the way up."""
    least = (min(size[0], image.shape[0]), min(size[1], image.shape[1]))
    scaled = image
    if scaled.shape[:2] != least:  # first the sides that get shorter: OpenCV averages only where none gets longer
        scaled = cv2.resize(scaled, least[::-1], interpolation=cv2.INTER_AREA)
    if least != size:
        scaled = cv2.resize(scaled, size[::-1], interpolation=cv2.INTER_LINEAR)
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


@dataclass(frozen=True)
class Placement:
    """What is cut out of a picture and where in the network's image it goes, all (y, x) or (height, width) in px.

    ``shape`` from ``start`` on is cut out, ``scaled``, and put at ``place`` of an image of ``frame``, where it may hang
    over the border; the rest is grey. ``mirror``: then left to right.
    """

    start: tuple[int, int]
    shape: tuple[int, int]
    scaled: tuple[int, int]
    place: tuple[int, int]
    frame: tuple[int, int]
    mirror: bool


def placed(image: np.ndarray, by: Placement) -> np.ndarray:
    """A picture [H, W, C] as ``by`` says: uint8 [*frame, C]."""
    (y, x), (height, width), (top, left) = by.start, by.shape, by.place
    inner = resize(image[y : y + height, x : x + width], by.scaled)
    out = inner
    if by.scaled != by.frame or by.place != (0, 0):
        out = np.full((*by.frame, image.shape[2]), GREY, np.uint8)
        seen = out[max(0, top) : max(0, top + by.scaled[0]), max(0, left) : max(0, left + by.scaled[1])]
        seen[:] = inner[max(0, -top) :, max(0, -left) :][: seen.shape[0], : seen.shape[1]]
    return out[:, ::-1] if by.mirror else out


def random_matrix(
    source: tuple[int, int], size: tuple[int, int], strength: Jitter, rng: np.random.Generator
) -> np.ndarray:
    """A random affine map [2, 3] of (x, y, 1) from an image of ``source`` to one of ``size``, middle to middle."""
    turn, slant_x, slant_y, grow, shift_x, shift_y = rng.uniform(-1, 1, 6).tolist()
    angle, factor = math.radians(strength.degrees * turn), 1 + strength.scale * grow
    cos, sin = factor * math.cos(angle), factor * math.sin(angle)
    tan_x, tan_y = (math.tan(math.radians(strength.shear * slant)) for slant in (slant_x, slant_y))
    a, b, c, d = cos + tan_x * sin, tan_x * cos - sin, tan_y * cos + sin, cos - tan_y * sin  # the slant after the turn
    x, y = (n * (0.5 + strength.translate * shift) for n, shift in ((size[1], shift_x), (size[0], shift_y)))
    h, w = source[0] / 2, source[1] / 2
    return np.array([[a, b, x - a * w - b * h], [c, d, y - c * w - d * h]])


def mirror(matrix: np.ndarray, width: int) -> np.ndarray:
    """The map followed by a flip left to right."""
    return np.stack([(0, 0, width) - matrix[0], matrix[1]])


def warp(image: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Move an image by a map of continuous coordinates: uint8 [*size, C]."""
    by_index = matrix.copy()  # OpenCV counts from the middle of a pixel
    by_index[:, 2] += matrix[:, :2].sum(1) / 2 - 0.5
    out = cv2.warpAffine(image, by_index, size[::-1], borderValue=(GREY,) * 3)
    return out.reshape(*size, -1)


def shift_colours(image: np.ndarray, gains: tuple[float, float, float], rng: np.random.Generator) -> np.ndarray:
    """Change hue, saturation and value by random factors up to 1 ± gain; a grey image knows value only."""
    hue, saturation, value = (rng.uniform(-1, 1, 3) * gains + 1).tolist()
    bright = np.minimum(STEPS * value, 255)
    if image.shape[2] == 1:
        return cv2.LUT(image, bright.astype(np.uint8)).reshape(image.shape)
    tables = np.empty((1, 256, 3), np.uint8)
    tables[0, :, 0] = STEPS * hue % 180
    tables[0, :, 1] = np.minimum(STEPS * saturation, 255)
    tables[0, :, 2] = bright
    return cv2.cvtColor(cv2.LUT(cv2.cvtColor(image, cv2.COLOR_RGB2HSV), tables), cv2.COLOR_HSV2RGB)


def stack(images: Sequence[Tensor]) -> Tensor:
    """Images [C, H, W] of one size as a batch [N, C, H, W], channels last in memory."""
    return torch.stack([image.permute(1, 2, 0) for image in images]).permute(0, 3, 1, 2)


def as_inputs(images: Tensor, device: torch.device) -> Tensor:
    """Bytes [N, C, H, W], or frames [N, T, C, H, W], in 0..1: float32, images channels last, on the device."""
    layout = torch.channels_last if images.dim() == IMAGE_AXES else torch.contiguous_format
    return images.to(device, non_blocking=True).to(torch.float32, memory_format=layout).div_(255)
