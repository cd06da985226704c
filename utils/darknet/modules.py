"""A [convolutional] as torch has it, or a [transposed_convolutional]: one place that knows which number goes where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from utils.darknet.fold import BN_EPS
from utils.darknet.ops import rule
from utils.darknet.spec import Conv, Kernel, Layer, TransposedConv

Geometry = tuple[tuple[Any, ...], Callable[..., Tensor], Callable[..., nn.Conv2d | nn.ConvTranspose2d]]


def conv_and_bn(layer: Kernel, in_channels: int) -> tuple[nn.Conv2d | nn.ConvTranspose2d, nn.BatchNorm2d | None]:
    """The modules of a layer; its convolution has a bias where it has no batch norm."""
    norm = nn.BatchNorm2d(layer.filters, eps=BN_EPS) if layer.bn else None
    numbers, _, module = _geometry(layer)
    return module(in_channels, layer.filters, layer.size, *numbers, bias=not layer.bn), norm


def convolve(layer: Kernel, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """[N, I, H, W] -> [N, O, H', W'] with the layer's geometry and other tensors, before batch norm and activation."""
    numbers, function, _ = _geometry(layer)
    return function(x, weight, bias, *numbers)


def _geometry(layer: Kernel) -> Geometry:
    """Stride, padding and so on in torch's order, the function that takes them, and the module that does."""
    return rule(GEOMETRY, layer, "form in torch")(layer)


GEOMETRY: dict[type[Layer], Callable[[Any], Geometry]] = {
    Conv: lambda layer: ((layer.stride, layer.pad, layer.dilation, layer.groups), F.conv2d, nn.Conv2d),
    TransposedConv: lambda layer: (
        (layer.stride, layer.pad, layer.output_padding, layer.groups),
        F.conv_transpose2d,
        nn.ConvTranspose2d,
    ),
}
