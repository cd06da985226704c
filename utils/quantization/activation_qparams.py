"""What flows on the edges: signs, and which edges must share one scale."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from utils.darknet import spec as s
from utils.darknet.channel_groups import UnionFind
from utils.darknet.ops import activation_of, facts
from utils.darknet.shapes import strides
from utils.darknet.walk import rule, run
from utils.quantization.scheme import Scheme
from utils.quantization.validate import readouts

IMAGE_SCALE = 1 / 255
SHIFT_SCALE = 2.0**-8  # of the image where scales are powers of two; the first weights take the rest, 256/255
IMAGE_BITS = 8
NON_NEGATIVE = ("relu", "relu6", "logistic", "hard_sigmoid")
SMALL_BITS = 8  # at least, for the 1x1 maps that lead to a gate: it costs nothing and weighs on a whole map
LEAST = {"swish": -0.2784645427610738, "mish": -0.30884360174500836, "h_swish": -0.375}  # what an activation can reach
MOST = {"relu6": 6.0, "logistic": 1.0, "hard_sigmoid": 1.0}


@dataclass(frozen=True)
class QParams:
    """The values an edge can hold: n * scale for the integers n in lo..hi."""

    scale: float
    qmin: int
    qmax: int

    @property
    def reach(self) -> int:
        """The largest |n|."""
        return max(-self.qmin, self.qmax)

    @property
    def bits(self) -> int:
        """Of the smallest word that holds the levels."""
        if self.qmin >= 0:
            return max(1, self.qmax.bit_length())
        return max(self.qmax.bit_length(), (-self.qmin - 1).bit_length()) + 1


@dataclass(frozen=True)
class Edges:
    """The edges of a network; an edge is named by the layer it leaves, -1 is the image.

    ``group``: edges of one group share one scale. ``producers`` are the edges that take a scale of their own, those of
    layers that compute; the others only move integers. ``pooled``: edges of 1x1 maps, from a global pool to a gate.
    ``gates``: groups of edges that hold nothing but gates in 0..1, whose scale is known beforehand. Read-outs are in
    none of these: they stay accumulators.
    """

    group: dict[int, int]
    signed: dict[int, bool]
    producers: tuple[int, ...]
    pooled: frozenset[int] = frozenset()
    gates: frozenset[int] = frozenset()

    def members(self) -> dict[int, list[int]]:
        """Group -> the producing edges in it, and the image."""
        found: dict[int, list[int]] = {}
        for edge in (-1, *self.producers):
            found.setdefault(self.group[edge], []).append(edge)
        return found


def trace_edges(spec: s.ModelSpec) -> Edges:
    """Follow scale and sign from the image to the heads.

    Max pool, upsample, reorg, dropout and slices pass the scale on; a concat ties what it joins; convolution, shortcut,
    global average and scale_channels start a new one. An edge is signed unless it cannot be negative.
    """
    scales: UnionFind[int] = UnionFind()
    scales.add([-1])
    skipped = set(readouts(spec)) | set(spec.heads)

    def step(i: int, layer: s.Layer, given: list[bool]) -> bool:
        if i in skipped:
            return True
        scales.add([i])
        if facts(layer).computes:
            return rule(SIGNED, layer, "rule for its sign")(layer, given)
        for j in layer.sources:
            scales.tie(i, j)
        return any(given)

    signed = {i: sign for i, sign in run(spec, False, step).items() if i not in skipped}
    producers = tuple(i for i, layer in enumerate(spec.layers) if i in signed and facts(layer).computes)
    group = {i: min(edges) for edges in scales.sets().values() for i in edges}  # named after its first edge
    edges = Edges({edge: group[edge] for edge in signed}, signed, producers, _before_gates(spec))
    return replace(edges, gates=_gates(spec, edges))


def _sum_signed(layer: s.Shortcut, given: list[bool]) -> bool:
    free = layer.weighted and layer.weights_normalization == "none"
    return (any(given) or free) and layer.activation not in NON_NEGATIVE


SIGNED: dict[type[s.Layer], Callable[[Any, list[bool]], bool]] = {  # whether what a layer makes can be negative
    s.Kernel: lambda layer, given: layer.activation not in NON_NEGATIVE,
    s.Shortcut: _sum_signed,
    s.Layer: lambda layer, given: any(given) and activation_of(layer) not in NON_NEGATIVE,
}


def _before_gates(spec: s.ModelSpec) -> frozenset[int]:
    """The 1x1 maps that lead to a gate; a mean that does not is a map as any other, or all spikes took 255 steps."""
    small = {i for i, stride in strides(spec).items() if stride == 0}
    found: set[int] = set()
    for i in range(len(spec.layers) - 1, -1, -1):
        layer = spec.layers[i]
        if layer.features != layer.sources:
            found |= {layer.sources[0]} & small
        if i in found:
            found |= small.intersection(layer.sources)
    return frozenset(found)


def _gates(spec: s.ModelSpec, edges: Edges) -> frozenset[int]:
    """The groups of what scale_channels multiply with, where all in the group are convolutions that end in 0..1."""
    found, kernels = set(), spec.kernels
    for layer in spec.layers:
        if layer.features != layer.sources:
            group = edges.group[layer.sources[0]]
            makers = [i for i in edges.members()[group] if i >= 0]
            if makers and all(i in kernels and MOST.get(kernels[i].activation) == 1 for i in makers):
                found.add(group)
    return frozenset(found)


def level_bounds(bits: int, signed: bool, *, even: bool = False) -> tuple[int, int]:
    """Lowest and highest level of ``bits`` bits; ``even``: the lowest is the highest's negative."""
    most = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
    return (-most if even else -most - 1, most) if signed else (0, most)


def image_scale(scheme: Scheme) -> float:
    """What one level of a pixel is worth to the first layers' weights."""
    return SHIFT_SCALE if scheme.style == "pow2" else IMAGE_SCALE


def gate_scale(scheme: Scheme, bits: int) -> float:
    """Of a gate in 0..1, so that its highest level is 1; in powers of two 1 - 2^-bits."""
    return 2.0**-bits if scheme.style == "pow2" else 1 / (2**bits - 1)


def edge_bits(edges: Edges, scheme: Scheme) -> dict[int, int]:
    """Bits of every producer's levels: the most that any member of its group asks for; the image's group has 8.

    The 1x1 maps that lead to a gate, and gates, ask for at least 8. With ``sign_bit`` those of either sign have one
    more, up to 8, where no layer has bits of its own.
    """
    bits: dict[int, int] = {}
    for group, members in edges.members().items():
        asked = [(scheme.own_bits(i) or (0, scheme.a_bit))[1] for i in members if i >= 0]
        asked += [SMALL_BITS] * bool(edges.pooled & set(members))
        widest = IMAGE_BITS if group == edges.group[-1] else max(asked)
        own = any(scheme.own_bits(i) for i in members)
        sign = int(scheme.sign_bit and widest < IMAGE_BITS and not own)
        bits |= {i: widest + sign * edges.signed[i] for i in members if i >= 0}
    return bits


def make_grids(
    spec: s.ModelSpec, edges: Edges, scales: dict[int, float], bits: dict[int, int], *, even: bool = False
) -> dict[int, QParams]:
    """The grid of every edge; ``even``: as many levels under 0 as above, where there are any.

    ``scales`` holds one scale per group, the image's among them; ``bits`` those of every producer. A relu6 never passes
    6 and a swish never falls under -0.28, so their levels stop there; a moved edge spans what its sources span. A group
    tied to the image keeps the image's 8 bits, or nearly all of it would be clipped.
    """
    grids = {-1: QParams(scales[edges.group[-1]], 0, 2**IMAGE_BITS - 1)}
    for i in sorted(set(edges.group) - {-1}):
        layer, group = spec.layers[i], edges.group[i]
        if i in edges.producers:
            qmin, qmax = level_bounds(bits[i], edges.signed[i], even=even)
            activation = activation_of(layer)
            least, most = LEAST.get(activation, -math.inf), MOST.get(activation, math.inf)
            qmin = max(qmin, math.floor(least / scales[group] + 0.5)) if least > -math.inf else qmin
            qmax = max(1, min(qmax, math.floor(most / scales[group] + 0.5))) if most < math.inf else qmax
        else:
            qmin = min(grids[j].qmin for j in layer.sources)
            qmax = max(grids[j].qmax for j in layer.sources)
        grids[i] = QParams(scales[group], qmin, qmax)
    return grids
