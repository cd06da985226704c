"""A [convolutional] as torch has it, or a [transposed_convolutional]: one place that knows which number goes where."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from utils.darknet.fold import BN_EPS
from utils.darknet.spec import Conv, Kernel, TransposedConv


def conv_and_bn(layer: Kernel, in_channels: int) -> tuple[nn.Conv2d | nn.ConvTranspose2d, nn.BatchNorm2d | None]:
    """The modules of a layer; its convolution has a bias where it has no batch norm."""
    norm = nn.BatchNorm2d(layer.filters, eps=BN_EPS) if layer.bn else None
    if isinstance(layer, TransposedConv):
        return nn.ConvTranspose2d(
            in_channels,
            layer.filters,
            layer.size,
            layer.stride,
            layer.pad,
            layer.output_padding,
            layer.groups,
            bias=not layer.bn,
        ), norm
    assert isinstance(layer, Conv)
    return nn.Conv2d(
        in_channels,
        layer.filters,
        layer.size,
        layer.stride,
        layer.pad,
        layer.dilation,
        layer.groups,
        bias=not layer.bn,
    ), norm


def convolve(layer: Kernel, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """[N, I, H, W] -> [N, O, H', W'] with the layer's geometry and other tensors, before batch norm and activation."""
    if isinstance(layer, TransposedConv):
        extra = layer.output_padding
        return F.conv_transpose2d(x, weight, bias, layer.stride, layer.pad, extra, layer.groups)
    assert isinstance(layer, Conv)
    return F.conv2d(x, weight, bias, layer.stride, layer.pad, layer.dilation, layer.groups)
