"""Moves of values: where Darknet's own order of elements is not what one would guess, and zeros between values."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def reorg(x: Tensor, stride: int) -> Tensor:
    """Darknet's passthrough: [N, C, H, W] -> [N, C * stride^2, H / stride, W / stride].

    Space to depth of an image of C / stride^2 channels and ``stride`` times the sides, which the memory is taken for,
    and then taken for the shape above: what Darknet's [reorg] and OpenCV's reader of it do (not [reorg3d]).
    """
    n, c, h, w = x.shape
    parts = x.reshape(n, c // stride**2, h, stride, w, stride)
    return parts.permute(0, 3, 5, 1, 2, 4).reshape(n, c * stride**2, h // stride, w // stride)


def space_to_depth(x: Tensor, stride: int) -> Tensor:
    """[N, C, H, W] -> [N, stride^2 * C, H / stride, W / stride]: px of a square become channels, [dy][dx][C]."""
    n, c, h, w = x.shape
    parts = x.reshape(n, c, h // stride, stride, w // stride, stride)
    return parts.permute(0, 3, 5, 1, 2, 4).reshape(n, c * stride**2, h // stride, w // stride)


def insert_zeros(x: Tensor, stride: int) -> Tensor:
    """[..., H, W] -> [..., H * stride, W * stride]: each value, and ``stride`` - 1 zeros behind it, in both axes."""
    *front, height, width = x.shape
    spread = F.pad(x[..., :, None, :, None], (0, stride - 1, 0, 0, 0, stride - 1))
    return spread.reshape(*front, height * stride, width * stride)
