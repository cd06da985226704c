"""ONNX files whose boxes are decoded already, in the three forms that are about."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

AXES = 3  # [N, boxes, values] or [N, values, boxes]

Form = Callable[[Sequence[Tensor]], Tensor]


def form_of(shapes: Sequence[tuple[int, ...]], classes: int) -> Form | None:
    """How outputs become [N, boxes, 5 + classes]: cx, cy, w, h in px, objectness, class probabilities.

    Args:
        shapes: of all outputs.
        classes: that the network tells apart.

    Returns:
        None where the shapes are those of no form.
    """
    if any(len(shape) != AXES for shape in shapes):
        return None
    match [shape[1:] for shape in shapes]:
        case [(rows, 4), (same, wide)] if rows == same and wide == classes:
            return of_corners
        case [(_, wide)] if wide == 5 + classes:
            return of_rows
        case [(tall, _)] if tall == 4 + classes:
            return of_columns
    return None


def of_corners(found: Sequence[Tensor]) -> Tensor:
    """Of ``export.py onnx --float --decode``: x1, y1, x2, y2 [N,M,4], and scores [N,M,C]."""
    low, high = found[0][..., :2], found[0][..., 2:]
    return torch.cat([(low + high) / 2, high - low, torch.ones_like(low[..., :1]), found[1]], dim=-1)


def of_rows(found: Sequence[Tensor]) -> Tensor:
    """A row a box with its objectness, [N,M,5+C], as YOLOv5's export has it."""
    return found[0]


def of_columns(found: Sequence[Tensor]) -> Tensor:
    """A column a box without objectness, [N,4+C,M], as YOLOv8's export has it."""
    rows = found[0].transpose(1, 2)
    return torch.cat([rows[..., :4], torch.ones_like(rows[..., :1]), rows[..., 4:]], dim=-1)
