"""A [convolutional] as torch has it: one place that knows which of its numbers go where."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from utils.darknet.fold import BN_EPS
from utils.darknet.spec import Conv


def conv_and_bn(layer: Conv, in_channels: int) -> tuple[nn.Conv2d, nn.BatchNorm2d | None]:
    """The modules of a layer; its convolution has a bias where it has no batch norm."""
    conv = nn.Conv2d(
        in_channels,
        layer.filters,
        layer.size,
        layer.stride,
        layer.pad,
        layer.dilation,
        layer.groups,
        bias=not layer.bn,
    )
    return conv, nn.BatchNorm2d(layer.filters, eps=BN_EPS) if layer.bn else None


def convolve(layer: Conv, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """[N, I, H, W] -> [N, O, H', W'] with the layer's geometry and other tensors, before batch norm and activation."""
    return F.conv2d(x, weight, bias, layer.stride, layer.pad, layer.dilation, layer.groups)
