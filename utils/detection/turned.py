"""Boxes that are turned towards a point ([yolo_bdp]), and the upright ones round them."""

from __future__ import annotations

import torch
from torch import Tensor

from utils.darknet.spec import TurnedYolo

NO_WAY = 1e-8  # a point in the centre itself: the box looks to the right


def upright_px(values: Tensor, cells: Tensor, anchors: Tensor, stride: Tensor, head: TurnedYolo) -> Tensor:
    """The smallest boxes along the sides of the image that hold what a head predicts.

    Args:
        values: raw x, y, w, h, and fx, fy, float32 [..., 6].
        cells: column and row of the grid cell, [..., 2].
        anchors: width and height, px, [..., 2].
        stride: px per cell, (x, y), [2].
        head: with ``new_coords`` the first four have been through a logistic already.

    Returns:
        cx, cy, w, h in px of the network image, [..., 4].

    Source: get_yolo_box_bdp and bdp_to_corners of hank-ai's Darknet: of x and y the layer makes logistics, stretched by
    scale_x_y, of which reading the box makes logistics again; the point is (cell + fx, cell + fy).
    """
    xy, wh, point = values[..., :2], values[..., 2:4], values[..., 4:6]
    if not head.new_coords:
        stretched = xy.sigmoid() * head.scale_x_y - (head.scale_x_y - 1) / 2
        xy, wh = stretched.sigmoid(), wh.sigmoid()
    centre = 2 * xy - head.reach + cells  # in cells
    sides = (2 * wh).square() * anchors  # px
    along, across = _ways((point + cells - centre) * stride)
    size = along.abs() * sides[..., 1:] + across.abs() * sides[..., :1]
    return torch.cat((centre * stride, size), dim=-1)


def _ways(front: Tensor) -> tuple[Tensor, Tensor]:
    """Of length 1: the way to the front, and the one across it; [..., 2] each."""
    length = front.norm(dim=-1, keepdim=True)
    right = torch.tensor([1.0, 0.0], device=front.device)
    along = torch.where(length < NO_WAY, right, front / length.clamp(min=NO_WAY))
    return along, along.flip(-1) * front.new_tensor([-1.0, 1.0])
