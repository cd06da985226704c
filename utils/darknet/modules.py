"""A [convolutional] as torch has it, or a [transposed_convolutional]: one place that knows which number goes where."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.darknet import spec as s
from utils.darknet.activations import ACTIVATIONS, linear
from utils.darknet.fold import BN_EPS
from utils.darknet.forward import without_tensors
from utils.darknet.shortcuts import alike, source_shares
from utils.darknet.spec import Conv, Kernel, Layer, TransposedConv
from utils.darknet.walk import rule

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


def dilated(x: Tensor, weight: Tensor, bias: Tensor | None, *numbers: Any) -> Tensor:
    """`F.conv2d` of a dilated kernel, in fp32 where a processor's bf16 would spoil its gradient.

    oneDNN 3.12's bf16 gradient of dilated weights reads memory that nobody wrote, unless their input channels come in
    sixteens: whatever lies there makes it NaN (docs/decisions/132).
    """
    if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu") or weight.shape[1] % 16 == 0:
        return F.conv2d(x, weight, bias, *numbers)
    with torch.autocast("cpu", enabled=False):
        return F.conv2d(x.float(), weight.float(), None if bias is None else bias.float(), *numbers)


class DilatedConv2d(nn.Conv2d):
    """By `dilated`."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, I, H, W] -> [N, O, H', W']."""
        return dilated(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def strided(x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], *numbers: Any) -> Tensor:
    """`F.conv2d` of a 1x1 kernel that steps over pixels; where few channels go in, these are left out first.

    oneDNN's gradient of such weights writes past its memory where fewer than 8 (AVX2) or 16 (AVX-512) channels go in
    and lie channels last: the process dies, or the gradient is wrong (uxlfoundation/oneDNN#6035, in 3.12).
    """
    if x.device.type == "cpu" and weight.shape[1] < 16 and weight.requires_grad and torch.is_grad_enabled():
        x, stride = x[..., :: stride[0], :: stride[1]], (1, 1)
    return F.conv2d(x, weight, bias, stride, *numbers)


class StridedConv2d(nn.Conv2d):
    """By `strided`."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, I, H, W] -> [N, O, H', W']."""
        stride = (self.stride[0], self.stride[1])
        return strided(x, self.weight, self.bias, stride, self.padding, self.dilation, self.groups)


def _conv(layer: Conv) -> tuple[Callable[..., Tensor], type[nn.Conv2d]]:
    if layer.dilation != 1:
        return dilated, DilatedConv2d
    if layer.size == 1 and layer.pad == 0 and layer.groups == 1 and max(layer.stride) > 1:
        return strided, StridedConv2d
    return F.conv2d, nn.Conv2d


def _geometry(layer: Kernel) -> Geometry:
    """Stride, padding and so on in torch's order, the function that takes them, and the module that does."""
    return rule(GEOMETRY, layer, "form in torch")(layer)


GEOMETRY: dict[type[Layer], Callable[[Any], Geometry]] = {
    Conv: lambda layer: (
        (layer.stride, layer.pad, layer.dilation, layer.groups),
        *_conv(layer),
    ),
    TransposedConv: lambda layer: (
        (layer.stride, layer.pad, layer.output_padding, layer.groups),
        F.conv_transpose2d,
        nn.ConvTranspose2d,
    ),
}


class WeightedSum(nn.Module):
    """A weighted ``[shortcut]``, as Darknet's shortcut_multilayer_cpu computes it (blas.c)."""

    def __init__(self, layer: s.Shortcut, width: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.ones(layer.weights_shape(width)))
        self.normalization = layer.weights_normalization
        self.activation = ACTIVATIONS.get(layer.activation, linear)

    def forward(self, *given: Tensor) -> Tensor:
        """[N, C, H, W] of every source -> the activation of their weighted sum."""
        shares = source_shares(self.weights, self.normalization).view(len(given), -1, 1, 1)
        return self.activation(sum(x * share for x, share in zip(alike(given), shares, strict=True)))


class ImplicitValues(nn.Module):
    """``[implicit_add]`` and ``[implicit_mul]``; their values begin as YOLOR's do, with a deviation of 0.02."""

    def __init__(self, layer: s.Implicit) -> None:
        super().__init__()
        self.implicit = nn.Parameter(torch.normal(float(layer.start), 0.02, (layer.filters,)))

    def forward(self, x: Tensor) -> Tensor:
        """Any image -> [1, C, 1, 1]."""
        return self.implicit[None, :, None, None]


class Stateless(nn.Module):
    """What a layer without tensors does before its neurons, which are the module's child."""

    def __init__(self, layer: s.Layer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, *given: Tensor) -> Tensor:
        """[N, C, H, W] of every source -> the same of the layer."""
        return without_tensors(self.layer, [*given])
