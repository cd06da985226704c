"""Levels in bytes: how they are stored, and what becomes of them between two convolutions, exactly.

A level of an edge whose grid fits eight bits is stored as level + zero in uint8, with zero 0 where no level is negative
and 128 else. Everything here gives the numbers that `integer` defines, at a quarter of the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.darknet import spec as s
from utils.darknet.forward import move, padding_is_read
from utils.darknet.ops import facts
from utils.quantization.activation_qparams import QParams
from utils.quantization.integer import CACHED_VALUES, IntShortcut, Requantiser

BYTE_BITS = 8
FLOAT32_BITS = 24  # of its integers and fractions together
BYTE = 2**BYTE_BITS
SIGNED_ZERO = 2**7
EXACT = 2**FLOAT32_BITS


def zero_of(grid: QParams | None) -> int | None:
    """What is added to a level so that a byte holds it; None: no byte does, or there are no levels."""
    if grid is None:
        return None
    if grid.qmin >= 0:
        return 0 if grid.qmax < BYTE else None
    return SIGNED_ZERO if grid.qmin >= -SIGNED_ZERO and grid.qmax < SIGNED_ZERO else None


def stored(level: Tensor, zero: int | None) -> Tensor:
    """Levels in float32 -> bytes; as they are with ``zero`` None."""
    if zero is None:
        return level
    return (level + zero if zero else level).to(torch.uint8)


def levels_of(kept: Tensor, zero: int | None) -> Tensor:
    """The inverse of `stored`."""
    if zero is None:
        return kept
    level = kept.float()
    return level.sub_(zero) if zero else level


def bent(by: Requantiser) -> bool:
    """Whether negative accumulators have a gain of their own that matters: with qmin = 0 all of them become 0."""
    return by.qmin < 0 and not torch.equal(by.multiplier, by.multiplier_neg)


def powers_of_two(by: Requantiser) -> bool:
    """Whether every gain is a power of two, or 0: float32 multiplies by it without an error."""
    return all(not bool((m & (m - 1)).any()) for m in (by.multiplier, by.multiplier_neg))


def fraction_bits(by: Requantiser) -> int:
    """How many bits behind the point acc * m * 2^-f can have, where the gains are powers of two."""
    gains = torch.cat((by.multiplier, by.multiplier_neg))
    return by.shift - min((int(m).bit_length() - 1 for m in gains[gains > 0]), default=by.shift)


class ByteRequantiser:
    """`requantise` into bytes, some pixels at a time so that they stay in the cache.

    float32 where gains are powers of two and it holds both ``bound``, the largest accumulator there can be, and a byte
    with the bits behind its point; else float64, as the definition. Where no gain below 0 is larger than the one above,
    the larger of the two products is the right one.
    """

    def __init__(self, by: Requantiser, zero: int, bound: int) -> None:
        narrow = powers_of_two(by) and bound < EXACT and fraction_bits(by) <= FLOAT32_BITS - BYTE_BITS
        dtype = torch.float32 if narrow else torch.float64
        self.gain, negative = ((m.double() * 2.0**-by.shift).to(dtype) for m in (by.multiplier, by.multiplier_neg))
        self.negative = negative if bent(by) else None
        self.convex = bool((by.multiplier_neg <= by.multiplier).all())
        self.offset = zero + 0.5
        self.low, self.high = by.qmin + zero, by.qmax + zero  # 0 or more: to cut a number into a byte is to floor it

    def __call__(self, acc: Tensor) -> Tensor:
        """Accumulators [N,O,H,W], integers in floats, channels last -> bytes, channels last."""
        return pixelwise(acc, self.part)

    def part(self, acc: Tensor, place: Tensor) -> None:
        """Some pixels [P, O] of accumulators, into the bytes of ``place``; through int32, which torch vectorises."""
        acc = acc.to(self.gain.dtype)
        value = acc * self.gain
        if self.negative is not None:
            below = acc * self.negative
            value = torch.maximum(value, below) if self.convex else torch.where(acc < 0, below, value)
        place.copy_(value.add_(self.offset).clamp_(self.low, self.high).to(torch.int32))


class ByteSum:
    """A shortcut of bytes: weighted sum and requantisation, some pixels at a time.

    The accumulator sum(g * (kept - zero)) is exact in float32 where its bound, with bytes of 255, says so.
    """

    def __init__(self, op: IntShortcut, zeros: Sequence[int], zero: int) -> None:
        gains = op.gains.to(torch.int64)
        self.bound = int((gains.abs().sum(0) * (BYTE - 1)).max())
        dtype = torch.float32 if self.bound < EXACT else torch.float64
        self.gains = gains.to(dtype)
        self.below = sum(gain * at for gain, at in zip(self.gains, zeros, strict=True)) if any(zeros) else None
        self.requantise = ByteRequantiser(op.requantiser, zero, self.bound)

    def __call__(self, given: Sequence[Tensor]) -> Tensor:
        """Bytes [N,C,H,W] each, channels last -> bytes."""
        out = torch.empty_like(given[0], memory_format=torch.channels_last)
        for *parts, place in zip(*map(in_pixels, given), in_pixels(out), strict=True):
            total = parts[0] * self.gains[0]
            for part, gain in zip(parts[1:], self.gains[1:], strict=True):
                total.add_(part * gain)
            self.requantise.part(total if self.below is None else total.sub_(self.below), place)
        return out


def pixelwise(acc: Tensor, part: Callable[[Tensor, Tensor], object]) -> Tensor:
    """Bytes like ``acc`` [N,C,H,W], channels last; ``part`` makes them of some pixels [P, C], into a place."""
    out = torch.empty_like(acc, dtype=torch.uint8, memory_format=torch.channels_last)
    for values, place in zip(in_pixels(acc), in_pixels(out), strict=True):
        part(values, place)
    return out


def in_pixels(x: Tensor) -> tuple[Tensor, ...]:
    """Views [P, C] of [N,C,H,W] that lies channels last, each of some ten thousand values."""
    rows = x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])
    return rows.split(max(1, CACHED_VALUES // x.shape[1]))


def move_bytes(layer: s.Layer, given: Sequence[Tensor], zeros: Sequence[int | None], zero: int | None) -> Tensor:
    """`move` for stored levels: as bytes, all stored as the result is; through floats where there are none."""
    known = [at for at in zeros if at is not None]
    if zero is None or len(known) < len(zeros) or (zero and facts(layer).fills(layer)):
        return stored(move(layer, [levels_of(x, at) for x, at in zip(given, zeros, strict=True)]), zero)
    # a level that both can store is the difference of the zeros away, whatever a byte carries over
    alike = [x if at == zero else x + (zero - at) % BYTE for x, at in zip(given, known, strict=True)]
    return max_pool(layer, alike[0]) if isinstance(layer, s.MaxPool) else move(layer, alike)


def max_pool(layer: s.MaxPool, kept: Tensor) -> Tensor:
    """Darknet's max pool of bytes, which torch pools no larger than 255 px: the largest of shifted views.

    Padding is 0, the lowest byte, so never the maximum.
    """
    before, after = layer.pad // 2, layer.pad - layer.pad // 2
    if padding_is_read(layer, kept):  # else the floor below is the same without it
        kept = F.pad(kept, (before, after, before, after))
    for axis in (2, 3):
        count = (kept.shape[axis] - layer.size) // layer.stride + 1
        parts = [_every(kept, axis, at, layer.stride, count) for at in range(layer.size)]
        kept = parts[0]
        for part in parts[1:]:
            kept = torch.maximum(kept, part)
    return kept


def _every(x: Tensor, axis: int, start: int, stride: int, count: int) -> Tensor:
    """``count`` slices of an axis from ``start`` on, ``stride`` apart."""
    step = [slice(None)] * x.dim()
    step[axis] = slice(start, start + (count - 1) * stride + 1, stride)
    return x[tuple(step)]
