"""What flows on the edges: signs, and which edges must share one scale."""

from __future__ import annotations

from dataclasses import dataclass

from utils.darknet import spec as s
from utils.quantization.scheme import Scheme
from utils.quantization.support import readouts

IMAGE_SCALE = 1 / 255
SHIFT_SCALE = 2.0**-8  # of the image where scales are powers of two; the first weights take the rest, 256/255
IMAGE_BITS = 8
NON_NEGATIVE = ("relu", "relu6", "logistic", "hard_sigmoid")


@dataclass(frozen=True)
class Grid:
    """The values an edge can hold: n * scale for the integers n in lo..hi."""

    scale: float
    lo: int
    hi: int

    @property
    def reach(self) -> int:
        """The largest |n|."""
        return max(-self.lo, self.hi)


@dataclass(frozen=True)
class Edges:
    """The edges of a network; an edge is named by the layer it leaves, -1 is the image.

    ``group``: edges of one group share one scale. ``producers`` are the edges that take a scale of their own, those of
    convolutions and shortcuts; the others only move integers. Read-outs are in none of these: they stay accumulators.
    """

    group: dict[int, int]
    signed: dict[int, bool]
    producers: tuple[int, ...]

    def members(self) -> dict[int, list[int]]:
        """Group -> the producing edges in it, and the image."""
        found: dict[int, list[int]] = {}
        for edge in (-1, *self.producers):
            found.setdefault(self.group[edge], []).append(edge)
        return found


def trace_edges(spec: s.ModelSpec) -> Edges:
    """Follow scale and sign from the image to the heads.

    Pool, upsample, dropout and slices pass the scale on; a concat ties what it joins; convolution and shortcut start a
    new one. An edge is signed unless it cannot be negative.
    """
    parent = {-1: -1}
    signed = {-1: False}
    producers = []
    skipped = set(readouts(spec)) | set(spec.heads)

    def root(edge: int) -> int:
        while parent[edge] != edge:
            edge = parent[edge]
        return edge

    for i, layer in enumerate(spec.layers):
        if i in skipped:
            continue
        parent[i] = i
        given = [signed[j] for j in layer.sources]
        match layer:
            case s.Conv():
                signed[i] = layer.activation not in NON_NEGATIVE
                producers.append(i)
            case s.Shortcut():
                signed[i] = any(given) and layer.activation not in NON_NEGATIVE
                producers.append(i)
            case _:
                signed[i] = any(given)
                for j in layer.sources:
                    parent[max(root(i), root(j))] = min(root(i), root(j))
    return Edges({edge: root(edge) for edge in parent}, signed, tuple(producers))


def level_bounds(bits: int, signed: bool) -> tuple[int, int]:
    """Lowest and highest level of ``bits`` bits."""
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)


def image_scale(scheme: Scheme) -> float:
    """What one level of a pixel is worth to the first layers' weights."""
    return SHIFT_SCALE if scheme.style == "pow2" else IMAGE_SCALE


def edge_bits(edges: Edges, scheme: Scheme) -> dict[int, int]:
    """Bits of every producer's levels: the most that any member of its group asks for; the image's group has 8."""
    bits: dict[int, int] = {}
    for group, members in edges.members().items():
        asked = [(scheme.own_bits(i) or (0, scheme.a_bit))[1] for i in members if i >= 0]
        widest = IMAGE_BITS if group == edges.group[-1] else max(asked)
        bits |= dict.fromkeys((i for i in members if i >= 0), widest)
    return bits


def make_grids(spec: s.ModelSpec, edges: Edges, scales: dict[int, float], bits: dict[int, int]) -> dict[int, Grid]:
    """The grid of every edge.

    ``scales`` holds one scale per group, the image's among them; ``bits`` those of every producer. A relu6 never passes
    6, so its highest level stops there; a moved edge spans what its sources span. A group tied to the image keeps the
    image's 8 bits, or nearly all of it would be clipped.
    """
    grids = {-1: Grid(scales[edges.group[-1]], 0, 2**IMAGE_BITS - 1)}
    for i in sorted(set(edges.group) - {-1}):
        layer, group = spec.layers[i], edges.group[i]
        if i in edges.producers:
            lo, hi = level_bounds(bits[i], edges.signed[i])
            if isinstance(layer, s.Conv | s.Shortcut) and layer.activation == "relu6":
                hi = max(1, min(hi, int(6 / scales[group] + 0.5)))
        else:
            lo = min(grids[j].lo for j in layer.sources)
            hi = max(grids[j].hi for j in layer.sources)
        grids[i] = Grid(scales[group], lo, hi)
    return grids
