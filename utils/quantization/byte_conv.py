"""A convolution of bytes with its requantisation in one compiled call, where this processor's vectors multiply bytes.

Sums are int32, so every one that an IntegerNetwork may have is exact and none is cut into slices; levels are those of
`integer.requantise` (conv.c says why). oneDNN's own cost of a call, 50 to 70 us, is longer than most layers of a small
network take here.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.darknet import spec as s
from utils.darknet.op_sizes import conv_size
from utils.quantization.byte_levels import (
    BYTE,
    BYTE_BITS,
    EXACT,
    FLOAT32_BITS,
    bent,
    fraction_bits,
    memory,
    powers_of_two,
)
from utils.quantization.compiled import ConvCall, Passes, passes
from utils.quantization.exact_conv import accumulator_bounds
from utils.quantization.integer import IntConv

LANES = 16  # filters of a vector
QUAD = 4  # channels that one instruction adds up
LARGEST_SIZE = 8  # of a kernel; conv.c has room for its taps
LARGEST_SHIFT = 44  # a byte, half a level and so many bits behind the point fit float64
INT32_BOUND = 2**31
WORK, FEW = 6e7, 288  # multiplications of a layer and of an output beyond which oneDNN's sums are sooner
FUSED_WORK, FUSED_OUTPUT = 2.4e7, 16  # and its bytes; what an output costs in multiplications
WORK_OF_THREAD = 8e6  # and a thread is worth waking for
BORDER = 4  # which `memory` a map with its border lies in


class ByteConv:
    """One convolution by conv.c.

    Args:
        layer: its geometry.
        op: its integers.
        bound: the largest accumulator that there can be.
        zero: of the bytes that it reads.
        out_zero: of those that it makes; None where sums are wanted.
    """

    def __init__(self, layer: s.Conv, op: IntConv, bound: int, zero: int, out_zero: int | None) -> None:
        compiled = passes()
        assert compiled is not None
        self.compiled: Passes = compiled
        self.layer, self.op, self.zero = layer, op, zero
        self.depthwise = layer.groups > 1
        self.per_output = op.weight[0].numel()
        stored_zero = zero * op.weight.to(torch.int64).flatten(1).sum(1)
        self.bias = in_lanes((op.bias.to(torch.int64) - stored_zero).to(torch.int32))  # what passes int32 comes back
        by = op.requantiser
        self.sums, self.offset, self.limits = by is None, 0.0, (0, BYTE - 1)
        self.bent = self.exact32 = False
        gains = [torch.zeros(len(op.bias), dtype=torch.float64)] * 2
        if by is not None and out_zero is not None:
            self.offset, self.limits, self.bent = out_zero + 0.5, (by.qmin + out_zero, by.qmax + out_zero), bent(by)
            gains = [m.double() * 2.0**-by.shift for m in (by.multiplier, by.multiplier_neg)]
            narrow = fraction_bits(by) <= FLOAT32_BITS - BYTE_BITS
            self.exact32 = powers_of_two(by) and bound < EXACT and narrow
        self.gains = [in_lanes(gain) for gain in gains]
        self.gains32 = [gain.float() for gain in self.gains]
        self._calls: dict[tuple[torch.Size, int], ConvCall] = {}

    def __deepcopy__(self, memo: object) -> ByteConv:
        """Itself: what it computes never changes, and what was compiled cannot be copied."""
        return self

    @cached_property
    def weight(self) -> Tensor:
        """As conv.c has it; packed when first asked for, since oneDNN may be sooner for all that comes."""
        return by_taps(self.op.weight) if self.depthwise else by_quads(self.op.weight)

    def __call__(self, kept: Tensor) -> Tensor:
        """Bytes [N,I,H,W], channels last -> bytes [N,O,H',W'], or sums in float32, channels last."""
        kept = kept.contiguous(memory_format=torch.channels_last)
        key = (kept.shape, torch.get_num_threads())
        if key not in self._calls:
            self._calls[key] = self._call(*key)
        how, pad = self._calls[key], self.layer.pad
        given = kept
        if pad or how.channels != kept.shape[1]:
            given = memory(BORDER, how.images * how.height * how.width * how.channels, torch.uint8)
            self.compiled.frame(kept, given, pad, how.channels, self.zero)
        made = (how.images, how.filters, how.made_height, how.made_width)
        kind = torch.float32 if self.sums else torch.uint8
        out = torch.empty(made, dtype=kind, memory_format=torch.channels_last)
        self.compiled.conv(how, given.data_ptr(), out, depthwise=self.depthwise)
        return out

    def is_sooner(self, shape: torch.Size, fused: bool) -> bool:
        """Whether maps [N,I,H,W] take less time here than by oneDNN, which requantises in the same call if ``fused``.

        From multiplications and outputs, as measured on one thread of a processor with AMX, which conv.c does not use.
        """
        outputs = self._outputs(shape)
        if fused:
            return outputs * (self.per_output + FUSED_OUTPUT) <= FUSED_WORK
        return outputs * self.per_output <= WORK or self.per_output <= FEW

    def _outputs(self, shape: torch.Size) -> int:
        height, width = conv_size(self.layer, (shape[2], shape[3]))
        return shape[0] * height * width * self.layer.filters

    def _call(self, shape: torch.Size, threads: int) -> ConvCall:
        layer, pad = self.layer, self.layer.pad
        images, channels, height, width = shape
        made = conv_size(layer, (height, width))
        many = channels if self.depthwise else -(-channels // QUAD) * QUAD
        down, right = layer.stride
        work = self._outputs(shape) * (self.per_output + FUSED_OUTPUT)
        threads = max(1, min(threads, int(work / WORK_OF_THREAD)))
        return ConvCall(
            *(images, height + 2 * pad, width + 2 * pad, many, *made, layer.filters),
            *(layer.size, down, right, layer.dilation),
            *(x.data_ptr() for x in (self.weight, self.bias, *self.gains, *self.gains32)),
            *(self.offset, *self.limits, self.bent, self.exact32, self.sums, threads),
        )


def byte_conv(layer: s.Conv, op: IntConv, reach: int, zero: int | None, out_zero: int | None) -> ByteConv | None:
    """A layer by conv.c; None where this processor, its geometry or its numbers are none that conv.c is exact for.

    Args:
        layer: its geometry.
        op: its integers.
        reach: the largest level that it reads, sign aside.
        zero: of the bytes that it reads, None where it reads none.
        out_zero: of those that it makes, None where it makes none: then sums are made, of a read-out alone.
    """
    compiled, by = passes(), op.requantiser
    if compiled is None or not compiled.multiplies_bytes or zero is None or op.weight.dtype != torch.int8:
        return None
    if op.table is not None or layer.size > LARGEST_SIZE or not (layer.groups == 1 or is_depthwise(layer, op)):
        return None
    bound = int(accumulator_bounds(op.weight, op.bias, reach).max())
    exact = bound < EXACT if by is None else out_zero is not None and bound < INT32_BOUND and by.shift <= LARGEST_SHIFT
    return ByteConv(layer, op, bound, zero, out_zero) if exact else None


def is_depthwise(layer: s.Conv, op: IntConv) -> bool:
    """Whether every filter reads the one channel of its own number."""
    return layer.groups == layer.filters and op.weight.shape[1] == 1


def by_quads(weight: Tensor) -> Tensor:
    """[O,I,k,k] -> [O / 16, k * k, I / 4, 16, 4], filled up with zeros."""
    filters, channels, size, _ = weight.shape
    whole = F.pad(weight, (0, 0, 0, 0, 0, -channels % QUAD, 0, -filters % LANES))
    parts = whole.reshape(len(whole) // LANES, LANES, whole.shape[1] // QUAD, QUAD, size * size)
    return parts.permute(0, 4, 2, 1, 3).contiguous()


def by_taps(weight: Tensor) -> Tensor:
    """[O,1,k,k] -> int32 [k * k, O], filled up with zeros."""
    return in_lanes(weight.flatten(1).to(torch.int32)).t().contiguous()


def in_lanes(values: Tensor) -> Tensor:
    """[O, ...] -> as many as whole vectors hold, the last ones 0."""
    return torch.cat((values, values.new_zeros(-len(values) % LANES, *values.shape[1:])))
