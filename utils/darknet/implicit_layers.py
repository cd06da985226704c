"""The kinds of layers that hold values of their own, and those that add or multiply by them (YOLOR)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from utils.darknet.layers import Layer


@dataclass(frozen=True, kw_only=True)
class Implicit(Layer):
    """YOLOR's implicit knowledge: learned values [1, C, 1, 1], the same for every image, that start around ``start``.

    It reads the image and uses nothing of it. Source: Wang, Yeh and Liao, You Only Learn One Representation, section 3
    (arXiv 2105.04206).
    """

    start: ClassVar[int] = 0
    filters: int


@dataclass(frozen=True, kw_only=True)
class ImplicitAdd(Implicit):
    """``[implicit_add]``: values to be added."""


@dataclass(frozen=True, kw_only=True)
class ImplicitMul(Implicit):
    """``[implicit_mul]``: values to multiply by."""

    start: ClassVar[int] = 1


@dataclass(frozen=True, kw_only=True)
class Informed(Layer):
    """What implicit values act on; sources (features [N, C, H, W], values [1, C, 1, 1])."""

    multiplies: ClassVar[bool] = False


@dataclass(frozen=True, kw_only=True)
class ShiftChannels(Informed):
    """``[shift_channels]``: features + implicit values, channel by channel."""


@dataclass(frozen=True, kw_only=True)
class ControlChannels(Informed):
    """``[control_channels]``: features * implicit values, channel by channel."""

    multiplies: ClassVar[bool] = True
