"""Pictures of detections that a person can read: labelled images, batches, side-by-side comparisons."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from utils.data.images import save_picture
from utils.data.lettering import text_size, write
from utils.data.pictures import INK, Picture, as_picture, colour, in_rows, sheet
from utils.detection.boxes import cxcywh_to_xyxy

Rect = tuple[int, int, int, int]  # x1, y1, x2, y2 px

LEGIBLE = 512  # px; the longer side of a smaller image is enlarged to about this, else the labels would hide it


def truth_as_boxes(truth: Tensor) -> Tensor:
    """Truth [n, 5] (class, x1, y1, x2, y2) in the form of detections [n, 6], its scores NaN: drawn without one."""
    unknown = torch.full((len(truth), 1), math.nan, dtype=truth.dtype)
    return torch.cat((truth[:, 1:5], unknown, truth[:, :1]), dim=1)


def draw_boxes(image: Tensor | Picture, boxes: Tensor, names: Sequence[str], *, least: int = LEGIBLE) -> Picture:
    """A copy of ``image`` with labelled boxes, enlarged by a whole factor where it is small.

    Args:
        image: see :func:`as_picture`.
        boxes: [n, 6] x1, y1, x2, y2 (px of ``image``), score, class; a NaN score is not written.
        names: the classes' names.
        least: the longer side of the result is at least about this, px.
    """
    picture = as_picture(image)
    height, width = picture.shape[:2]
    factor = max(1, round(least / max(height, width)))
    size = (width * factor, height * factor)
    canvas: Picture = np.array(
        picture if factor == 1 else cv2.resize(picture, size, interpolation=cv2.INTER_CUBIC), np.uint8
    )
    thick = max(1, round(max(size) / 300))
    rows = boxes.detach().cpu().double()
    rows = rows[rows[:, 4].nan_to_num(2.0).argsort(stable=True)]  # best last, so on top
    corners = (rows[:, :4] * factor).round().long().tolist()
    for (x1, y1, x2, y2), label in zip(corners, rows[:, 5].long().tolist(), strict=True):
        cv2.rectangle(canvas, (x1, y1), (x2, y2), INK, thick + 2, cv2.LINE_AA)  # a dark rim shows on any background
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colour(label), thick, cv2.LINE_AA)
    taken: list[Rect] = []
    for corner, row in reversed(list(zip(corners, rows.tolist(), strict=True))):  # the best choose their place first
        label = int(row[5])
        text = names[label] if math.isnan(row[4]) else f"{names[label]} {row[4]:.2f}"
        _tag(canvas, text, corner, colour(label), taken)
    return canvas


def _tag(canvas: Picture, text: str, corner: Sequence[int], fill: tuple[int, int, int], taken: list[Rect]) -> None:
    """Write a label beside its box, where it covers no other label if there is such a place."""
    scale = max(0.5, max(canvas.shape[:2]) / 1150)
    wide, tall, below = text_size(text, scale)
    wide, tall = wide + 4, tall + below + 3
    x1, y1, x2, y2 = corner
    places = [(x1, y1 - tall), (x1, y2), (x2 - wide, y1 - tall), (x2 - wide, y2), (x2, y1), (x1 - wide, y1)]
    places += [
        (x1, y1),
        (x2 - wide, y2 - tall),
        (x2, y2 - tall),
        (x1 - wide, y2 - tall),
        ((x1 + x2 - wide) // 2, (y1 + y2) // 2),
    ]
    low = np.array(places).clip(0, (max(0, canvas.shape[1] - wide), max(0, canvas.shape[0] - tall)))
    rects = np.concatenate([low, np.add(low, (wide, tall))], axis=1)
    covered = _overlaps(rects, np.array(taken).reshape(-1, 4)).sum(1)
    cost = covered + 0.1 * _overlaps(rects, np.array([corner]))[:, 0]
    x1, y1, x2, y2 = rects[int(cost.argmin())].tolist()
    best = x1, y1, x2, y2
    taken.append(best)
    cv2.rectangle(canvas, best[:2], best[2:], fill, cv2.FILLED)
    bright = 0.299 * fill[0] + 0.587 * fill[1] + 0.114 * fill[2]
    shade = (0, 0, 0) if bright > 120 else (255, 255, 255)
    write(canvas, text, (best[0] + 2, best[3] - below), scale, shade)


def _overlaps(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    """Common areas of rectangles [A,4] and [B,4], px; [A,B]."""
    low, high = np.maximum(a[:, None, :2], b[:, :2]), np.minimum(a[:, None, 2:], b[:, 2:])
    return (high - low).clip(0).prod(2)


def batch_mosaic(images: Tensor, targets: Tensor, names: Sequence[str], *, most: int = 16) -> Picture:
    """The first ``most`` images of a batch with their labels, as a near-square sheet without empty places.

    Args:
        images: [N, C, H, W], uint8 or float 0..1.
        targets: [M, 6] image in the batch, class, cx, cy, w, h (0..1).
        names: the classes' names.
        most: images shown.
    """
    count = min(most, len(images))
    size = torch.tensor([images.shape[3], images.shape[2]]).repeat(2)
    cells = []
    for i in range(count):
        own = targets[targets[:, 0] == i].cpu()
        truth = torch.cat((own[:, 1:2], cxcywh_to_xyxy(own[:, 2:6] * size)), dim=1)
        cells.append(draw_boxes(images[i], truth_as_boxes(truth), names))
    return sheet(in_rows(cells))


def comparison_grid(
    images: Sequence[Tensor | Picture], columns: Mapping[str, Sequence[Tensor]], names: Sequence[str], path: Path
) -> None:
    """Write a sheet with a row per image and a column per set of boxes, each column under its heading.

    Args:
        images: the network images.
        columns: heading -> one [n, 6] tensor an image, as for :func:`draw_boxes`; the truth through
            :func:`truth_as_boxes`.
        names: the classes' names.
        path: the picture's file; its suffix chooses the format.
    """
    cells = [[draw_boxes(image, boxes[i], names) for boxes in columns.values()] for i, image in enumerate(images)]
    save_picture(path, sheet(cells, tuple(columns)))
