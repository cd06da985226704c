"""Heads, truths and loaders that several tests share."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from utils.darknet.spec import Yolo

ANCHORS = ((10.0, 14.0), (23.0, 27.0), (37.0, 58.0), (81.0, 82.0), (135.0, 169.0), (344.0, 319.0))


def head(
    mask: tuple[int, ...] = (3, 4, 5), *, classes: int = 3, scale_x_y: float = 1.0, new_coords: bool = False
) -> Yolo:
    return Yolo(sources=(0,), mask=mask, anchors=ANCHORS, classes=classes, scale_x_y=scale_x_y, new_coords=new_coords)


def random_heads(
    sizes: tuple[tuple[int, int], ...], heads: tuple[Yolo, ...], *, batch: int = 2, seed: int = 0
) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    raw = [
        torch.randn(batch, len(h.mask) * (5 + h.classes), *size, generator=g)
        for size, h in zip(sizes, heads, strict=True)
    ]
    return [r.sigmoid() if h.new_coords else r for r, h in zip(raw, heads, strict=True)]


def raw_of(box: Tensor, cell: Tensor, anchor: Tensor, stride: Tensor, one: Yolo) -> Tensor:
    """The raw x, y, w, h that mean ``box`` (cx, cy, w, h px): the inverse of the formulas, written from the paper."""
    share = (box[:2] / stride - cell + (one.scale_x_y - 1) / 2) / one.scale_x_y
    ratio = box[2:] / anchor
    if one.new_coords:
        return torch.cat((share, ratio.sqrt() / 2))
    return torch.tensor([math.log(p / (1 - p)) for p in share.tolist()] + [math.log(r) for r in ratio.tolist()])


@dataclass
class Batch:
    """What utils/data's loader yields, without utils/data."""

    images: Tensor
    targets: Tensor
    indices: list[int]
    letterboxes: list[object]


def random_truth(images: int, classes: int, *, seed: int = 0, most: int = 6) -> list[Tensor]:
    """[n, 5] class, x1, y1, x2, y2 in px of a 100 px image; some images have none."""
    g = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(images):
        n = int(torch.randint(0, most, (1,), generator=g))
        low, size = torch.rand(n, 2, generator=g) * 70, torch.rand(n, 2, generator=g) * 25 + 4
        labels = torch.randint(0, classes, (n, 1), generator=g).float()
        found.append(torch.cat((labels, low, low + size), dim=1))
    return found


def shaken(truth: list[Tensor], classes: int, *, seed: int = 1) -> list[Tensor]:
    """Detections [m, 6] as a middling detector makes them: misplaced, missed, misnamed, invented; best first."""
    g = torch.Generator().manual_seed(seed)
    found = []
    for rows in truth:
        boxes = rows[:, 1:].repeat(3, 1) + torch.randn(3 * len(rows), 4, generator=g) * 3
        boxes = torch.cat((boxes, torch.rand(4, 4, generator=g) * 40 + torch.tensor([0.0, 0.0, 40.0, 40.0])))
        labels = torch.cat((rows[:, 0].repeat(3), torch.randint(0, classes, (4,), generator=g).float()))
        wrong = torch.rand(len(labels), generator=g) < 0.2
        labels[wrong] = torch.randint(0, classes, (int(wrong.sum()),), generator=g).float()
        scores = (torch.rand(len(labels), generator=g) * 20).round() / 20  # with ties
        order = scores.sort(descending=True, stable=True).indices
        found.append(torch.cat((boxes, scores[:, None], labels[:, None]), dim=1)[order])
    return found
