"""The activation names a cfg may use."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

LEAKY_SLOPE = 0.1  # Darknet's; not a cfg key


def linear(x: Tensor) -> Tensor:
    """The identity."""
    return x


def leaky(x: Tensor) -> Tensor:
    """x where positive, 0.1 x elsewhere."""
    return F.leaky_relu(x, LEAKY_SLOPE)


def logistic(x: Tensor) -> Tensor:
    """1 / (1 + exp(-x))."""
    return x.sigmoid()


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "leaky": leaky,
    "linear": linear,
    "logistic": logistic,
    "relu": F.relu,
    "relu6": F.relu6,
    "mish": F.mish,
    "swish": F.silu,
    "h_swish": F.hardswish,
}
