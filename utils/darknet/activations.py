"""The activation names a cfg may use."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

LEAKY_SLOPE = 0.1  # Darknet's; not a cfg key
SHIFT_SLOPE = 2.0**-3  # of leaky_pow2, which is ours: a shift in hardware
SLOPES = {"leaky": LEAKY_SLOPE, "leaky_pow2": SHIFT_SLOPE}  # below 0, by activation


def linear(x: Tensor) -> Tensor:
    """The identity."""
    return x


def leaky(x: Tensor) -> Tensor:
    """x where positive, 0.1 x elsewhere."""
    return F.leaky_relu(x, LEAKY_SLOPE)


def leaky_pow2(x: Tensor) -> Tensor:
    """x where positive, x / 8 elsewhere."""
    return F.leaky_relu(x, SHIFT_SLOPE)


def hard_sigmoid(x: Tensor) -> Tensor:
    """x / 6 + 1/2, clipped to 0..1: the gate of squeeze-excite."""
    return F.hardsigmoid(x)


def logistic(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    return x.sigmoid()


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "hard_sigmoid": hard_sigmoid,
    "leaky": leaky,
    "leaky_pow2": leaky_pow2,
    "linear": linear,
    "logistic": logistic,
    "relu": F.relu,
    "relu6": F.relu6,
    "mish": F.mish,
    "swish": F.silu,
    "h_swish": F.hardswish,
}

ALIASES = {"silu": "swish", "none": "linear"}  # other names that cfgs have for them


@cache
def keeps_zero(name: str) -> bool:
    """Whether an activation makes 0 of 0."""
    return not bool(ACTIVATIONS[name](torch.zeros(1)))
