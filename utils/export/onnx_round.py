"""Requantisation in ONNX: floor(x + 1/2), where QuantizeLinear rounds halves to even."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from utils.export.onnx_graph import Array, Graph
from utils.quantization.integer import Requantiser

FLOAT32_BITS = 24
BYTE, SIGNED = 255, 128  # the largest byte, and the one that stands for 0 where levels can be negative


@dataclass(frozen=True)
class Sum:
    """An accumulator in floats.

    ``name``: tensor of values, such that a value divided by ``scale`` is acc * m * 2^-f, the level before rounding.
    ``parts``: pairs of tensor and factor, float64 [1] or [C], the sum of whose products is acc, exactly.
    ``exact``: no float32 rounds on the way to ``name``.
    ``apart``: what is added has zero points other than 0. Onnxruntime's kernel for such a sum multiplies them by the
    scales, which rounds: a tie that only a scale lifts is lost in it.
    """

    name: str
    parts: Sequence[tuple[str, Array]]
    exact: bool
    apart: bool = False


@dataclass(frozen=True)
class Rounding:
    """Where a layer's levels come from and how they must be rounded.

    ``strict``: every element as defined; else a level may be off by one where float32 rounds the other way.
    """

    by: Requantiser
    scale: float
    strict: bool

    @property
    def gain(self) -> Array:
        """Levels per unit of the accumulator, float64 [1] or [C]."""
        return self.by.multiplier.numpy().astype(np.float64) * 2.0**-self.by.shift

    @property
    def slope(self) -> Array:
        """What multiplies below zero, float64 [1] or [C]; 1 where nothing bends, or where nothing below 0 is left."""
        m, m_neg = (gain.numpy().astype(np.float64) for gain in (self.by.multiplier, self.by.multiplier_neg))
        if self.by.qmin >= 0:
            return np.ones(1)
        return np.divide(m_neg, m, out=np.ones_like(m), where=m > 0)

    @property
    def splits(self) -> bool:
        """Whether `bent_in_two` is right: something bends, and where every element counts float32 has room."""
        bends = bool((self.slope != 1).any())
        return bends and (not self.strict or self.tie is not None or self.step_below is not None)

    @cached_property
    def step_below(self) -> float | None:
        """The step by which exact values below 0 get their levels where the slope is no power of two; None: none does.

        float32 rounds such products. But a level is a stair of the accumulator, and float32 keeps the order: a step is
        right if it rounds right where each level begins and one accumulator before. Both ways are tried, the file's
        own and that of onnxruntime's integer kernels, with a step a few units in the last place off either way.
        """
        by, slope = self.by, self.slope
        uniform = bool((slope == slope[0]).all() and (self.gain == self.gain[0]).all())
        if not uniform or slope[0] <= 0 or by.shift < 1 or self.tie is not None or self._unbent.tie is None:
            return None
        unit, level = float(self.gain[0] * self.scale), np.arange(by.qmin + 1, 1)
        begins = -((1 - 2 * level) * 2 ** (by.shift - 1) // int(by.multiplier_neg[0]))  # the first of each level
        seen = begins > -(2.0**FLOAT32_BITS)
        begins, level = begins[seen], level[seen]
        for off in (0, 1, -1, 2, -2, 3, -3):
            step = np.float32(self.scale / slope[0] * (1 + off * 2.0**-23))
            ways = [[made(acc, unit, step) for acc in (begins, begins - 1)] for made in (_by_file, _by_kernel)]
            if all((at >= level).all() and (before < level).all() for at, before in ways):
                return float(step)
        return None

    @property
    def _unbent(self) -> Rounding:
        return replace(self, by=replace(self.by, multiplier_neg=self.by.multiplier))

    @property
    def tie(self) -> float | None:
        """What lifts a tie and nothing else over the edge, in levels; 0: there are no ties; None: float32 has no room.

        The levels before rounding are multiples of 2^-e, so a quarter of that moves ties up and changes nothing else.
        """
        if not (_powers(self.gain) and _powers(self.slope)):
            return None
        e = max(0, *(-np.frexp(self.gain)[1] + 1))
        finest = e - int(min(np.frexp(self.slope)[1])) + 1
        if finest <= 0:
            return 0.0
        reach = max(self.by.qmax, -self.by.qmin) + 1
        room = reach * 2.0 ** (e + 3) / float(self.slope.min())
        return 2.0 ** -(e + 2) if room < 2.0**FLOAT32_BITS else None


def to_levels(graph: Graph, total: Sum, how: Rounding, name: str) -> str:
    """Accumulator -> levels, as `quantise` stores them; in this order: bend, round, clip.

    Three ways to round a half up. Where the lowest level is 0, a scale two units in the last place too small: whatever
    is a tie comes to lie above it. (Onnxruntime can then still fuse the layer into an integer kernel.) Else a quarter
    of the finest step is added. Where gains are no powers of two, or float32 has no room for that quarter: the
    definition itself, in float64.
    """
    x, scale, tie = total.name, how.scale, how.tie if total.exact else None
    if not how.strict:
        x = _bend(graph, x, how.slope, name)
    elif tie is None:
        x = _defined(graph, total, how, name)
    elif tie and how.by.qmin >= 0 and not total.apart:
        scale *= 1 - 2.0**-23
    else:
        if tie:
            x = graph.add(
                "Add", [x, graph.constant(np.array(tie * scale, np.float32), f"{name}_quarter")], f"{name}_up"
            )
        x = _bend(graph, x, how.slope, name)
    return quantise(graph, x, scale, (how.by.qmin, how.by.qmax), name)


def bytes_zero(qmin: int, qmax: int) -> int | None:
    """The byte that stands for level 0: 128 where levels can be negative; None where 8 bits do not hold them.

    All bytes are uint8, whatever they stand for: onnxruntime makes integer kernels of no other on x64 processors.
    """
    return SIGNED if -SIGNED <= qmin < 0 and qmax < SIGNED else 0 if qmin >= 0 and qmax <= BYTE else None


def quantise(graph: Graph, x: str, scale: float, bounds: tuple[int, int], name: str) -> str:
    """Values -> levels; fewer than 8 bits are clipped as integers, so that the pair before stays one to fuse."""
    at = bytes_zero(*bounds)
    assert at is not None, bounds
    lowest, highest = (bound + at for bound in bounds)
    full = (lowest, highest) == (0, BYTE)
    x = to_bytes(graph, x, scale, at, name if full else f"{name}_wide")
    if full:
        return x
    return graph.add("Clip", [x, *(byte(graph, end) for end in (lowest, highest))], name)


def to_bytes(graph: Graph, x: str, scale: float, at: int, name: str) -> str:
    """Values -> bytes, 0 standing at the byte ``at``."""
    step = graph.constant(np.array(scale, np.float32), f"{name}_scale")
    return graph.add("QuantizeLinear", [x, step, byte(graph, at)], name)


def dequantise(graph: Graph, levels: str, scale: float, at: int, name: str) -> str:
    """Bytes -> values."""
    step = graph.constant(np.array(scale, np.float32), f"{name}_scale")
    return graph.add("DequantizeLinear", [levels, step, byte(graph, at)], f"{name}_value")


def byte(graph: Graph, value: int) -> str:
    """A constant byte."""
    return graph.constant(np.array(value, np.uint8), f"byte_{value}")


def bent_in_two(graph: Graph, above: str, below: str, how: Rounding, name: str) -> str:
    """Levels of a bent accumulator, as the sum of two that are integer kernels each.

    One keeps what is above 0 and the other what is below, whose weights have the slope in their scale; one of both is
    always 0. Ties go up, so those above 0 away from it and those below 0 to it: by scales a unit in the last place off.

    Args:
        graph: gets the nodes.
        above: tensor of values.
        below: those times the slope; the same where ``how.step_below`` has the slope in it.
        how: the rounding, whose products float32 holds where it is strict.
        name: of the levels.
    """
    off = 2.0**-23 if how.strict and (how.tie or how.step_below) else 0.0
    kept = to_bytes(graph, above, how.scale * (1 - off), 0, f"{name}_above")
    lost = to_bytes(graph, below, how.step_below or how.scale * (1 + off), BYTE, f"{name}_below")
    values = [dequantise(graph, kept, how.scale, 0, kept), dequantise(graph, lost, how.scale, BYTE, lost)]
    total = graph.add("Add", values, f"{name}_bent")
    return quantise(graph, total, how.scale, (how.by.qmin, how.by.qmax), name)


def _by_file(acc: Array, unit: float, step: np.float32) -> Array:
    """Levels as the file says: exact values, divided and rounded."""
    return np.rint((acc * unit).astype(np.float32) / step)


def _by_kernel(acc: Array, unit: float, step: np.float32) -> Array:
    """Levels as onnxruntime's integer kernels make them: all scales are one factor."""
    return np.rint(acc.astype(np.float32) * (np.float32(unit) / step))


def by_channel(values: Array) -> Array:
    """[C] -> [C,1,1], and [1] -> []."""
    return values.reshape(()) if values.size == 1 else values.reshape(-1, 1, 1)


def _bend(graph: Graph, x: str, slope: Array, name: str) -> str:
    if (slope == 1).all():
        return x
    if (slope == slope[0]).all():
        return graph.add("LeakyRelu", [x], f"{name}_bent", alpha=float(slope[0]))
    slopes = graph.constant(by_channel(slope).astype(np.float32), f"{name}_slopes")
    return graph.add("PRelu", [x, slopes], f"{name}_bent")


def _defined(graph: Graph, total: Sum, how: Rounding, name: str) -> str:
    double = graph.onnx.TensorProto.DOUBLE

    def times(x: str, factor: Array, part: str) -> str:
        factor = by_channel(factor[:1] if (factor == factor[0]).all() else factor)
        return graph.add("Mul", [x, graph.constant(factor, f"{name}_{part}_factor")], f"{name}_{part}")

    terms = [times(graph.add("Cast", [x], f"{name}_double", to=double), by, "acc") for x, by in total.parts]
    acc = terms[0]
    for term in terms[1:]:
        acc = graph.add("Add", [acc, term], f"{name}_acc")
    x = times(acc, how.gain, "up")
    if (how.slope != 1).any():  # the gain below 0 is the smaller one, so the larger product is the right one
        below = how.by.multiplier_neg.numpy() * 2.0**-how.by.shift
        x = graph.add("Max", [x, times(acc, below, "below")], f"{name}_bent")
    x = graph.add("Add", [x, graph.constant(np.array(0.5), "half")], f"{name}_half")
    x = graph.add("Cast", [graph.add("Floor", [x], f"{name}_floor")], f"{name}_float", to=graph.onnx.TensorProto.FLOAT)
    return graph.add("Mul", [x, graph.constant(np.array(how.scale, np.float32), f"{name}_scale")], f"{name}_rounded")


def _powers(values: Array) -> bool:
    return bool((np.frexp(values)[0] == 0.5).all())
