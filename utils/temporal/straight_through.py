"""Membranes of few bits and weights of one: rounded in the forward pass, with a gradient that goes through."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def rounded_membrane(u: Tensor, bits: int, limit: float = 1.0) -> Tensor:
    """A membrane on a symmetric grid of ``bits`` bits: clamp(tanh(u) / a, -1, 1) in 2^(b-1) - 1 steps a side, times a.

    The gradient is that of tanh inside the grid's range: (1 - tanh(u)^2) 1[abs(tanh u) <= a].

    Args:
        u: membrane, any shape.
        bits: 2 or more; 2 are -a, 0, a.
        limit: a, the highest level.
    """
    steps = 2 ** (bits - 1) - 1
    squeezed = (torch.tanh(u) / limit).clamp(-1, 1)
    rounded = (squeezed * steps).round() / steps
    return limit * (squeezed + (rounded - squeezed).detach())


class BinaryWeight(torch.autograd.Function):
    """sign(b) times a power of two a filter, b being the filter's weights standardised.

    Backward, with respect to b: k t (1 - tanh(t b)^2) times the power. t grows and k = max(1 / t, 1) shrinks along the
    training, from nearly straight to nearly a step. Source: Qin et al., IR-Net, CVPR 2020, equations 6 to 11 (arXiv
    1909.10788).
    """

    @staticmethod
    def forward(ctx: Any, b: Tensor, sharpness: float) -> Tensor:
        """Standardised weights [out, ...] -> two values a filter."""
        power = powers(b)
        ctx.save_for_backward(b, power)
        ctx.sharpness = sharpness
        return torch.where(b >= 0, power, -power)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """See the class."""
        b, power = ctx.saved_tensors
        t = ctx.sharpness
        return gradient * power * (max(1 / t, 1.0) * t) * (1 - torch.tanh(t * b).square()), None


def powers(b: Tensor) -> Tensor:
    """The power of two nearest, on a logarithmic scale, to the mean magnitude of each filter; [out, 1, 1, 1]."""
    return torch.exp2(b.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-12).log2().round())


def binary_weight(weight: Tensor, sharpness: float) -> Tensor:
    """A kernel [out, in, k, k] -> plus or minus a power of two of each filter; ``sharpness`` is t."""
    centred = weight - weight.mean((1, 2, 3), keepdim=True)
    deviation = centred.square().mean((1, 2, 3), keepdim=True).sqrt().clamp_min(1e-12)
    result: Tensor = BinaryWeight.apply(centred / deviation, sharpness)
    return result


def sharpness_at(progress: float, low: float = 0.1, high: float = 10.0) -> float:
    """t at a share of the training: from 0.1 to 10 on a logarithmic scale (IR-Net, equation 8)."""
    return float(low * (high / low) ** min(max(progress, 0.0), 1.0))
