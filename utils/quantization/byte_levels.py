"""Levels in bytes: how they are stored, and what becomes of them between two convolutions, exactly.

A level of an edge whose grid fits eight bits is stored as level + zero in uint8, with zero 0 where no level is negative
and 128 else. Everything here gives the numbers that `integer` defines, at a quarter of the memory.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.darknet import spec as s
from utils.darknet.forward import move, padding_is_read
from utils.darknet.ops import facts
from utils.quantization.activation_qparams import QParams
from utils.quantization.compiled import passes
from utils.quantization.integer import IntShortcut, Requantiser

BYTE_BITS = 8
FLOAT32_BITS = 24  # of its integers and fractions together
BYTE = 2**BYTE_BITS
SIGNED_ZERO = 2**7
EXACT = 2**FLOAT32_BITS
CACHED = 2**15  # values of a core that passes go over while they are in its cache, float64 too
ROW = 2**10  # values; of shorter ones each begins anew


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
        self.dtype = torch.float32 if narrow else torch.float64
        self.gain, self.negative = (Tiled(m.double() * 2.0**-by.shift) for m in (by.multiplier, by.multiplier_neg))
        self.bent = bent(by)
        self.convex = bool((by.multiplier_neg <= by.multiplier).all())
        self.offset = zero + 0.5
        self.low, self.high = by.qmin + zero, by.qmax + zero  # 0 or more: to cut a number into a byte is to floor it

    def __call__(self, acc: Tensor) -> Tensor:
        """Accumulators [N,O,H,W], integers in floats, channels last -> bytes, channels last."""
        out = torch.empty_like(acc, dtype=torch.uint8, memory_format=torch.channels_last)
        compiled = passes()
        if compiled is not None and acc.dtype == torch.float32:
            width = row(out)
            below = self.negative.over(width) if self.bent else None
            acc = acc.contiguous(memory_format=torch.channels_last)
            compiled.requantise(acc, out, self.gain.over(width), below, self.offset, self.low, self.high)
            return out
        for values, place in zip(in_pixels(acc), in_pixels(out), strict=True):
            self.part(values, place)
        return out

    def part(self, acc: Tensor, place: Tensor) -> None:
        """Some pixels of accumulators [P, r * O], into the bytes of ``place``."""
        value, width = scratch(0, acc, self.dtype).copy_(acc), acc.shape[1]
        gain = self.gain.over(width, self.dtype)
        if self.bent:
            below = torch.mul(value, self.negative.over(width, self.dtype), out=scratch(1, acc, self.dtype))
            if self.convex:
                torch.maximum(value.mul_(gain), below, out=value)
            else:
                value = torch.where(value < 0, below, value * gain)
        else:
            value.mul_(gain)
        place.copy_(value.add_(self.offset).clamp_(self.low, self.high))


class ByteSum:
    """A shortcut of bytes: weighted sum and requantisation, some pixels at a time.

    The accumulator sum(g * (kept - zero)) is exact in float32 where its bound, with bytes of 255, says so.
    """

    def __init__(self, op: IntShortcut, zeros: Sequence[int], zero: int) -> None:
        gains = op.gains.to(torch.int64)
        self.bound = int((gains.abs().sum(0) * (BYTE - 1)).max())
        self.dtype = torch.float32 if self.bound < EXACT else torch.float64
        self.gains = [Tiled(gain.double()) for gain in gains]
        self.rest = Tiled(-(gains * torch.tensor(zeros)[:, None]).sum(0).double())
        self.requantise = ByteRequantiser(op.requantiser, zero, self.bound)
        self.calls: dict[torch.Size, tuple[int, ...]] = {}

    def __deepcopy__(self, memo: object) -> ByteSum:
        """Itself: what it computes never changes, and calls hold addresses."""
        return self

    def __call__(self, given: Sequence[Tensor]) -> Tensor:
        """Bytes [N,C,H,W] each, channels last -> bytes."""
        out = torch.empty_like(given[0], memory_format=torch.channels_last)
        compiled, by = passes(), self.requantise
        if compiled is not None and len(given) == 2:
            one, other = (x.contiguous(memory_format=torch.channels_last) for x in given)
            if out.shape not in self.calls:
                every, width = (*self.gains, self.rest, by.gain, by.negative), row(out)
                self.calls[out.shape] = width, *(x.over(width).data_ptr() for x in every)
            compiled.add(one, other, out, self.calls[out.shape], (by.offset, by.low, by.high))
            return out
        for *parts, place in zip(*map(in_pixels, given), in_pixels(out), strict=True):
            width = place.shape[1]
            total = self.rest.over(width, self.dtype)
            for part, gain in zip(parts, self.gains, strict=True):
                value = scratch(3, part, self.dtype).copy_(part)
                weighted = value.mul_(gain.over(width, self.dtype))
                total = torch.add(total, weighted, out=scratch(2, part, self.dtype))
            by.part(total, place)
        return out


class Tiled:
    """One number a channel, float64 [C], or one for all [1], again and again for the values of a row; see `row`."""

    def __init__(self, values: Tensor) -> None:
        self.values = values
        self.rows: dict[tuple[int, torch.dtype], Tensor] = {}

    def over(self, width: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """[``width``], a multiple of C."""
        if (width, dtype) not in self.rows:
            self.rows[width, dtype] = self.values.repeat(width // len(self.values)).to(dtype)
        return self.rows[width, dtype]


class _Scratch(threading.local):
    """Memory that passes over some pixels share: to ask for new pages takes longer than to fill them."""

    def __init__(self) -> None:
        self.held: dict[tuple[int, torch.dtype], Tensor] = {}


_SCRATCH = _Scratch()


def scratch(which: int, like: Tensor, dtype: torch.dtype) -> Tensor:
    """Memory number ``which`` in the shape of ``like`` [P, W]; whoever asks next gets the same."""
    return memory(which, like.numel(), dtype)[: like.numel()].view(like.shape)


def memory(which: int, count: int, dtype: torch.dtype) -> Tensor:
    """Memory number ``which`` for ``count`` values or more; whoever asks next gets the same."""
    held = _SCRATCH.held.get((which, dtype))
    if held is None or held.numel() < count:
        with torch.inference_mode(False):  # it outlives the mode that it was first asked for in
            held = _SCRATCH.held[which, dtype] = torch.empty(count, dtype=dtype)
    return held


def in_pixels(x: Tensor) -> tuple[Tensor, ...]:
    """Views [P, r * C] of [N,C,H,W] that lies channels last, each of some ten thousand values, rows of r pixels."""
    width = row(x)
    rows = x.permute(0, 2, 3, 1).reshape(-1, width)
    return rows.split(max(1, CACHED * torch.get_num_threads() // width))


def row(x: Tensor) -> int:
    """How many values of [N,C,H,W] are gone over as one row: of several pixels, where channels are few."""
    count, channels, height, width = x.shape
    return pixels_a_row(count * height * width, channels) * channels


@cache
def pixels_a_row(pixels: int, channels: int) -> int:
    """The fewest pixels that divide all of them and fill a row: an operation's own cost is one of rows."""
    return next((r for r in range(1, pixels) if pixels % r == 0 and r * channels >= ROW), max(1, pixels))


def move_bytes(layer: s.Layer, given: Sequence[Tensor], zeros: Sequence[int | None], zero: int | None) -> Tensor:
    """`move` for stored levels: as bytes, all stored as the result is; through floats where there are none."""
    known = [at for at in zeros if at is not None]
    if zero is None or len(known) < len(zeros) or (zero and facts(layer).fills(layer)):
        return stored(move(layer, [levels_of(x, at) for x, at in zip(given, zeros, strict=True)]), zero)
    # a level that both can store is the difference of the zeros away, whatever a byte carries over
    alike = [x if at == zero else x + (zero - at) % BYTE for x, at in zip(given, known, strict=True)]
    return max_pool(layer, alike[0]) if isinstance(layer, s.MaxPool) else move(layer, alike)


def max_pool(layer: s.MaxPool, kept: Tensor) -> Tensor:
    """Darknet's max pool of bytes, which torch pools no larger than 255 px: one pass, or the largest of shifted views.

    Padding is 0, the lowest byte, so never the maximum.
    """
    before, after = layer.pad // 2, layer.pad - layer.pad // 2
    compiled = passes()
    if compiled is not None:
        kept = kept.contiguous(memory_format=torch.channels_last)
        size = [(side + layer.pad - layer.size) // layer.stride + 1 for side in kept.shape[2:]]
        out = kept.new_empty(len(kept), size[0], size[1], kept.shape[1]).permute(0, 3, 1, 2)
        compiled.max_pool(kept, out, layer.size, layer.stride, before)
        return out
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
