"""Sheets of pictures with their classes: training images, validation images, networks side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from utils.classification.dataset import ClassDataset, in_turn
from utils.classification.metrics import ClassificationMetrics
from utils.classification.recordings import EventDataset
from utils.data.images import save_picture
from utils.data.lettering import text_size, write
from utils.data.pictures import INK, PAPER, Picture, as_picture, save_apiece, save_square, sheet, spread

TRAINING, SHOWN, PICTURES, APIECE = 25, 25, 8, 6  # images on each kind of sheet, and as files of their own
SIDE = 192  # px; a smaller image is enlarged by a whole factor to about this
RIGHT, WRONG = (0, 110, 0), (190, 0, 0)
LINE = 20  # px


def captioned(image: Picture, lines: Sequence[str], ink: tuple[int, int, int] = INK, least: int = SIDE) -> Picture:
    """A picture, enlarged where it is small, above lines of text."""
    height, width = image.shape[:2]
    factor = max(1, round(least / max(height, width)))
    whole = (width * factor, height * factor)
    large = image if factor == 1 else cv2.resize(image, whole, interpolation=cv2.INTER_CUBIC)
    step = max(LINE, large.shape[1] // 24)
    out = np.full((large.shape[0] + step * len(lines) + 6, large.shape[1], 3), PAPER, np.uint8)
    out[: large.shape[0]] = large
    for n, text in enumerate(lines, 1):
        scale = step / 40
        while text_size(text, scale)[0] > out.shape[1] - 4 and scale > 0.3:
            scale -= 0.05
        write(out, text, (2, large.shape[0] + step * n - 4), scale, ink)
    return out


def training_sheet(path: Path, dataset: ClassDataset | EventDataset, names: Sequence[str]) -> Path:
    """Images as the first epoch changes them, with their classes."""
    dataset.set_epoch(0)
    drawn = np.random.Generator(np.random.PCG64(dataset.seed)).permutation(len(dataset))[:TRAINING]  # of all classes
    samples = [dataset[int(i)] for i in drawn]
    return save_square(path, [captioned(as_picture(each.image), [names[each.label]]) for each in samples])


def validation_sheet(
    path: Path, dataset: ClassDataset | EventDataset, found: ClassificationMetrics, names: Sequence[str], title: str
) -> Path:
    """What images are beside what they are taken for."""
    cells = []
    for n in of_all_classes(found.answers.labels.tolist(), SHOWN):
        image = as_picture(dataset[found.answers.indices[n]].image)
        cells.append(_answer(image, found, n, names, truth=True))
    return save_square(path, cells)


def compare(
    path: Path,
    dataset: ClassDataset | EventDataset,
    measured: Mapping[str, ClassificationMetrics],
    names: Sequence[str],
) -> Path:
    """A sheet of validation images: the truth, then each network's answer."""
    rows, titles = _columns(dataset, measured, names, PICTURES)
    save_picture(path, sheet(rows, titles))
    return path


def separate(
    folder: Path,
    dataset: ClassDataset | EventDataset,
    measured: Mapping[str, ClassificationMetrics],
    names: Sequence[str],
) -> list[Path]:
    """What `compare` shows, each picture in a file of its own: ``<image>-<column>-<title>.jpg``."""
    rows, titles = _columns(dataset, measured, names, APIECE)
    return save_apiece(folder, rows, titles)


def of_all_classes(labels: Sequence[int], most: int) -> list[int]:
    """Numbers of at most ``most`` images, of as many classes as can be: even steps through classes in turn meet one."""
    turns = in_turn(labels)[: max(most, len(set(labels)))]
    return [turns[n] for n in spread(len(turns), most)]


def _columns(
    dataset: ClassDataset | EventDataset, measured: Mapping[str, ClassificationMetrics], names: Sequence[str], most: int
) -> tuple[list[list[Picture]], tuple[str, ...]]:
    first = next(iter(measured.values())).answers
    rows = []
    for n in of_all_classes(first.labels.tolist(), most):
        image = as_picture(dataset[first.indices[n]].image)
        truth = captioned(image, [names[int(first.labels[n])]])
        rows.append([truth, *(_answer(image, found, n, names) for found in measured.values())])
    return rows, ("truth", *measured)


def _answer(
    image: Picture, found: ClassificationMetrics, n: int, names: Sequence[str], *, truth: bool = False
) -> Picture:
    """An image above the class that it is taken for; green where that is right."""
    shares, label = found.answers.probabilities[n], int(found.answers.labels[n])
    best = int(shares.argmax())
    lines = [f"{names[best]} {float(shares[best]):.0%}"]
    lines += [f"is: {names[label]}"] if truth else []
    return captioned(image, lines, RIGHT if best == label else WRONG)
