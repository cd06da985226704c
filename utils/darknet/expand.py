"""``[se]`` written out in the sections it is made of, for whoever computes section by section."""

from __future__ import annotations

from dataclasses import replace

import torch

from utils.darknet import spec as s
from utils.darknet.network import Network, State
from utils.darknet.shapes import channels


def expand(network: Network) -> tuple[Network, dict[int, int]]:
    """The same function without ``[se]``: each becomes avgpool, conv 1x1 relu, conv 1x1 hard_sigmoid, scale_channels.

    The new sections keep the cfg line of the ``[se]`` they stand for, so that messages point to the file as written.

    Returns:
        The network, and old layer number -> new one; that of an ``[se]`` is its scale_channels. The image stays -1.
    """
    width = channels(network.spec)
    layers: list[s.Layer] = []
    number = {-1: -1}
    for i, layer in enumerate(network.spec.layers):
        moved = replace(layer, sources=tuple(number[j] for j in layer.sources))
        layers += _written_out(moved, len(layers), width[i]) if isinstance(moved, s.SqueezeExcite) else [moved]
        number[i] = len(layers) - 1
    return Network(replace(network.spec, layers=tuple(layers)), _renamed(network, number)), number


def _written_out(layer: s.SqueezeExcite, at: int, width: int) -> list[s.Layer]:
    """The four sections, the first of them layer ``at``."""
    return [
        s.AvgPool(sources=layer.sources, line=layer.line),
        s.Conv(sources=(at,), line=layer.line, filters=layer.squeeze, activation="relu"),
        s.Conv(sources=(at + 1,), line=layer.line, filters=width, activation="hard_sigmoid"),
        s.ScaleChannels(sources=(at + 2, *layer.sources), line=layer.line),
    ]


def _renamed(network: Network, number: dict[int, int]) -> State:
    """The tensors under their new layers' names; the matrices of an ``[se]`` become 1x1 kernels with biases of 0."""
    state: State = {}
    for key, value in network.state.items():
        _, i, rest = key.split(".", 2)
        new = number[int(i)]
        if isinstance(network.spec.layers[int(i)], s.SqueezeExcite):
            new -= 2 if rest == "fc1.weight" else 1
            state[f"layers.{new}.conv.weight"] = value[:, :, None, None]
            state[f"layers.{new}.conv.bias"] = torch.zeros(len(value), dtype=value.dtype, device=value.device)
        else:
            state[f"layers.{new}.{rest}"] = value
    return state
