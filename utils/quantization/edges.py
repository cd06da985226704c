"""What flows on the edges: signs, and which edges must share one scale."""

from __future__ import annotations

from dataclasses import dataclass

from utils.darknet import spec as s
from utils.quantization.support import readouts

IMAGE_SCALE = 1 / 255
IMAGE_BITS = 8
NON_NEGATIVE = ("relu", "relu6", "logistic")


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


def make_grids(spec: s.ModelSpec, edges: Edges, scales: dict[int, float], a_bit: int) -> dict[int, Grid]:
    """The grid of every edge.

    ``scales`` holds one scale per group. A relu6 never passes 6, so its highest level stops there; a moved edge spans
    what its sources span. A group tied to the image keeps the image's 8 bits, or nearly all of it would be clipped.
    """
    image_group = edges.group[-1]
    grids = {-1: Grid(IMAGE_SCALE, 0, 2**IMAGE_BITS - 1)}
    for i in sorted(set(edges.group) - {-1}):
        layer, group = spec.layers[i], edges.group[i]
        if i in edges.producers:
            lo, hi = level_bounds(IMAGE_BITS if group == image_group else a_bit, edges.signed[i])
            if isinstance(layer, s.Conv | s.Shortcut) and layer.activation == "relu6":
                hi = max(1, min(hi, int(6 / scales[group] + 0.5)))
        else:
            lo = min(grids[j].lo for j in layer.sources)
            hi = max(grids[j].hi for j in layer.sources)
        grids[i] = Grid(scales[group], lo, hi)
    return grids
