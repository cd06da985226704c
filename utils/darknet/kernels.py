"""Where a kernel's weights lie: a transposed convolution has its inputs on the first axis, the others their outputs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from utils.darknet.spec import Kernel, Layer

if TYPE_CHECKING:  # facts of layers need no torch, and flags are made of facts
    from torch import Tensor

KERNEL_AXES = 4


def weight_shape(layer: Kernel, in_channels: int) -> tuple[int, int, int, int]:
    """As torch and the files have it: [out, in / groups, k, k], of a transposed one [in, out / groups, k, k]."""
    ends = (layer.filters, in_channels // layer.groups)
    if layer.inputs_first:
        ends = (in_channels, layer.filters // layer.groups)
    return (*ends, layer.size, layer.size)


def out_first(layer: Layer, tensor: Tensor) -> Tensor:
    """A layer's stored tensor with its outputs on the first axis; shared with it where they lie there already.

    A kernel is [out, in / groups, k, k] then; biases, batch norm and matrices are as they are stored.
    """
    if isinstance(layer, Kernel) and layer.inputs_first and tensor.dim() == KERNEL_AXES:
        return _turned(tensor, layer.groups)
    return tensor


def as_stored(layer: Layer, tensor: Tensor) -> Tensor:
    """The inverse of `out_first`."""
    turned = out_first(layer, tensor)
    return tensor if turned is tensor else turned.contiguous()


def _turned(weight: Tensor, groups: int) -> Tensor:
    """[groups * a, b, k, k] -> [groups * b, a, k, k], within each group."""
    return weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
