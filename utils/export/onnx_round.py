"""Requantisation in ONNX: floor(x + 1/2), where QuantizeLinear rounds halves to even."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from utils.export.onnx_graph import Array, Graph
from utils.quantization.integer import Requantiser

FLOAT32_BITS = 24


@dataclass(frozen=True)
class Sum:
    """An accumulator in floats.

    ``name``: tensor of values, such that a value divided by ``scale`` is acc * m * 2^-f, the level before rounding.
    ``parts``: pairs of tensor and factor, float64 [1] or [C], the sum of whose products is acc, exactly.
    ``exact``: no float32 rounds on the way to ``name``.
    """

    name: str
    parts: Sequence[tuple[str, Array]]
    exact: bool


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
    """Accumulator -> levels, int8 or uint8; in this order: bend, round, clip.

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
    elif tie and how.by.qmin >= 0:
        scale *= 1 - 2.0**-23
    else:
        if tie:
            x = graph.add(
                "Add", [x, graph.constant(np.array(tie * scale, np.float32), f"{name}_quarter")], f"{name}_up"
            )
        x = _bend(graph, x, how.slope, name)
    return quantise(graph, x, scale, (how.by.qmin, how.by.qmax), name)


def level_type(qmin: int, qmax: int) -> type[np.integer] | None:
    """The 8-bit type that holds the levels; None where none does."""
    return np.int8 if qmin < 0 and qmin >= -128 and qmax <= 127 else np.uint8 if qmin >= 0 and qmax <= 255 else None


def quantise(graph: Graph, x: str, scale: float, bounds: tuple[int, int], name: str) -> str:
    """Values -> levels; fewer than 8 bits are clipped as integers, so that the pair before stays one to fuse."""
    kind = level_type(*bounds)
    assert kind is not None, bounds
    step = graph.constant(np.array(scale, np.float32), f"{name}_scale")
    full = (np.iinfo(kind).min, np.iinfo(kind).max) == bounds
    x = graph.add("QuantizeLinear", [x, step, zero(graph, kind)], name if full else f"{name}_wide")
    if full:
        return x
    ends = [graph.constant(np.array(end, kind), f"{np.dtype(kind)}_{end}") for end in bounds]
    return graph.add("Clip", [x, *ends], name)


def dequantise(graph: Graph, levels: str, scale: float, kind: type[np.integer], name: str) -> str:
    """Levels -> values."""
    step = graph.constant(np.array(scale, np.float32), f"{name}_scale")
    return graph.add("DequantizeLinear", [levels, step, zero(graph, kind)], f"{name}_value")


def zero(graph: Graph, kind: type[np.integer]) -> str:
    """The zero point."""
    return graph.constant(np.array(0, kind), f"{np.dtype(kind)}_zero")


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
