"""Additive powers of two: a weight is the sum of two powers of two, or one, or none, times its layer's scale.

Every level is a whole number of the smallest power, so that a layer's integers are ordinary ones, of a few bits more
than the code of a weight needs: 4 bits of code are the levels 0, 1, 2, 3, 4, 6, 8, 10 of either sign, which take 5 as
numbers.

Source: Li et al., Additive Powers-of-Two Quantization, ICLR 2020 (arXiv 1909.13144), section 2.2, with two terms.
"""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor

from utils.quantization.ste import learn_levels, round_levels

TERMS: dict[int, tuple[tuple[int, ...], tuple[int, ...]]] = {  # bits of a weight, its sign included -> what is added
    2: ((0, 1), (0,)),
    3: ((0, 1, 2, 4), (0,)),
    4: ((0, 1, 4, 8), (0, 2)),
    5: ((0, 2, 8, 32), (0, 1, 4, 16)),
}
MOST = max(TERMS)


def magnitudes(bits: int) -> tuple[int, ...]:
    """The levels that are not negative, in order; 2^(bits - 1) of them."""
    return tuple(sorted({a + b for a, b in product(*TERMS[bits])}))


def stored_bits(bits: int) -> int:
    """Bits of the levels as whole numbers, sign included."""
    return magnitudes(bits)[-1].bit_length() + 1


def nearest_level(ratio: Tensor, bits: int) -> Tensor:
    """The nearest level of each weight over its scale; between two the one farther from 0, in the ratio's own dtype."""
    levels = torch.tensor(magnitudes(bits), dtype=ratio.dtype, device=ratio.device)
    middles = (levels[1:] + levels[:-1]) / 2
    return levels[torch.bucketize(ratio.abs().contiguous(), middles, right=True)] * ratio.sign()


def rounded_weight(weight: Tensor, scale: Tensor, step: Tensor, bits: int, *, learn: bool) -> Tensor:
    """Weights on their levels with gradients straight through; a scale that learns has the clip's gradient.

    Args:
        weight: any shape.
        scale: what learns, expands to it.
        step: what is used, expands to it.
        bits: of a weight.
        learn: whether the scale learns.
    """
    top = magnitudes(bits)[-1]
    level = nearest_level(weight.detach() / step.detach(), bits)
    if learn:
        return learn_levels(weight, scale, step, level, top)
    return round_levels(weight, step, level, top)
