"""What a network costs, counted from its structure alone: parameters, multiply-accumulates, activations."""

from __future__ import annotations

import math
from dataclasses import dataclass

from utils.darknet.shapes import channels, sizes
from utils.darknet.spec import Conv, Layer, ModelSpec, Shortcut, SqueezeExcite


@dataclass(frozen=True)
class LayerCount:
    """One layer's cost for one image. ``activations`` are its output values."""

    layer: int
    kind: str
    channels: int
    size: tuple[int, int]
    params: int
    macs: int
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
        """Multiply-accumulates of kernels, matrices and weighted sums; padding counts, BN and activations do not."""
        return sum(layer.macs for layer in self.layers)


def count(spec: ModelSpec, size: tuple[int, int] | None = None) -> Counts:
    """Count a network for one image.

    Args:
        spec: the network.
        size: (height, width) in px; default that of [net].

    Raises:
        InputError: the network does not take that size.
    """
    height, width = size or (spec.height, spec.width)
    wide, maps = channels(spec), sizes(spec, height, width)
    layers = []
    for i, layer in enumerate(spec.layers):
        area, params = math.prod(maps[i]), _parameters(layer, wide[layer.sources[0]], wide[i])
        macs = 0
        match layer:
            case Conv():
                macs = layer.filters * (wide[layer.sources[0]] // layer.groups) * layer.size**2 * area
            case SqueezeExcite():
                macs = params
            case Shortcut() if layer.weighted:
                macs = len(layer.sources) * wide[i] * area
        layers.append(LayerCount(i, type(layer).__name__, wide[i], maps[i], params, macs, wide[i] * area))
    return Counts((height, width), tuple(layers))


def parameters(spec: ModelSpec) -> int:
    """Learned numbers of a network, as `Counts.params`; no image size is asked for."""
    wide = channels(spec)
    return sum(_parameters(layer, wide[layer.sources[0]], wide[i]) for i, layer in enumerate(spec.layers))


def _parameters(layer: Layer, given: int, width: int) -> int:
    match layer:
        case Conv():
            return layer.filters * (given // layer.groups * layer.size**2 + (2 if layer.bn else 1))
        case SqueezeExcite():
            return 2 * given * layer.squeeze
        case Shortcut() if layer.weighted:
            return math.prod(layer.weights_shape(width))
    return 0
