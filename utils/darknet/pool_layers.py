"""The kinds of layers that make one value of a window, with no tensors of their own."""

from __future__ import annotations

from dataclasses import dataclass

from utils.darknet.layers import Layer


@dataclass(frozen=True, kw_only=True)
class Pool(Layer):
    """Windows of a map; ``pad`` is the *total* padding of an axis, as in Darknet: pad // 2 before, the rest after."""

    size: int = 2
    stride: int = 2
    pad: int = 1


@dataclass(frozen=True, kw_only=True)
class MaxPool(Pool):
    """The largest value of every window. Padding never wins: -inf for floats and the lowest level for integers."""


@dataclass(frozen=True, kw_only=True)
class LocalAvgPool(Pool):
    """The mean of every window, of the values in it: padding is not counted, neither above nor below the line."""

    @property
    def steps(self) -> tuple[int, int]:
        """Its stride, (vertical, horizontal) px."""
        return self.stride, self.stride

    @property
    def row(self) -> tuple[int, ...]:
        """The weights of one direction; the kernel is their product with themselves, over their sum squared."""
        return (1,) * self.size


@dataclass(frozen=True, kw_only=True)
class AvgPool(Layer):
    """Global average: [N, C, H, W] -> [N, C, 1, 1]."""


@dataclass(frozen=True, kw_only=True)
class Blur(Layer):
    """What ``antialiasing`` puts behind the section that has it: every channel blurred, by the same weights.

    Of ``size`` 3 they are the rows 1 2 1, 2 4 2, 1 2 1 over 16, with a px of zeros around the map; of 2 a quarter each,
    without. ``stride`` is (vertical, horizontal) px. Source: Zhang, Making Convolutional Networks Shift-Invariant
    Again, section 3 (arXiv 1904.11486), as make_convolutional_layer of Darknet's convolutional_layer.c has it.
    """

    size: int = 3
    stride: tuple[int, int] = (1, 1)

    @property
    def steps(self) -> tuple[int, int]:
        """Its stride."""
        return self.stride

    @property
    def pad(self) -> int:
        """Px of zeros on every side."""
        return self.size // 2 if self.size % 2 else 0

    @property
    def row(self) -> tuple[int, ...]:
        """The weights of one direction; the kernel is their product with themselves, over their sum squared."""
        return (1, 2, 1) if self.size % 2 else (1, 1)

    @property
    def resizes(self) -> bool:
        """Whether the map behind it has another size."""
        return self.stride != (1, 1) or self.pad == 0
