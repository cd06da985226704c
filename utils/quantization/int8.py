"""Integers as a processor's int8 units compute them: levels in bytes, convolutions of int8, the very same numbers.

A level of an edge whose grid fits eight bits is stored as level + zero in uint8, with zero 0 where no level is negative
and 128 else. oneDNN multiplies bytes by int8 weights into int32; as long as |acc| stays under 2^24, float32 hands the
sum on unrounded. Which layer fits is decided from its weights' bound (`accumulator_bounds`), never from a sample.

Weights are packed for the shape of the input at hand: oneDNN chooses their layout by it, and weights that lie otherwise
are turned around in every call, which takes up to thirty times as long as the sums themselves.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.darknet import spec as s
from utils.quantization.byte_levels import BYTE, BYTE_BITS, FLOAT32_BITS, bent, fraction_bits, powers_of_two
from utils.quantization.exact_conv import FLOAT32_EXACT, accumulator_bounds, exact_slices
from utils.quantization.integer import IntConv, Requantiser

INT32_BOUND = 2**31


@cache
def has_int8_units() -> bool:
    """Whether oneDNN's int8 convolution is exact here.

    Processors without VNNI add pairs of products in 16 bits, where they saturate; so the largest products that there
    are get multiplied and compared, as sums and as bytes.
    """
    if not hasattr(torch.ops.onednn, "qconv2d_pointwise") or not torch.backends.mkldnn.is_available():
        return False
    weight = torch.full((16, 64, 3, 3), 127, dtype=torch.int8)
    weight[:, ::3], weight[8:, 1::3] = -128, -127
    image = torch.full((1, 64, 6, 6), 255, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    layer = s.Conv(line=0, sources=(-1,), filters=16, size=3, stride=(1, 1), pad=1, activation="linear", bn=False)
    shift = 2.0**-16
    fused = Fused(torch.full((16,), shift), torch.full((16,), 0.5 * shift), 128, None)
    conv = Int8Conv(layer, weight, torch.zeros(16), 0, fused)
    try:
        with warnings.catch_warnings():  # torch says once that it will part with quantised types; pinned, it has them
            warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
            sums, levels = conv.accumulators(image), conv.levels(image)
    except (RuntimeError, AttributeError):
        return False
    exact = F.conv2d(image.double(), weight.double(), padding=1)
    return torch.equal(sums.double(), exact) and torch.equal(levels, (exact * shift + 128.5).floor().byte())


@dataclass(frozen=True)
class Fused:
    """Requantisation by powers of two inside the convolution: what oneDNN is told.

    ``gain`` float32 [O] is m * 2^-f = 2^e or 0, ``bias`` float32 [O] is (bias + 1/2) * 2^e where e is negative:
    rounding to nearest of (acc + 1/2) * 2^e is then floor(acc * 2^e + 1/2), and no value lies halfway. ``limits`` are
    bytes, None where a byte ends there by itself.
    """

    gain: Tensor
    bias: Tensor
    zero: int
    limits: tuple[int, int] | None


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
        self.zero, self.weight = zero, weight.contiguous()
        self.geometry = ([*layer.stride], pad, dilation, layer.groups)
        self.ones, self.zeros = torch.ones(len(weight)), torch.zeros(len(weight), dtype=torch.int32)
        self.bias = bias.float()
        self.fused = fused
        self._for_sums: tuple[object, Any] = (None, None)  # what weights were packed for, and they
        self._for_levels: tuple[object, Any] = (None, None)

    def __deepcopy__(self, memo: object) -> Int8Conv:
        """Itself: what it computes never changes, and packed weights cannot be copied."""
        return self

    def accumulators(self, kept: Tensor) -> Tensor:
        """Bytes [N,I,H,W] -> accumulators [N,O,H',W'], integers in float32, channels last."""
        if self._for_sums[0] != kept.shape:
            geometry = (*self.geometry, list(kept.shape))
            packed = torch.ops.onednn.qconv_prepack(self.weight, self.ones, 1.0, self.zero, *geometry)
            self._for_sums = kept.shape, packed
        given = (kept, 1.0, self.zero, self._for_sums[1], self.ones, self.zeros, self.bias, *self.geometry)
        acc: Tensor = torch.ops.onednn.qconv2d_pointwise.default(*given, 1.0, 0, torch.float32, "none", [], "")
        return acc

    def levels(self, kept: Tensor) -> Tensor:
        """Bytes -> bytes of the requantised levels; only where ``fused`` is set."""
        by, here = self.fused, (kept.shape, torch.get_num_threads())  # of both oneDNN's plan is made, once
        assert by is not None
        if self._for_levels[0] != here:
            self._for_levels = here, self._pack(by)
        made = torch.ops.quantized.conv2d.new(as_quantised(kept, self.zero), self._for_levels[1], 1.0, by.zero)
        levels = as_bytes(made)
        return levels if by.limits is None else levels.clamp_(*by.limits)

    def _pack(self, by: Fused) -> Any:
        """Weights whose scale is the gain; of a gain of 0 all are 0."""
        silent = by.gain == 0
        weight = self.weight.masked_fill(silent.view(-1, 1, 1, 1), 0) if bool(silent.any()) else self.weight
        gain = by.gain.masked_fill(silent, 1).double()
        scaled = torch._make_per_channel_quantized_tensor(weight, gain, self.zeros.long(), 0)
        before, torch.backends.quantized.engine = torch.backends.quantized.engine, "onednn"
        try:
            return torch.ops.quantized.conv2d_prepack(scaled, by.bias, *self.geometry)
        finally:
            torch.backends.quantized.engine = before


def as_quantised(kept: Tensor, zero: int) -> Tensor:
    """The same bytes under torch's quantised type, of scale 1."""
    made: Tensor = torch._empty_affine_quantized([0], scale=1.0, zero_point=zero, dtype=torch.quint8)
    return made.set_(kept.untyped_storage(), kept.storage_offset(), kept.shape, kept.stride())


def as_bytes(made: Tensor) -> Tensor:
    """The same bytes as uint8."""
    kept = torch.empty(0, dtype=torch.uint8)
    return kept.set_(made.untyped_storage(), made.storage_offset(), made.shape, made.stride())


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
    if zero is None or not multiplies(op):
        return None
    if bound >= FLOAT32_EXACT:
        slices = exact_slices(op.weight, reach, layer.groups)
        return SlicedInt8Conv(layer, op, slices, zero) if slices else None
    return int8_levels(layer, op, reach, zero, out_zero) or Int8Conv(layer, op.weight, op.bias, zero)


def int8_levels(layer: s.Conv, op: IntConv, reach: int, zero: int | None, out_zero: int | None) -> Int8Conv | None:
    """A layer whose levels are exact on int8 units, though its largest sums may not be; see `int8_conv`.

    Beyond the last accumulator at which a level changes, rounding a sum changes none: it keeps the order.
    """
    if zero is None or op.requantiser is None or not multiplies(op):
        return None
    near = torch.minimum(
        accumulator_bounds(op.weight, op.bias, reach).double(), last_step(op.requantiser) + op.bias.double().abs()
    )
    if int(near.max()) >= FLOAT32_EXACT:
        return None
    fused = None
    if out_zero is not None and 2 * int(near.max()) < FLOAT32_EXACT:
        fused = fuse(op.bias, op.requantiser, out_zero)
    return Int8Conv(layer, op.weight, op.bias, zero, fused)


def multiplies(op: IntConv) -> bool:
    """Whether int8 units multiply such weights without passing int32, before the zero is taken off again."""
    return op.weight.dtype == torch.int8 and int(accumulator_bounds(op.weight, op.bias, BYTE - 1).max()) < INT32_BOUND


def last_step(by: Requantiser) -> Tensor:
    """An |accumulator| beyond which no level changes any more, float64 [O]."""
    sides = (by.multiplier, by.multiplier_neg) if by.qmin < 0 else (by.multiplier,)
    gains = torch.stack(sides).double() * 2.0**-by.shift
    smallest = gains.masked_fill(gains == 0, torch.inf).amin(0)  # a gain of 0 makes one level of everything
    return (max(by.qmax, -by.qmin) + 1) / smallest + 1


def fuse(bias: Tensor, by: Requantiser, zero: int) -> Fused | None:
    """Requantisation as oneDNN can do it without an error; None where gains are no powers of two, or bend at 0.

    The zero is added before rounding, to a number with a half unit of the accumulator in it: one bit more of fraction.
    """
    if not powers_of_two(by) or bent(by) or (zero and fraction_bits(by) + 1 > FLOAT32_BITS - BYTE_BITS):
        return None
    gain = by.multiplier.float() * 2.0**-by.shift
    half = torch.where(gain < 1, 0.5, 0.0)  # with gains of 1 and more no value lies between two levels
    limits = by.qmin + zero, by.qmax + zero
    return Fused(gain, (bias.float() + half) * gain, zero, None if limits == (0, BYTE - 1) else limits)
