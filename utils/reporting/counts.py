"""What a network costs, counted from its structure alone: parameters, multiply-accumulates, activations, bytes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from utils.darknet.shapes import channels, sizes
from utils.darknet.spec import Conv, ModelSpec, Shortcut, SqueezeExcite


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
        area = math.prod(maps[i])
        params = macs = 0
        match layer:
            case Conv():
                kernel = wide[layer.sources[0]] // layer.groups * layer.size**2
                params = layer.filters * (kernel + (2 if layer.bn else 1))
                macs = layer.filters * kernel * area
            case SqueezeExcite():
                params = macs = 2 * wide[layer.sources[0]] * layer.squeeze
            case Shortcut() if layer.weighted:
                params = math.prod(layer.weights_shape(wide[i]))
                macs = len(layer.sources) * wide[i] * area
        layers.append(LayerCount(i, type(layer).__name__, wide[i], maps[i], params, macs, wide[i] * area))
    return Counts((height, width), tuple(layers))


def file_bytes(path: Path | str) -> int:
    """Size of a file on disk."""
    return Path(path).stat().st_size
