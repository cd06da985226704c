"""From ratios of scales to integer gains and one shift."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from utils.quantization.activation_qparams import QParams
from utils.quantization.exact_conv import width_of
from utils.quantization.integer import Requantiser
from utils.quantization.weights import round_half_up

GAIN_BITS = 16  # of the largest m of a layer, where all its channels are much alike
PRECISION = 4  # more bits than a level has, of the smallest m: rounding it moves no level by over 1/32
PRODUCT_BITS = 48  # |acc * m| + 2^(f-1) stays below 2^48, exact in float64 too
LARGEST_SHIFT = PRODUCT_BITS - 2


def make_requantiser(ratio: Tensor, slope: float, target: QParams, bounds: Tensor | None = None) -> Requantiser:
    """Integer gains m and one shift f with m * 2^-f = ``ratio`` [O], the accumulator's unit over the level's.

    f is as large as lets the largest m keep 16 bits, and larger where channels are so unlike each other that the
    smallest m would be coarse (docs/decisions/011). ReLU needs nothing of its own: its grid starts at level 0.

    Args:
        ratio: float64, > 0.
        slope: of what is negative.
        target: the levels' grid.
        bounds: the largest |acc| of every channel, int64 [O]; None: all gains have 16 bits.
    """
    bits = GAIN_BITS if bounds is None else _gain_bits(ratio, target, bounds)
    f = min(gain_shift(float(ratio.max()), bits), LARGEST_SHIFT)
    m = round_half_up(ratio * 2.0**f).clamp_(max=2**bits - 1)
    m_neg = round_half_up(m.double() * slope)
    return reduce(
        Requantiser(
            multiplier=m.to(torch.int32),
            multiplier_neg=m_neg.to(torch.int32),
            shift=f,
            qmin=target.qmin,
            qmax=target.qmax,
        )
    )


def _gain_bits(ratio: Tensor, target: QParams, bounds: Tensor) -> int:
    """Bits of the largest m that leave the smallest one enough, as far as an int32 and the product's width allow.

    A channel that never reaches half a level has no say.
    """
    heard = ratio[bounds * ratio >= 0.5]
    spread = math.frexp(float(ratio.max() / heard.min()))[1] if len(heard) else 0
    wanted = target.bits + PRECISION + spread
    room = PRODUCT_BITS - width_of(bounds)
    return max(GAIN_BITS, min(wanted, room, 31))


def reduce(by: Requantiser) -> Requantiser:
    """The same levels with smaller numbers: a power of two that divides all gains is taken out of them and of f.

    Where scales are powers of two nothing but the shift remains.
    """
    gains = torch.cat([by.multiplier, by.multiplier_neg])
    while by.shift > 1 and bool((gains % 2 == 0).all()) and bool((gains != 0).any()):
        gains = gains // 2
        by = replace(by, multiplier=by.multiplier // 2, multiplier_neg=by.multiplier_neg // 2, shift=by.shift - 1)
    return by


def gain_shift(largest: float, bits: int = GAIN_BITS) -> int:
    """The f that brings ``largest`` * 2^f into [2^(bits-1), 2^bits)."""
    return bits - math.frexp(largest)[1]
