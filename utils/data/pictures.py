"""What pictures of every task are made with: an image as RGB, a colour for a class, sheets under headings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from utils.data.images import save_picture
from utils.data.lettering import text_size, write

Picture = NDArray[np.uint8]  # [H, W, 3] RGB

PAPER = (255, 255, 255)
INK = (32, 32, 32)


def as_picture(image: Tensor | Picture) -> Picture:
    """A network image [C, H, W] (uint8, or float 0..1; grey or RGB) or a picture [H, W, 3] as RGB [H, W, 3]."""
    if isinstance(image, np.ndarray):
        return image
    values = image.detach().cpu()
    if values.is_floating_point():
        values = (values.clamp(0, 1) * 255).round()
    return np.ascontiguousarray(values.to(torch.uint8).expand(3, -1, -1).permute(1, 2, 0).numpy())


def colour(label: int) -> tuple[int, int, int]:
    """RGB of a class; neighbours differ as much as hues can (golden angle), in three shades."""
    hsv = np.array(
        [[[int(label * 111.246) % 180, (230, 150, 255)[label // 8 % 3], (255, 235, 190)[label % 3]]]], np.uint8
    )
    r, g, b = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].tolist()
    return r, g, b


def sheet(cells: Sequence[Sequence[Picture]], headings: Sequence[str] = (), gap: int = 8) -> Picture:
    """Pictures in rows and columns on white, under their headings."""
    high = max(cell.shape[0] for row in cells for cell in row)
    wide = max(cell.shape[1] for row in cells for cell in row)
    across = max(len(row) for row in cells)
    top = (24 + wide // 20) if headings else 0
    shape = (top + gap + len(cells) * (high + gap), gap + across * (wide + gap), 3)
    page = np.full(shape, PAPER, dtype=np.uint8)
    for i, row in enumerate(cells):
        for j, cell in enumerate(row):
            y, x = top + gap + i * (high + gap), gap + j * (wide + gap)
            page[y : y + cell.shape[0], x : x + cell.shape[1]] = cell
    for j, text in enumerate(headings):
        scale = max(0.7, wide / 450)
        while text_size(text, scale, 2)[0] > wide and scale > 0.35:
            scale -= 0.05
        length = text_size(text, scale, 2)[0]
        place = (gap + j * (wide + gap) + max(0, (wide - length) // 2), top - 6)
        write(page, text, place, scale, INK, 2)
    return page


def spread(count: int, most: int) -> list[int]:
    """At most ``most`` numbers from all over a data set of ``count``, which is often sorted by class."""
    return [count * n // min(count, most) for n in range(min(count, most))]


def full_rows(count: int) -> tuple[int, int]:
    """(rows, pictures a row) of a sheet without empty places, about as wide as it is high, for at most ``count``.

    The last pictures are left out where their number makes no such sheet: of seven six are shown.
    """
    shapes = [(rows, across) for rows in range(1, count + 1) for across in range(rows, count // rows + 1)]
    good = [(rows, across) for rows, across in shapes if across <= max(3, 2 * rows)]
    return max(good, key=lambda shape: (shape[0] * shape[1], shape[0]))


def in_rows(cells: Sequence[Picture]) -> list[Sequence[Picture]]:
    """The rows of that sheet."""
    rows, across = full_rows(len(cells))
    return [cells[i * across : (i + 1) * across] for i in range(rows)]


def save_square(path: Path, cells: Sequence[Picture]) -> Path:
    """Pictures on a sheet that is about as wide as it is high."""
    save_picture(path, sheet(in_rows(cells)))
    return path


def save_apiece(folder: Path, rows: Sequence[Sequence[Picture]], titles: Sequence[str]) -> list[Path]:
    """The pictures of a sheet, each in a file of its own: ``<row>-<column>-<title>.jpg``."""
    paths = []
    for n, row in enumerate(rows, 1):
        for column, (title, cell) in enumerate(zip(titles, row, strict=True)):
            paths.append(folder / f"{n}-{column}-{title.replace(' ', '_')}.jpg")
            save_picture(paths[-1], cell)
    return paths
