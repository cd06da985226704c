"""Integers as a processor's int8 units compute them: levels in bytes, convolutions of int8, the very same numbers.

A level of an edge whose grid fits eight bits is stored as level + zero in uint8, with zero 0 where no level is negative
and 128 else. oneDNN multiplies bytes by int8 weights into int32; as long as |acc| stays under 2^24, float32 hands the
sum on unrounded. Which layer fits is decided from its weights' bound (`accumulator_bounds`), never from a sample.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.darknet import spec as s
from utils.quantization.byte_levels import BYTE, BYTE_BITS, FLOAT32_BITS, bent, fraction_bits, powers_of_two
from utils.quantization.exact_conv import FLOAT32_EXACT, accumulator_bounds, exact_slices
from utils.quantization.integer import IntConv, Requantiser

INT32_BOUND = 2**31
NO_BEND, NO_LIMITS = "none", "hardtanh"


@cache
def has_int8_units() -> bool:
    """Whether oneDNN's int8 convolution is exact here.

    Processors without VNNI add pairs of products in 16 bits, where they saturate; so the largest products that there
    are get multiplied and compared.
    """
    if not hasattr(torch.ops.onednn, "qconv2d_pointwise") or not torch.backends.mkldnn.is_available():
        return False
    weight = torch.full((16, 64, 3, 3), 127, dtype=torch.int8)
    weight[:, ::3], weight[8:, 1::3] = -128, -127
    image = torch.full((1, 64, 6, 6), 255, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    layer = s.Conv(line=0, sources=(-1,), filters=16, size=3, stride=(1, 1), pad=1, activation="linear", bn=False)
    bias = torch.zeros(16)
    try:
        found = Int8Conv(layer, weight, bias, 0).accumulators(image)
    except RuntimeError:
        return False
    return torch.equal(found.double(), F.conv2d(image.double(), weight.double(), padding=1))


@dataclass(frozen=True)
class Fused:
    """Requantisation by powers of two inside the convolution: what oneDNN is told.

    ``gain`` float32 [O] is 2^e or 0, ``bias`` float32 [O] is (bias + 1/2) * 2^e where the shift f - e is 1 or more:
    rounding to nearest of (acc + 1/2) / 2^(f-e) is then floor(acc / 2^(f-e) + 1/2), and no value lies halfway.
    """

    gain: Tensor
    bias: Tensor
    step: float
    zero: int
    limits: tuple[float, float] | None


class Int8Conv:
    """One convolution on int8 units.

    Args:
        layer: its geometry.
        weight: int8 [O, I / groups, k, k].
        bias: integers [O].
        zero: of the bytes that it reads.
        fused: the requantisation, where it can be done in the same call.
    """

    def __init__(self, layer: s.Conv, weight: Tensor, bias: Tensor, zero: int, fused: Fused | None = None) -> None:
        pad, dilation = [layer.pad, layer.pad], [layer.dilation, layer.dilation]
        self.zero = zero
        self.geometry = ([*layer.stride], pad, dilation, layer.groups)
        self.ones, self.zeros = torch.ones(len(weight)), torch.zeros(len(weight), dtype=torch.int32)
        self.bias = bias.float()
        self.packed = torch.ops.onednn.qconv_prepack(weight.contiguous(), self.ones, 1.0, zero, *self.geometry)
        self.fused = fused

    def __deepcopy__(self, memo: object) -> Int8Conv:
        """Itself: nothing in it changes, and packed weights cannot be copied."""
        return self

    def accumulators(self, kept: Tensor) -> Tensor:
        """Bytes [N,I,H,W] -> accumulators [N,O,H',W'], integers in float32, channels last."""
        return self._run(kept, self.ones, self.bias, 1.0, 0, torch.float32, NO_BEND, [])

    def levels(self, kept: Tensor) -> Tensor:
        """Bytes -> bytes of the requantised levels; only where ``fused`` is set."""
        by = self.fused
        assert by is not None
        bend, limits = (NO_BEND, []) if by.limits is None else (NO_LIMITS, [*by.limits])
        return self._run(kept, by.gain, by.bias, by.step, by.zero, torch.uint8, bend, limits)

    def _run(
        self,
        kept: Tensor,
        gain: Tensor,
        bias: Tensor,
        step: float,
        zero: int,
        dtype: torch.dtype,
        bend: str,
        limits: list[float],
    ) -> Tensor:
        out: Tensor = torch.ops.onednn.qconv2d_pointwise(
            kept,
            1.0,
            self.zero,
            self.packed,
            gain,
            self.zeros,
            bias,
            *self.geometry,
            step,
            zero,
            dtype,
            bend,
            limits,
            "",
        )
        return out


class SlicedInt8Conv:
    """A convolution whose sums float32 cannot hold: of slices of its inputs that it can, added up in float64."""

    fused = None

    def __init__(self, layer: s.Conv, op: IntConv, slices: list[slice], zero: int) -> None:
        nothing = torch.zeros_like(op.bias)
        self.parts = [(part, Int8Conv(layer, op.weight[:, part], nothing, zero)) for part in slices]
        self.bias = op.bias.double().view(1, -1, 1, 1)

    def accumulators(self, kept: Tensor) -> Tensor:
        """Bytes [N,I,H,W] -> accumulators [N,O,H',W'], integers in float64, channels last."""
        total = self.bias
        for part, conv in self.parts:
            total = total + conv.accumulators(kept[:, part].contiguous(memory_format=torch.channels_last))
        return total


def int8_conv(
    layer: s.Conv, op: IntConv, reach: int, zero: int | None, out_zero: int | None
) -> Int8Conv | SlicedInt8Conv | None:
    """A layer on int8 units, with its requantisation fused where both are proved exact; None where they are not.

    Args:
        layer: its geometry.
        op: its integers.
        reach: the largest level that it reads, sign aside.
        zero: of the bytes it reads, None where it reads none.
        out_zero: of the bytes it makes.
    """
    bound = int(accumulator_bounds(op.weight, op.bias, reach).max())
    widest = int(accumulator_bounds(op.weight, op.bias, BYTE - 1).max())  # before the zero is taken off again
    if zero is None or op.weight.dtype != torch.int8 or widest >= INT32_BOUND:
        return None
    if bound >= FLOAT32_EXACT:
        slices = exact_slices(op.weight, reach, layer.groups)
        return SlicedInt8Conv(layer, op, slices, zero) if slices else None
    fused = None
    if out_zero is not None and op.requantiser is not None and 2 * bound < FLOAT32_EXACT:
        fused = fuse(op.bias, op.requantiser, out_zero)
    return Int8Conv(layer, op.weight, op.bias, zero, fused)


def fuse(bias: Tensor, by: Requantiser, zero: int) -> Fused | None:
    """Requantisation as oneDNN can do it without an error; None where gains are no powers of two, or bend at 0.

    The zero is added before rounding, to a number with a half unit of the accumulator in it: one bit more of fraction.
    """
    if not powers_of_two(by) or bent(by) or (zero and fraction_bits(by) + 1 > FLOAT32_BITS - BYTE_BITS):
        return None
    gain, step = by.multiplier.float(), 2.0**by.shift
    half = torch.where(gain < step, 0.5, 0.0)  # with gains of 1 and more no value lies between two levels
    whole = (by.qmin + zero, by.qmax + zero) == (0, BYTE - 1)  # a byte saturates there by itself
    limits = None if whole else (by.qmin * step, by.qmax * step)
    return Fused(gain, (bias.float() + half) * gain, step, zero, limits)
