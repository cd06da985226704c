"""The layers that only move values; one implementation for floats and for integers held in floats."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.darknet import spec as s
from utils.darknet.reorder import insert_zeros, reorg


def move(layer: s.Layer, inputs: list[Tensor], lowest: float) -> Tensor:
    """Max pool, upsample, reorg, route, dropout, yolo: every output value is one of the input values, or 0 between.

    Args:
        layer: the layer.
        inputs: [N,C,H,W] each.
        lowest: what pads a max pool: the lowest level, or -inf for floats.
    """
    match layer:
        case s.MaxPool():
            return _max_pool(inputs[0], layer, lowest)
        case s.Upsample() if layer.zeros:
            return insert_zeros(inputs[0], layer.stride)
        case s.Upsample():
            return F.interpolate(inputs[0], scale_factor=layer.stride, mode="nearest")
        case s.Reorg():
            return reorg(inputs[0], layer.stride)
        case s.Route():
            parts = [x.chunk(layer.groups, 1)[layer.group_id] for x in inputs]
            return parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        case s.Dropout() | s.Output():
            return inputs[0]
    raise TypeError(f"{type(layer).__name__} does more than move values")


def _max_pool(x: Tensor, layer: s.MaxPool, lowest: float) -> Tensor:
    before, after = layer.pad // 2, layer.pad - layer.pad // 2
    reached = any((side + layer.pad - layer.size) % layer.stride < after for side in x.shape[2:])
    if before or reached:  # a 2/2 pool of an even map never reaches its one px of padding
        x = F.pad(x, (before, after, before, after), value=lowest)
    return F.max_pool2d(x, layer.size, layer.stride)


def last_readers(spec: s.ModelSpec) -> dict[int, int]:
    """Edge -> the last layer that reads it; after that layer the edge's tensor can go."""
    return {j: i for i, layer in enumerate(spec.layers) for j in layer.sources}
