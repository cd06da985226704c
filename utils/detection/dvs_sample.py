"""The embedded set of events: digits that move over photographs, as an event camera would have seen them.

The digits and photographs are those of the sample set of images, and no digit and no photograph is in both lists. Each
digit moves on a straight line, the photograph drifts by some px, as if the camera were held by hand; what the camera
sends of it is computed (``utils/data/dvs.py``), no event was recorded. The boxes are exact, at the end of every bin:
the inked pixels, moved to the sixteenth of a px. A scene is a pair of files as Prophesee writes them,
``00000_td.dat`` and ``00000_bbox.npy``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from utils.data.dvs import EventCamera, simulate
from utils.data.events import Events
from utils.data.prophesee import BOX, boxes_path, write_boxes, write_dat
from utils.data.sample_scenes import INK, LUMA, Material, Recipe, cut_to_ink, materials, shared_part
from utils.data.sample_set import ROOT, is_sample, prepare_set

DVS_SAMPLE = ROOT / "dvs-digits.data"
FINE = 16  # places of a digit in a px
MARGIN = 4  # px of the photograph beyond the picture, for its drift
TRIES = 40  # of a digit, to find a way where it hides no other
CLEAR = 90  # of 255: least difference in brightness of a digit and the photograph's mean

Grey = NDArray[np.uint8]


@dataclass(frozen=True)
class DvsRecipe:
    """Everything the set depends on; another recipe makes another set.

    ``size``: px of a scene. ``digits``: how many it has at least and at most. ``height``: px of a digit. ``bins`` of
    ``duration`` us each, with the boxes at their ends. ``step``: us from one picture to the next, between which
    brightness changes linearly. ``travel``: px of a digit from the first to the last. ``drift``: px of the photograph,
    at most. ``overlap``: share of the smaller of two boxes at the end of a bin.
    """

    version: int = 1
    seed: int = 20261128
    train: int = 2000
    valid: int = 300
    size: int = 96
    digits: tuple[int, int] = (1, 3)
    height: tuple[int, int] = (26, 56)
    bins: int = 5
    duration: int = 20_000
    step: int = 2_000
    travel: tuple[float, float] = (12.0, 40.0)
    drift: float = 2.0
    overlap: float = 0.1
    camera: EventCamera = field(default_factory=EventCamera)


@dataclass(frozen=True)
class MovingDigit:
    """A digit on its way: ``ink`` [h, w] of 255, ``grey``, its class, its corner (y, x) in 1/16 px at both ends."""

    label: int
    ink: Grey
    grey: int
    begin: NDArray[np.int64]
    end: NDArray[np.int64]

    def corner(self, now: int, duration: int) -> NDArray[np.int64]:
        """(y, x) in 1/16 px at ``now`` of ``duration`` us."""
        return self.begin + (self.end - self.begin) * now // duration

    def box(self, now: int, duration: int) -> tuple[float, float, float, float]:
        """x, y, width, height in px at that moment."""
        y, x = (self.corner(now, duration) / FINE).tolist()
        return x, y, float(self.ink.shape[1]), float(self.ink.shape[0])


@dataclass(frozen=True)
class DvsScene:
    """``events`` of one scene and its ``boxes``, rows of `BOX`; ``photograph`` and the digits' numbers tell of what."""

    events: Events
    boxes: NDArray[np.void]
    photograph: str
    digits: tuple[int, ...]


def prepare_if_dvs(path: Path | str) -> None:
    """Compose the set of events unless it is there, if ``path`` is its manifest; else do nothing."""
    if is_sample(path, DVS_SAMPLE.name):
        prepare_dvs()


def prepare_dvs(root: Path = ROOT, recipe: DvsRecipe = DvsRecipe(), wheel_folder: Path | None = None) -> Path:
    """Compose ``root/dvs-digits`` unless it is complete, and say where its manifest is; see ``prepare_set``.

    Raises:
        InputError: a wheel can not be fetched, or ``root/dvs-digits`` holds something else.
    """
    stamp = json.dumps(asdict(recipe), sort_keys=True)
    name = DVS_SAMPLE.name
    return prepare_set(
        name, root, stamp, "digits.names", lambda build, wheels: _compose(build, recipe, wheels), wheel_folder
    )


def _compose(build: Path, recipe: DvsRecipe, wheels: Path) -> str:
    """Both splits' recordings and boxes; a digest of them."""
    material = materials(Recipe(size=recipe.size), wheels)
    digest = hashlib.sha256()
    bar = {"desc": "composing the set of events", "unit": " scenes", "mininterval": 1, "disable": None}
    with tqdm(total=recipe.train + recipe.valid, **bar) as progress:
        for stream, (split, count) in enumerate((("train", recipe.train), ("valid", recipe.valid))):
            for i, scene in enumerate(dvs_scenes(material[split], count, recipe, stream)):
                path = build / split / f"{i:05d}_td.dat"
                write_dat(path, scene.events, (recipe.size, recipe.size))
                write_boxes(boxes_path(path), scene.boxes)
                digest.update(path.read_bytes() + scene.boxes.tobytes())
                progress.update()
    return digest.hexdigest()


def dvs_scenes(material: Material, count: int, recipe: DvsRecipe, stream: int) -> Iterator[DvsScene]:
    """``count`` scenes of one split, always the same; classes come from a shuffled deck, so that they are balanced."""
    names, deck = list(material.photographs), list[int]()
    for number in range(count):
        rng = np.random.Generator(np.random.PCG64((recipe.seed, stream, number)))
        name = names[rng.integers(len(names))]
        photograph = _backdrop(rng, material.photographs[name], recipe.size + 2 * MARGIN)
        movers: list[MovingDigit] = []
        used = []
        for _ in range(rng.integers(recipe.digits[0], recipe.digits[1], endpoint=True)):
            deck = deck or [int(c) for c in rng.permutation(10)]
            digit, glyph = material.digits[deck[-1]][rng.integers(len(material.digits[deck[-1]]))]
            mover = _mover(rng, deck[-1], glyph, int(photograph.mean()), movers, recipe)
            if mover:
                movers.append(mover)
                used.append(digit)
                deck.pop()
        drift = np.round(rng.uniform(-recipe.drift, recipe.drift, 2) * FINE).astype(np.int64)
        moments = range(0, recipe.bins * recipe.duration + 1, recipe.step)
        pictures = ((now, picture_at(now, photograph, drift, movers, recipe)) for now in moments)
        events = simulate(pictures, recipe.camera, rng).events
        yield DvsScene(events, _boxes(movers, recipe), name, tuple(used))


def picture_at(
    now: int, photograph: Grey, drift: NDArray[np.int64], movers: Sequence[MovingDigit], recipe: DvsRecipe
) -> Grey:
    """The scene as it looks at ``now`` us: grey, [size, size]."""
    duration, size = recipe.bins * recipe.duration, recipe.size
    y, x = (MARGIN * FINE + drift * now // duration).tolist()
    scene = _shifted(photograph, y % FINE, x % FINE)[y // FINE :, x // FINE :][:size, :size].astype(np.int64)
    for mover in movers:
        y, x = mover.corner(now, duration).tolist()
        ink = _shifted(np.pad(mover.ink, 1), -y % FINE, -x % FINE)  # to the right by what is over a whole px
        top, left = -(-y // FINE) - 1, -(-x // FINE) - 1
        rows, columns = np.arange(ink.shape[0]) + top, np.arange(ink.shape[1]) + left
        ink = ink[(rows >= 0) & (rows < size)][:, (columns >= 0) & (columns < size)]
        place = np.s_[max(0, top) : max(0, top) + ink.shape[0], max(0, left) : max(0, left) + ink.shape[1]]
        scene[place] = (scene[place] * (255 - ink.astype(np.int64)) + mover.grey * ink.astype(np.int64) + 127) // 255
    return scene.astype(np.uint8)


def _shifted(picture: Grey, down: int, across: int) -> Grey:
    """A picture as it looks from (down, across) sixteenths of a px further on, one row and column smaller; linear."""
    a = picture.astype(np.int64)
    rows = a[:-1] * (FINE - down) + a[1:] * down
    both = rows[:, :-1] * (FINE - across) + rows[:, 1:] * across
    return ((both + FINE * FINE // 2) // (FINE * FINE)).astype(np.uint8)


def _mover(
    rng: np.random.Generator, label: int, glyph: Grey, mean: int, others: Sequence[MovingDigit], recipe: DvsRecipe
) -> MovingDigit | None:
    """A digit and its way, on which it hides no other at the end of a bin; None where there was none."""
    low, high = recipe.height
    height = round(low * (high / low) ** rng.random())  # small sizes as frequent as large ones, on a scale of ratios
    width = max(3, round(glyph.shape[1] * height / glyph.shape[0]))
    ink = np.asarray(cv2.resize(glyph, (width, height), interpolation=cv2.INTER_LINEAR_EXACT), np.uint8)
    ink[ink < INK] = 0
    ink = cut_to_ink(ink)
    grey = int(rng.choice([value for value in range(256) if abs(value - mean) >= CLEAR]))
    room = (np.array([recipe.size, recipe.size]) - ink.shape) * FINE
    for _ in range(TRIES if room.min() >= 0 else 0):
        begin, end = (rng.integers(0, room + 1) for _ in range(2))
        mover = MovingDigit(label, ink, grey, begin, end)
        length = float(np.hypot(*(end - begin))) / FINE
        if recipe.travel[0] <= length <= recipe.travel[1] and not _hides(mover, others, recipe):
            return mover
    return None


def _hides(mover: MovingDigit, others: Sequence[MovingDigit], recipe: DvsRecipe) -> bool:
    whole = recipe.bins * recipe.duration
    return any(
        shared_part(_corners(mover, now, whole), _corners(other, now, whole)) > recipe.overlap
        for now in range(0, whole + 1, recipe.duration)
        for other in others
    )


def _corners(mover: MovingDigit, now: int, duration: int) -> tuple[float, float, float, float]:
    x, y, wide, high = mover.box(now, duration)
    return x, y, x + wide, y + high


def _boxes(movers: Sequence[MovingDigit], recipe: DvsRecipe) -> NDArray[np.void]:
    """The boxes at the end of every bin."""
    ends = [(n + 1) * recipe.duration for n in range(recipe.bins)]
    whole = ends[-1]
    rows = [(t, *mover.box(t, whole), mover.label, 1.0, i) for t in ends for i, mover in enumerate(movers)]
    return np.array(rows, BOX)


def _backdrop(rng: np.random.Generator, pyramid: Sequence[np.ndarray], side: int) -> Grey:
    """A square part of a photograph, grey, [side, side]."""
    level = pyramid[int(rng.integers(len(pyramid)))]
    cut = int(rng.integers(min(side, *level.shape[:2]), min(2 * side, *level.shape[:2]), endpoint=True))
    y, x = (int(rng.integers(0, n - cut + 1)) for n in level.shape[:2])
    grey = (level[y : y + cut, x : x + cut].astype(np.int64) @ LUMA // 256).astype(np.uint8)
    return cv2.resize(grey, (side, side), interpolation=cv2.INTER_LINEAR_EXACT)
