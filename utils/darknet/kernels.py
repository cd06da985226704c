"""Where a kernel's weights lie: a transposed convolution has its inputs on the first axis, the others their outputs."""

from __future__ import annotations

from torch import Tensor

from utils.darknet.spec import Kernel, TransposedConv


def weight_shape(layer: Kernel, in_channels: int) -> tuple[int, int, int, int]:
    """As torch and the files have it: [out, in / groups, k, k], of a transposed one [in, out / groups, k, k]."""
    ends = (layer.filters, in_channels // layer.groups)
    if isinstance(layer, TransposedConv):
        ends = (in_channels, layer.filters // layer.groups)
    return (*ends, layer.size, layer.size)


def out_first(layer: Kernel, weight: Tensor) -> Tensor:
    """A layer's stored weight as [out, in / groups, k, k]; shared with it where it lies so already."""
    return _turned(weight, layer.groups) if isinstance(layer, TransposedConv) else weight


def as_stored(layer: Kernel, weight: Tensor) -> Tensor:
    """The inverse of `out_first`."""
    return _turned(weight, layer.groups).contiguous() if isinstance(layer, TransposedConv) else weight


def _turned(weight: Tensor, groups: int) -> Tensor:
    """[groups * a, b, k, k] -> [groups * b, a, k, k], within each group."""
    return weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
