"""Rounding that gradients pass: the straight-through estimators of quantised training.

Forward they are the definition's arithmetic, floor(x / s + 1/2) clipped to lo..hi, times s. Backward the rounding
counts as the identity, and what was clipped gets no gradient.

Source: Bengio et al., Estimating or Propagating Gradients Through Stochastic Neurons, 2013 (arXiv 1308.3432).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from utils.quantization.integer import CACHED_VALUES


def fake_quantise(x: Tensor, scale: Tensor, qmin: int, qmax: int) -> Tensor:
    """The nearest grid values of a map, in its own dtype.

    Args:
        x: [N,C,H,W]; levels are found in float32 whatever its dtype.
        scale: one number, > 0; gets no gradient.
        qmin: lowest level.
        qmax: highest level.
    """
    return _Fake.apply(x, scale.detach(), qmin, qmax)


def learn_quantise(x: Tensor, scale: Tensor, step: Tensor, qmin: int, qmax: int) -> Tensor:
    """The same with a scale that learns: d/ds is level - x / s inside the grid and the outermost level outside.

    The scale's gradient is divided by sqrt(values a scale * hi), which makes its relative steps like those of weights.

    Args:
        x: any shape.
        scale: what learns, of a shape that expands to that of ``x``.
        step: what ``x`` is divided by: the scale, or the power of two above it; no gradient passes here.
        qmin: lowest level.
        qmax: highest level.

    Source: Esser et al., Learned Step Size Quantization, ICLR 2020 (arXiv 1902.08153).
    """
    return _Learned.apply(x, scale, step.detach(), qmin, qmax)


def round_straight(x: Tensor, scale: Tensor, top: int) -> Tensor:
    """Weights on their symmetric grid, any shape; ``scale`` expands to it."""
    step = scale.detach()
    level = (x / step + 0.5).floor().clamp(-top, top)
    inside = (x.detach().abs() <= (top + 0.5) * step).to(x.dtype)
    passed = x * inside
    return passed + (level * step - passed).detach()


def round_levels(x: Tensor, scale: Tensor, level: Tensor, top: int) -> Tensor:
    """As `round_straight`, on levels that are found already; ``top`` is the highest of them."""
    step = scale.detach()
    passed = x * (x.detach().abs() <= (top + 0.5) * step).to(x.dtype)
    return passed + (level * step - passed).detach()


def learn_levels(x: Tensor, scale: Tensor, step: Tensor, level: Tensor, top: int) -> Tensor:
    """As `learn_quantise`, on levels that are found already; what learns is the clip, ``top`` steps wide."""
    return _LearnedLevels.apply(x, scale, step.detach(), level, top)


def level_sum(x: Tensor, y: Tensor, unit: float) -> Tensor:
    """The sum of |y| / unit in float32, as a term of a loss that wants fewer of them.

    Its gradient goes straight to ``x``, of which ``y`` is the rounding: sign(y) / unit, also where ``y`` was clipped.
    What is 0 stays, and no scale is moved: a larger one would make all levels small.

    Args:
        x: what was rounded, any shape.
        y: its grid values.
        unit: what one of them counts, > 0.
    """
    return _LevelSum.apply(x, y.detach(), unit)


def next_power(scale: Tensor) -> Tensor:
    """The least power of two that is not below each scale; as `ranges.power_of_two`, exact.

    A float is mantissa * 2^e with a mantissa in [1/2, 1), so that dividing by the mantissa is exact.
    """
    mantissa, _ = torch.frexp(scale)
    return torch.where(mantissa == 0.5, scale, scale / mantissa)


class _Fake(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, qmin: int, qmax: int) -> Tensor:
        out, inside = torch.empty_like(x), torch.empty_like(x)  # a bool mask would be cast, slowly, to be multiplied
        count = _cached(x, scale)
        for part, into, mask in zip(x.split(count), out.split(count), inside.split(count), strict=True):
            level = (part.float() / scale).add_(0.5).floor_()
            clipped = level.clamp(qmin, qmax)
            mask.copy_(level.eq_(clipped))
            into.copy_(clipped.mul_(scale))
        ctx.save_for_backward(inside)
        return out

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, None, None, None]:
        (inside,) = ctx.saved_tensors
        return given[0] * inside, None, None, None


class _LearnedLevels(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, step: Tensor, level: Tensor, top: int) -> Tensor:
        ctx.save_for_backward(x / step, level)
        ctx.top, ctx.shape = top, scale.shape
        return level * step

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        ratio, level = ctx.saved_tensors
        inside = ratio.abs() <= ctx.top
        moved = given[0] * torch.where(inside, level - ratio, ctx.top * ratio.sign())
        values = ratio.numel() // math.prod(ctx.shape)
        return given[0] * inside, moved.sum_to_size(ctx.shape) / math.sqrt(values * ctx.top), None, None, None


class _LevelSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, unit: float) -> Tensor:
        ctx.save_for_backward(y)
        ctx.unit = unit
        return torch.linalg.vector_norm(y, 1, dtype=torch.float32) / unit

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, None, None]:
        (y,) = ctx.saved_tensors
        return y.sign().mul_(given[0] / ctx.unit), None, None


class _Learned(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, step: Tensor, qmin: int, qmax: int) -> Tensor:
        ctx.save_for_backward(x, scale, step)
        ctx.bounds = qmin, qmax
        out, count = torch.empty_like(x), _cached(x, step)
        for part, into in zip(x.split(count), out.split(count), strict=True):
            level = (part.float() / step).add_(0.5).floor_()
            into.copy_(level.clamp_(qmin, qmax).mul_(step))
        return out

    @staticmethod
    def backward(ctx: Any, *given: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        x, scale, step = ctx.saved_tensors
        qmin, qmax = ctx.bounds
        passed, count, total = torch.empty_like(x), _cached(x, step), torch.zeros_like(scale)
        for part, upper, into in zip(x.split(count), given[0].split(count), passed.split(count), strict=True):
            exact = part.float() / step
            level = (exact + 0.5).floor_()
            clipped = level.clamp(qmin, qmax)
            inside = level.eq_(clipped)  # 1.0 or 0.0: a bool mask would be cast, slowly, to be multiplied
            torch.mul(upper, inside.to(upper.dtype), out=into)
            total += clipped.sub_(exact.mul_(inside)).mul_(upper).sum_to_size(scale.shape)
        gain = (x.numel() / scale.numel() * max(qmax, 1)) ** -0.5
        return passed, total * gain, None, None, None


def _cached(x: Tensor, step: Tensor) -> int:
    """How many of a batch are worked on at once, so that what lies between two passes stays in the cache."""
    if x.device.type != "cpu" or step.numel() != 1:
        return max(1, len(x))
    return max(1, CACHED_VALUES // max(1, x[:1].numel()))
