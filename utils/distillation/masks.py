"""Where the objects are on a feature map."""

from __future__ import annotations

import torch
from torch import Tensor

EDGE = 1e-3  # of a cell: a box that ends on a border does not touch the cell behind it, whatever floats make of it


def object_mask(targets: Tensor, images: int, grid: tuple[int, int]) -> Tensor:
    """Mark every cell that a box touches, as a whole.

    What is marked follows from the boxes and the map's own size, so neither the stride, nor the order of the heads, nor
    the shape of the image matters: an object that fills one cell of 32 px fills a block of 4 x 4 cells of 8 px.

    Args:
        targets: [M, 6] (image, class, cx, cy, w, h; 0..1 of the network's image).
        images: how many there are, N.
        grid: (height, width) of the map, cells.

    Returns:
        bool [N, height, width].

    Source: the fine-grained mask of Wang et al., Distilling Object Detectors with Fine-grained Feature Imitation, CVPR
    2019 (arXiv 1906.03609), of boxes instead of anchors.
    """
    height, width = grid
    size = targets.new_tensor([width, height])
    first = ((targets[:, 2:4] - targets[:, 4:6] / 2) * size + EDGE).floor()  # [M, 2] column, row
    last = ((targets[:, 2:4] + targets[:, 4:6] / 2) * size - EDGE).ceil() - 1
    first = torch.minimum(first.clamp(min=0), size - 1)
    last = torch.minimum(torch.maximum(last, first), size - 1)
    columns, rows = (torch.arange(n, device=targets.device) for n in (width, height))
    across = (columns >= first[:, :1]) & (columns <= last[:, :1])  # [M, width]
    down = (rows >= first[:, 1:]) & (rows <= last[:, 1:])  # [M, height]
    cells = (down[:, :, None] & across[:, None, :]).float()
    return torch.zeros(images, height, width, device=targets.device).index_add_(0, targets[:, 0].long(), cells) > 0
