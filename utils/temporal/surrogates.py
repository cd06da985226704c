"""What stands for the derivative of a spike when a gradient passes: functions of membrane minus threshold."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from utils.darknet.firing import above

ATAN_SLOPE, SIGMOID_SLOPE = 2.0, 4.0
RECTANGLE = 1.0  # its width
WIDTH, HEIGHT, SIDE_HEIGHT, SIDE_WIDTH, SCALE = 0.3, 1.15, 0.15, 6.0, 0.5  # of multi-gaussian


def rectangle(x: Tensor) -> Tensor:
    """1 for -1/2 < x < 1/2, else 0: the slope of clamp(x + 1/2, 0, 1).

    Source: Wu et al., Spatio-Temporal Backpropagation, 2018, equation 24 with a = 1 (arXiv 1706.02609).
    """
    return above(-x.abs(), -RECTANGLE / 2)


def triangle(x: Tensor) -> Tensor:
    """max(0, 1 - abs(x)). Source: Esser et al., 2016, equation 2 (arXiv 1603.08270)."""
    return (1 - x.abs()).clamp_min(0)


def atan(x: Tensor) -> Tensor:
    """a / 2 / (1 + (a pi x / 2)^2) with a = 2: the slope of atan(pi a x / 2) / pi + 1/2.

    Source: Fang et al., ICCV 2021, section 4.2 (arXiv 2007.05785).
    """
    return ATAN_SLOPE / 2 / (1 + (math.pi / 2 * ATAN_SLOPE * x).square())


def sigmoid(x: Tensor) -> Tensor:
    """a s (1 - s) of s = 1 / (1 + exp(-a x)), a = 4."""
    s = torch.sigmoid(SIGMOID_SLOPE * x)
    return SIGMOID_SLOPE * s * (1 - s)


def multi_gaussian(x: Tensor) -> Tensor:
    """A narrow bell with shallow troughs beside it: ((1 + h) N(0, w) - h N(w, s w) - h N(-w, s w)) / 2.

    h = 0.15, w = 0.3, s = 6. Source: Yin, Corradi, Bohte, 2021, equation 7 (arXiv 2103.12593).
    """
    wide = SIDE_WIDTH * WIDTH
    sides = _bell(x - WIDTH, wide) + _bell(x + WIDTH, wide)
    return SCALE * (HEIGHT * _bell(x, WIDTH) - SIDE_HEIGHT * sides)


def _bell(x: Tensor, deviation: float) -> Tensor:
    return torch.exp(-0.5 * (x / deviation).square()) / (deviation * math.sqrt(2 * math.pi))


SURROGATE: Mapping[str, Callable[[Tensor], Tensor]] = {
    "rectangle": rectangle,
    "triangle": triangle,
    "atan": atan,
    "sigmoid": sigmoid,
    "multi-gaussian": multi_gaussian,
}


class Spike(torch.autograd.Function):
    """1 where x > 0, else 0, with a surrogate's derivative."""

    @staticmethod
    def forward(ctx, x: Tensor, slope: Callable[[Tensor], Tensor]) -> Tensor:  # type: ignore[no-untyped-def]
        """Spikes of membrane minus threshold."""
        ctx.save_for_backward(x)
        ctx.slope = slope
        return above(x, 0.0)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        """The gradient times the surrogate."""
        (x,) = ctx.saved_tensors
        return gradient * ctx.slope(x), None
