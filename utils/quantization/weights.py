"""Weights on integer grids, one scale an output channel."""

from __future__ import annotations

import torch
from torch import Tensor

SHARES = 60
SMALLEST_SHARE = 0.4  # of the channel's largest weight; low bits gain from clipping, 8 bits hardly
LARGEST_BIAS = 2**22  # in accumulator units; keeps an almost dead channel's bias in int32 and the sum in float32


def weight_levels(bits: int) -> int:
    """The largest weight level; the grid is symmetric, -128 is not used."""
    return 2 ** (bits - 1) - 1


def weight_scales(weight: Tensor, bias: Tensor, s_in: float, bits: int) -> Tensor:
    """The scale of least squared weight error of every output channel, float64 [O].

    A channel whose weights are all 0, or tiny beside its bias, takes a scale large enough for its bias.
    """
    top = weight_levels(bits)
    flat = weight.double().flatten(1)
    largest = flat.abs().amax(1)
    best = largest / top
    error = torch.full_like(best, torch.inf)
    for share in torch.linspace(1, SMALLEST_SHARE, SHARES, dtype=torch.float64):
        scale = (largest * share / top).clamp_min(torch.finfo(torch.float64).tiny)
        off = (round_weights(flat, scale, bits).double() * scale[:, None] - flat).square().sum(1)
        best = torch.where(off < error, scale, best)
        error = torch.minimum(off, error)
    floor = bias.double().abs() / (s_in * LARGEST_BIAS)
    best = torch.maximum(best, floor)
    live = best > torch.finfo(torch.float32).tiny
    fallback = float(best[live].max()) if live.any() else 1.0
    return torch.where(live, best, torch.full_like(best, fallback))


def round_weights(weight: Tensor, scale: Tensor, bits: int) -> Tensor:
    """floor(w / s + 1/2), clipped to the symmetric grid; int8, same shape as ``weight``."""
    top = weight_levels(bits)
    shape = (-1, *[1] * (weight.dim() - 1))
    return (weight.double() / scale.view(shape) + 0.5).floor_().clamp_(-top, top).to(torch.int8)


def round_half_up(value: Tensor) -> Tensor:
    """floor(x + 1/2) in float64, as int64; the only rounding there is."""
    return (value.double() + 0.5).floor().to(torch.int64)
