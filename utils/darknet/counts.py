"""What a network costs, counted from its structure alone: parameters, multiply-accumulates, sums, activations."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from utils.darknet.ops import facts
from utils.darknet.shapes import channels, densities, sizes
from utils.darknet.sharing import owners
from utils.darknet.spec import (
    AvgPool,
    Blur,
    Conv,
    Layer,
    LocalAvgPool,
    ModelSpec,
    Recurrent,
    Shortcut,
    SqueezeExcite,
    TransposedConv,
)
from utils.darknet.walk import rule


@dataclass(frozen=True)
class LayerCount:
    """One layer's cost for one image. ``activations`` are its output values, ``adds`` sums without a product."""

    layer: int
    kind: str
    channels: int
    size: tuple[int, int]
    params: int
    macs: int
    adds: int
    activations: int


@dataclass(frozen=True)
class Counts:
    """A network's cost for one image of ``size`` (height, width)."""

    size: tuple[int, int]
    layers: tuple[LayerCount, ...]

    @property
    def params(self) -> int:
        """Learned numbers: weights, biases, BN gammas and betas (not its running statistics)."""
        return sum(layer.params for layer in self.layers)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of kernels, matrices and weighted sums.

        Padding counts; batch norm, activations, and zeros that an [upsample] put between values do not.
        """
        return sum(layer.macs for layer in self.layers)

    @property
    def adds(self) -> int:
        """Additions of shortcuts and averages, which multiply nothing."""
        return sum(layer.adds for layer in self.layers)


def count(spec: ModelSpec, size: tuple[int, int] | None = None) -> Counts:
    """Count a network for one image.

    Args:
        spec: the network.
        size: (height, width) in px; default that of [net].

    Raises:
        InputError: the network does not take that size.
    """
    height, width = size or (spec.height, spec.width)
    wide, maps, dense = channels(spec), sizes(spec, height, width), densities(spec)
    taken = owners(spec.layers)
    layers = []
    for i, layer in enumerate(spec.layers):
        area, first = math.prod(maps[i]), layer.sources[0]
        params = 0 if i in taken else _learned(layer, wide[first])
        work = _Work(_weights(layer, wide[first]), area, math.prod(maps[first]), wide[i], dense[first])
        macs = rule(MACS, layer, "rule for its multiplications")(layer, work)
        adds = rule(ADDS, layer, "rule for its additions")(layer, work)
        layers.append(LayerCount(i, type(layer).__name__, wide[i], maps[i], params, macs, adds, wide[i] * area))
    return Counts((height, width), tuple(layers))


def parameters(spec: ModelSpec) -> int:
    """Learned numbers of a network, as `Counts.params`; no image size is asked for."""
    wide, taken = channels(spec), owners(spec.layers)
    return sum(_learned(layer, wide[layer.sources[0]]) for i, layer in enumerate(spec.layers) if i not in taken)


@dataclass(frozen=True)
class _Work:
    """What multiplications are counted from: weights without biases, px out and in, channels, share that is no zero."""

    weights: int
    area: int
    read: int
    channels: int
    dense: Fraction


def _learned(layer: Layer, given: int) -> int:
    return sum(math.prod(held.shape) for held in facts(layer).tensors(layer, given) if held.learned)


def _weights(layer: Layer, given: int) -> int:
    held = facts(layer).tensors(layer, given)
    return sum(math.prod(each.shape) for each in held if each.learned and len(each.shape) > 1)


MACS: dict[type[Layer], Callable[[Any, _Work], int]] = {
    Conv: lambda layer, work: round(work.weights * work.area * work.dense),
    TransposedConv: lambda layer, work: work.weights * work.read,
    SqueezeExcite: lambda layer, work: work.weights,
    Recurrent: lambda layer, work: work.weights,  # of one step
    Shortcut: lambda layer, work: len(layer.sources) * work.channels * work.area if layer.weighted else 0,
    Blur: lambda layer, work: layer.size**2 * work.channels * work.area,
    LocalAvgPool: lambda layer, work: layer.size**2 * work.channels * work.area,  # a kernel too, as in integers
    Layer: lambda layer, work: 0,
}
ADDS: dict[type[Layer], Callable[[Any, _Work], int]] = {
    Shortcut: lambda layer, work: 0 if layer.weighted else (len(layer.sources) - 1) * work.channels * work.area,
    AvgPool: lambda layer, work: (work.read - work.area) * work.channels,
    Layer: lambda layer, work: 0,
}
