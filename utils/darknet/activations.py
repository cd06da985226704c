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


def relie(x: Tensor) -> Tensor:
    """x where positive, 0.01 x elsewhere."""
    return F.leaky_relu(x, 0.01)


def ramp(x: Tensor) -> Tensor:
    """1.1 x where positive, 0.1 x elsewhere."""
    return x.relu() + 0.1 * x


def selu(x: Tensor) -> Tensor:
    """1.0507 x where positive, 1.0507 * 1.6732 * (exp(x) - 1) elsewhere: Darknet's digits."""
    return 1.0507 * F.elu(x, 1.6732)


def gelu(x: Tensor) -> Tensor:
    """x / 2 * (1 + tanh(0.797885 x + 0.035677 x^3)), Darknet's digits of the approximation by tanh."""
    return 0.5 * x * (1 + torch.tanh(0.797885 * x + 0.035677 * x**3))


def loggy(x: Tensor) -> Tensor:
    """2 / (1 + exp(-x)) - 1."""
    return 2 * x.sigmoid() - 1


def hardtan(x: Tensor) -> Tensor:
    """x, clipped to -1..1."""
    return x.clamp(-1, 1)


def lhtan(x: Tensor) -> Tensor:
    """x in 0..1, and a slope of 0.001 on both sides."""
    return x.clamp(0, 1) + 0.001 * (x - x.clamp(0, 1))


def plse(x: Tensor) -> Tensor:
    """x / 8 + 1/2 in -4..4, and a slope of 0.01 on both sides."""
    inner = x.clamp(-4, 4)
    return 0.125 * inner + 0.5 + 0.01 * (x - inner)


def stair(x: Tensor) -> Tensor:
    """A step of 1 every 2: flat from an even number to the next odd one, then rising to the next even one."""
    whole = x.floor()
    return (x / 2).floor() + torch.where(whole % 2 == 0, torch.zeros_like(x), x - whole)


def hard_mish(x: Tensor) -> Tensor:
    """x where positive, x^2 / 2 + x down to -2, 0 below."""
    return 0.5 * x * (x + 2).clamp(0, 2)


RARE: dict[str, Callable[[Tensor], Tensor]] = {  # of Darknet's activations.h; in integers by table, in no spikes
    "elu": F.elu,
    "gelu": gelu,
    "hard_mish": hard_mish,
    "hardtan": hardtan,
    "lhtan": lhtan,
    "loggy": loggy,
    "plse": plse,
    "ramp": ramp,
    "relie": relie,
    "selu": selu,
    "stair": stair,
    "tanh": torch.tanh,
}
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
    **RARE,
}

ALIASES = {"silu": "swish", "none": "linear", "revleaky": "leaky"}  # other names that cfgs have for them
ACROSS = tuple(f"normalize_channels{more}" for more in ("", "_softmax", "_softmax_maxval"))  # Darknet's, refused


@cache
def keeps_zero(name: str) -> bool:
    """Whether an activation makes 0 of 0."""
    return not bool(ACTIVATIONS[name](torch.zeros(1)))
