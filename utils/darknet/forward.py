"""What layers without tensors of their own make of their inputs; one implementation for floats and integers in floats.

A kind is in one of two tables: `MOVES`, where every output value is one of the input values, or 0 between, so that
integers, levels and spikes pass as floats do; or `VALUES`, which compute.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.darknet import spec as s
from utils.darknet.antialiasing import blur_kernel
from utils.darknet.ops import facts
from utils.darknet.reorder import insert_zeros, reorg, space_to_depth
from utils.darknet.shortcuts import alike, fitted
from utils.darknet.walk import rule


def move(layer: s.Layer, inputs: list[Tensor]) -> Tensor:
    """Max pool, upsample, reorg, route; dropout and heads as they are at inference.

    Args:
        layer: the layer.
        inputs: [N,C,H,W] each.

    Raises:
        InputError: the layer does more than move values; names its cfg line.
    """
    return rule(MOVES, layer, "way to move values")(layer, inputs)


def move_channels(layer: s.Layer, given: list[Tensor]) -> Tensor:
    """What is said of whole channels, floats [C] of each input, behind a layer that only moves values."""
    known = facts(layer)
    if known.hands_on:
        return given[0]
    side = known.divides(layer)
    return move(layer, [x[None, :, None, None].expand(-1, -1, side, side) for x in given])[0, :, 0, 0]


def without_tensors(layer: s.Layer, inputs: list[Tensor]) -> Tensor:
    """Any layer that holds no tensors, before its activation; floats [N,C,H,W] each.

    Raises:
        InputError: the layer does hold some, or nothing is known of it; names its cfg line.
    """
    return rule(VALUES if facts(layer).computes else MOVES, layer, "float form")(layer, inputs)


def _max_pool(layer: s.MaxPool, inputs: list[Tensor]) -> Tensor:
    """Darknet's: the padding, never a maximum, may be one px longer at the right and bottom."""
    x, before, after = inputs[0], layer.pad // 2, layer.pad - layer.pad // 2
    if before == after and 2 * before <= layer.size:
        return F.max_pool2d(x, layer.size, layer.stride, before)
    if not padding_is_read(layer, x):
        return F.max_pool2d(x, layer.size, layer.stride)
    return F.max_pool2d(F.pad(x, (before, after, before, after), value=float("-inf")), layer.size, layer.stride)


def _crop(layer: s.Crop, inputs: list[Tensor]) -> Tensor:
    """Darknet's at inference: the middle, times 2 less 1 (forward_crop_layer in crop_layer.c)."""
    top, left = ((given - kept) // 2 for given, kept in zip(layer.given, layer.kept, strict=True))
    middle = inputs[0][:, :, top : top + layer.kept[0], left : left + layer.kept[1]]
    return middle if layer.noadjust else middle * 2 - 1


def padding_is_read(layer: s.MaxPool, x: Tensor) -> bool:
    """Whether a window of this map [..., H, W] hangs over it; an even map halved by a 2/2 pool has none that does."""
    before, after = layer.pad // 2, layer.pad - layer.pad // 2
    return before > 0 or any((side + after - layer.size) % layer.stride < after for side in x.shape[2:])


def _local_mean(layer: s.LocalAvgPool, inputs: list[Tensor]) -> Tensor:
    """Darknet's: each sum is divided by how many values it has (forward_local_avgpool_layer in maxpool_layer.c)."""
    before, after = layer.pad // 2, layer.pad - layer.pad // 2
    ends = (before, after, before, after)
    ones = F.pad(torch.ones_like(inputs[0][:1, :1]), ends)
    total, count = (
        F.avg_pool2d(x, layer.size, layer.stride, divisor_override=1) for x in (F.pad(inputs[0], ends), ones)
    )
    return total / count


def _blur(layer: s.Blur, inputs: list[Tensor]) -> Tensor:
    """Darknet's: a depthwise convolution behind the activation (forward_convolutional_layer, antialiasing)."""
    x = inputs[0]
    kernel = blur_kernel(layer).to(x) / sum(layer.row) ** 2
    return F.conv2d(x, kernel.expand(x.shape[1], 1, -1, -1), None, layer.stride, layer.pad, groups=x.shape[1])


def _upsample(layer: s.Upsample, inputs: list[Tensor]) -> Tensor:
    if layer.zeros:
        return insert_zeros(inputs[0], layer.stride)
    return F.interpolate(inputs[0], scale_factor=layer.stride)


def _route(layer: s.Route, inputs: list[Tensor]) -> Tensor:
    parts = [x.chunk(layer.groups, 1)[layer.group_id] for x in inputs] if layer.groups > 1 else inputs
    return torch.cat(parts, 1) if len(parts) > 1 else parts[0]


def _sum(layer: s.Shortcut, inputs: list[Tensor]) -> Tensor:
    total, *others = alike(inputs)
    for other in others:
        total = total + other
    return total


MOVES: dict[type[s.Layer], Callable[[Any, list[Tensor]], Tensor]] = {
    s.MaxPool: _max_pool,
    s.Upsample: _upsample,
    s.Reorg: lambda layer, inputs: reorg(inputs[0], layer.stride),
    s.Reorg3d: lambda layer, inputs: space_to_depth(inputs[0], layer.stride),
    s.Fitted: lambda layer, inputs: fitted(inputs[0], layer.filters, layer.stride, layer.spread),
    s.Route: _route,
    s.Dropout: lambda layer, inputs: inputs[0],
    s.Output: lambda layer, inputs: inputs[0],
}
VALUES: dict[type[s.Layer], Callable[[Any, list[Tensor]], Tensor]] = {
    s.Shortcut: _sum,
    s.Activation: lambda layer, inputs: inputs[0],
    s.ScaleChannels: lambda layer, inputs: inputs[1] * inputs[0],
    s.Product: lambda layer, inputs: inputs[0] * inputs[1],
    s.ShiftChannels: lambda layer, inputs: inputs[0] + inputs[1],
    s.ControlChannels: lambda layer, inputs: inputs[0] * inputs[1],
    s.AvgPool: lambda layer, inputs: inputs[0].mean((2, 3), keepdim=True),
    s.LocalAvgPool: _local_mean,
    s.Blur: _blur,
    s.Crop: _crop,
}
