"""Sheets of pictures under their masks: training images, validation images, networks side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from utils.data.images import save_picture
from utils.data.lettering import text_size, write
from utils.data.pictures import PAPER, Picture, as_picture, colour, save_apiece, save_square, sheet, spread
from utils.segmentation.dataset import MaskDataset
from utils.segmentation.metrics import MaskMetrics

TRAINING, SHOWN, PICTURES, APIECE = 9, 6, 6, 6  # images on each kind of sheet, and as files of their own
SIDE = 384  # px; a smaller picture is enlarged by a whole factor to about this
STRONG = 0.55  # of the colour, the rest is the picture
NAMED = 0.02  # share of the pixels from which on a class is named


def overlay(image: Picture, mask: NDArray[np.uint8], names: Sequence[str], least: int = SIDE) -> Picture:
    """A picture [H, W, 3] under the colours of its classes, above their names; what is no class stays as it is."""
    factor = max(1, round(least / max(image.shape[:2])))
    whole = (image.shape[1] * factor, image.shape[0] * factor)
    large = cv2.resize(image, whole, interpolation=cv2.INTER_CUBIC) if factor > 1 else image
    labels = cv2.resize(mask, whole, interpolation=cv2.INTER_NEAREST).astype(np.uint8)
    palette = np.array([colour(label) for label in range(len(names))], np.float32)
    known = labels < len(names)
    out = large.astype(np.float32)
    out[known] = (1 - STRONG) * out[known] + STRONG * palette[labels[known]]
    return _legend(out.round().astype(np.uint8), labels, names)


def training_sheet(path: Path, dataset: MaskDataset, names: Sequence[str]) -> Path:
    """Images as the first epoch changes them, under their masks."""
    dataset.set_epoch(0)
    samples = [dataset[i] for i in spread(len(dataset), TRAINING)]
    cells = [overlay(as_picture(each.image), each.mask.numpy(), names) for each in samples]
    return save_square(path, cells)


def validation_sheet(path: Path, dataset: MaskDataset, found: MaskMetrics, names: Sequence[str], title: str) -> Path:
    """The truth beside the answer."""
    rows, titles = _columns(dataset, {title: found}, names, SHOWN)
    save_picture(path, sheet(rows, titles))
    return path


def compare(path: Path, dataset: MaskDataset, measured: Mapping[str, MaskMetrics], names: Sequence[str]) -> Path:
    """A sheet of validation images: the truth, then each network's answer."""
    rows, titles = _columns(dataset, measured, names, PICTURES)
    save_picture(path, sheet(rows, titles))
    return path


def separate(
    folder: Path, dataset: MaskDataset, measured: Mapping[str, MaskMetrics], names: Sequence[str]
) -> list[Path]:
    """What `compare` shows, each picture in a file of its own: ``<image>-<column>-<title>.jpg``."""
    rows, titles = _columns(dataset, measured, names, APIECE)
    return save_apiece(folder, rows, titles)


def _columns(
    dataset: MaskDataset, measured: Mapping[str, MaskMetrics], names: Sequence[str], most: int
) -> tuple[list[list[Picture]], tuple[str, ...]]:
    first = next(iter(measured.values())).answers.images
    rows = []
    for n in spread(len(first), most):
        sample = dataset[first[n].index]
        image = as_picture(sample.image)
        answers = [overlay(image, found.answers.images[n].mask, names) for found in measured.values()]
        rows.append([overlay(image, sample.mask.numpy(), names), *answers])
    return rows, ("ground truth", *measured)


def _legend(picture: Picture, labels: NDArray[np.uint8], names: Sequence[str]) -> Picture:
    """The picture above the names of the classes that have a part in it, each on its colour."""
    step = max(18, picture.shape[1] // 24)
    counts = np.bincount(labels.ravel(), minlength=256)[: len(names)]
    shown = [int(k) for k in np.argsort(-counts) if counts[k] > NAMED * labels.size][:8]
    bar = np.full((2 * step + 4, picture.shape[1], 3), PAPER, np.uint8)
    wide = picture.shape[1] // 4
    for n, label in enumerate(shown):
        x, y = (n % 4) * wide, (n // 4) * (step + 2)
        cv2.rectangle(bar, (x, y), (x + wide - 2, y + step), colour(label), cv2.FILLED)
        scale = step / 40
        while text_size(names[label], scale)[0] > wide - 6 and scale > 0.25:
            scale -= 0.05
        bright = float(np.dot(colour(label), (0.299, 0.587, 0.114)))
        ink = (0, 0, 0) if bright > 120 else (255, 255, 255)
        write(bar, names[label], (x + 2, y + step - 5), scale, ink)
    return np.concatenate([picture, bar])
