"""From a head's raw numbers to boxes in pixels, as Darknet's [yolo] and [region] layers do it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.darknet.spec import Detect, Region, TurnedYolo, Yolo
from utils.detection.hierarchy import told
from utils.detection.turned import upright_px
from utils.errors import InputError

DECODED_AXES = 3
MAX_LOG_SIZE = 8.0  # exp(8) is 2981 anchors: no real box is wider, and an untrained head cannot reach inf


def split(raw: Tensor, head: Detect) -> Tensor:
    """Raw head [N, A * each, H, W] as [N, A, H, W, 5 + classes]; channel = anchor * each + k.

    Of a [Gaussian_yolo] the four spreads follow: x, y, w, h, objectness, classes, sx, sy, sw, sh; of a [yolo_bdp] the
    two of its point.
    """
    n, channels, height, width = raw.shape
    each = head.each
    anchors = len(head.own_anchors)
    if channels != head.filters:
        raise ValueError(
            f"head has {channels} channels, {anchors} anchors of {head.classes} classes need {head.filters}"
        )
    values = raw.view(n, anchors, each, height, width).permute(0, 1, 3, 4, 2)
    return values[..., order(head)] if head.spreads or head.turned else values


def order(head: Detect) -> list[int]:
    """Where in a cell's numbers x, y, w, h, objectness, classes and then the spreads, or the point, stand."""
    if head.turned:
        return [0, 1, 2, 3, *range(6, head.each), 4, 5]
    return [0, 2, 4, 6, *range(8, head.each), 1, 3, 5, 7]


def strides(raw: Tensor, input_size: tuple[int, int]) -> tuple[float, float]:
    """Pixels per grid cell, (x, y), from the sizes alone: ``input_size`` is (height, width)."""
    return input_size[1] / raw.shape[3], input_size[0] / raw.shape[2]


def is_decoded(head: Detect) -> bool:
    """Whether the numbers have been through a logistic in the network already (new_coords of [yolo])."""
    return isinstance(head, Yolo) and head.new_coords


def anchors_px(head: Detect, stride: Tensor) -> Tensor:
    """A head's own anchors, (width, height) in px, [A, 2]; ``stride`` is px per cell, (x, y), [2].

    Those of [yolo] are px of the network's input in the cfg, those of [region] grid cells.
    """
    anchors = torch.tensor(head.own_anchors, device=stride.device)
    return anchors * stride if isinstance(head, Region) else anchors


def scores(values: Tensor, head: Detect) -> Tensor:
    """Objectness and class probabilities of raw ones, [..., 1 + classes]; spreads behind them lessen the objectness.

    Of a hierarchy one class is told, whose score is the objectness (get_region_detections with a tree).
    Of a [Gaussian_yolo] a score is objectness * class * (1 - mean spread), as in get_gaussian_yolo_detections.
    """
    if head.turned:
        values = values[..., : 1 + head.classes]
    if is_decoded(head):
        return values
    if head.spreads:
        found, spreads = values[..., : 1 + head.classes].sigmoid(), values[..., 1 + head.classes :].sigmoid()
        sure = 1 - spreads.mean(-1, keepdim=True)
        return torch.cat((found[..., :1] * sure, found[..., 1:]), dim=-1)
    if head.parents:
        chosen = F.one_hot(told(values[..., 1:], head.parents), head.classes).to(values.dtype)
        return torch.cat((values[..., :1].sigmoid(), chosen), dim=-1)
    if isinstance(head, Region) and head.softmax:
        return torch.cat((values[..., :1].sigmoid(), values[..., 1:].softmax(-1)), dim=-1)
    return values.sigmoid()


def boxes_px(values: Tensor, cells: Tensor, anchors: Tensor, stride: Tensor, head: Detect) -> Tensor:
    """The box formulas, shared by decoding and the loss.

    Args:
        values: raw x, y, w, h, float32 [..., 4].
        cells: column and row of the grid cell, [..., 2].
        anchors: anchor width and height, px, [..., 2].
        stride: px per cell, (x, y), [2].
        head: says which formulas: its ``reach`` stretches the centre's range beyond the cell on each side; with
            ``new_coords`` the values have been through a logistic already.

    Returns:
        cx, cy, w, h in px of the network image, [..., 4].

    Source: Darknet's yolo_layer.c (get_yolo_box), region_layer.c (get_region_box); Redmon and Farhadi, YOLO9000,
    section 2 (arXiv 1612.08242), and YOLOv3, section 2.1 (arXiv 1804.02767); new_coords: Wang et al., Scaled-YOLOv4
    (arXiv 2011.08036).
    """
    xy, wh = values[..., :2], values[..., 2:4]
    if not is_decoded(head):
        xy = xy.sigmoid()
    scale = head.scale_x_y if isinstance(head, Yolo) else 1.0
    centre = (xy * scale - head.reach + cells) * stride
    size = (2 * wh).square() * anchors if is_decoded(head) else wh.clamp(max=MAX_LOG_SIZE).exp() * anchors
    return torch.cat((centre, size), dim=-1)


def decode(raw: Sequence[Tensor], heads: Sequence[Detect], input_size: tuple[int, int]) -> Tensor:
    """Every head's predictions as boxes in px of the network image.

    Args:
        raw: one tensor [N, anchors * (5 + classes), H, W] per head, any float type; computed in float32. Or one tensor
            of what is returned, where another program's file has decoded it.
        heads: the [yolo] and [region] layers, in the order of ``raw``.
        input_size: (height, width) of the network image, px; strides follow from it and the grids.

    Returns:
        [N, boxes, 5 + classes] float32: cx, cy, w, h (px), objectness, class probabilities. The boxes stand
        head by head; within a head anchor by anchor, then row by row.

    Raises:
        InputError: a map is not finite: a comparison with it would be false and count as an answer.
    """
    parts = []
    for number, tensor in enumerate(raw):
        if not torch.isfinite(tensor).all():
            raise InputError(f"head {number}: its map is not finite; the network diverged, use an earlier checkpoint")
    if len(raw) == 1 and raw[0].dim() == DECODED_AXES:
        return raw[0].float()
    for tensor, head in zip(raw, heads, strict=True):
        values = split(tensor.float(), head)  # [N, A, H, W, 5 + classes]
        n, anchors, height, width, _ = values.shape
        device = values.device
        rows, columns = torch.meshgrid(
            torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
        )
        cells = torch.stack((columns, rows), dim=-1).float()  # [H, W, 2]
        stride = torch.tensor(strides(tensor, input_size), device=device)
        sizes = anchors_px(head, stride).view(1, anchors, 1, 1, 2)
        if isinstance(head, TurnedYolo):
            where = torch.cat((values[..., :4], values[..., -2:]), dim=-1)
            boxes = upright_px(where, cells, sizes, stride, head)
        else:
            boxes = boxes_px(values[..., :4], cells, sizes, stride, head)
        parts.append(torch.cat((boxes, scores(values[..., 4:], head)), dim=-1).reshape(n, -1, 5 + head.classes))
    return torch.cat(parts, dim=1)
