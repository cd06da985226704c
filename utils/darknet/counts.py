"""What a network costs, counted from its structure alone: parameters, multiply-accumulates, activations."""

from __future__ import annotations

import math
from dataclasses import dataclass

from utils.darknet.kernels import weight_shape
from utils.darknet.shapes import channels, densities, sizes
from utils.darknet.spec import Conv, Kernel, Layer, ModelSpec, Shortcut, SqueezeExcite, TransposedConv


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
        """Multiply-accumulates of kernels, matrices and weighted sums.

        Padding counts; batch norm, activations, and zeros that an [upsample] put between values do not.
        """
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
    wide, maps, dense = channels(spec), sizes(spec, height, width), densities(spec)
    layers = []
    for i, layer in enumerate(spec.layers):
        area, params = math.prod(maps[i]), _parameters(layer, wide[layer.sources[0]], wide[i])
        macs = 0
        match layer:
            case Conv():
                products = math.prod(weight_shape(layer, wide[layer.sources[0]])) * area
                macs = round(products * dense[layer.sources[0]])
            case TransposedConv():
                macs = math.prod(weight_shape(layer, wide[layer.sources[0]])) * math.prod(maps[layer.sources[0]])
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
        case Kernel():
            return math.prod(weight_shape(layer, given)) + layer.filters * (2 if layer.bn else 1)
        case SqueezeExcite():
            return 2 * given * layer.squeeze
        case Shortcut() if layer.weighted:
            return math.prod(layer.weights_shape(width))
    return 0
