"""Boxes: two formats and four overlaps. Pairwise functions give [N, M], paired ones [N]."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

EPS = 1e-7  # keeps divisions finite for boxes without area; far below a thousandth of a pixel squared


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Centre and size [..., 4] to corners [..., 4], same unit."""
    centre, half = boxes[..., :2], boxes[..., 2:4] / 2
    return torch.cat((centre - half, centre + half), dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Corners [..., 4] to centre and size [..., 4], same unit."""
    low, high = boxes[..., :2], boxes[..., 2:4]
    return torch.cat(((low + high) / 2, high - low), dim=-1)


def pairwise_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of every box of ``a`` [N, 4] with every box of ``b`` [M, 4], both xyxy: [N, M]."""
    low = torch.maximum(a[:, None, :2], b[None, :, :2])  # [N, M, 2]
    high = torch.minimum(a[:, None, 2:4], b[None, :, 2:4])
    inter = (high - low).clamp(min=0).prod(dim=-1)
    return inter / (area(a)[:, None] + area(b)[None, :] - inter + EPS)


def area(boxes: Tensor) -> Tensor:
    """Area of xyxy boxes [..., 4], never negative: [...]."""
    return (boxes[..., 2:4] - boxes[..., :2]).clamp(min=0).prod(dim=-1)


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of ``a[i]`` with ``b[i]``, both xyxy [N, 4]: [N] in 0..1."""
    return _inter_union(a, b)[0]


def paired_giou(a: Tensor, b: Tensor) -> Tensor:
    """IoU less the share of the common hull that neither box covers, xyxy [N, 4]: [N] in -1..1.

    Unlike IoU it has a gradient for boxes that do not touch.

    Source: Rezatofighi et al., Generalized Intersection over Union, CVPR 2019, algorithm 1 (arXiv 1902.09630).
    """
    iou, union = _inter_union(a, b)
    hull = _hull(a, b).prod(dim=-1) + EPS
    return iou - (hull - union) / hull


def paired_ciou(a: Tensor, b: Tensor) -> Tensor:
    """IoU less the centres' distance and less the difference of aspect ratios, xyxy [N, 4]: [N], at most 1.

    Source: Zheng et al., Distance-IoU Loss, AAAI 2020, equations 7 and 9 to 11 (arXiv 1911.08287); the trade-off
    ``alpha`` takes no gradient, as there.
    """
    iou, _ = _inter_union(a, b)
    diagonal = _hull(a, b).square().sum(dim=-1) + EPS
    distance = ((a[..., :2] + a[..., 2:4] - b[..., :2] - b[..., 2:4]) / 2).square().sum(dim=-1)
    size_a, size_b = (a[..., 2:4] - a[..., :2]), (b[..., 2:4] - b[..., :2])
    angle_a = torch.atan(size_a[..., 0] / (size_a[..., 1] + EPS))
    angle_b = torch.atan(size_b[..., 0] / (size_b[..., 1] + EPS))
    v = (4 / math.pi**2) * (angle_a - angle_b).square()
    with torch.no_grad():
        alpha = v / (1 - iou + v + EPS)
    return iou - distance / diagonal - alpha * v


def _inter_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """IoU and union area of paired boxes, [N] each."""
    sides = torch.minimum(a[..., 2:4], b[..., 2:4]) - torch.maximum(a[..., :2], b[..., :2])
    inter = sides.clamp(min=0).prod(dim=-1)
    union = area(a) + area(b) - inter + EPS
    return inter / union, union


def _hull(a: Tensor, b: Tensor) -> Tensor:
    """Width and height of the smallest box around each pair, [N, 2]."""
    return torch.maximum(a[..., 2:4], b[..., 2:4]) - torch.minimum(a[..., :2], b[..., :2])


OVERLAPS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "iou": paired_iou,
    "giou": paired_giou,
    "ciou": paired_ciou,
}
