"""Sections that stand for simpler ones written out, for whoever computes section by section."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.darknet import spec as s
from utils.darknet.kernels import out_first
from utils.darknet.network import Network, State
from utils.darknet.read_outs import plain, with_read_outs
from utils.darknet.shapes import channels, uneven_sums
from utils.errors import InputError

WRITTEN_OUT: tuple[type[s.Layer], ...] = (
    s.SqueezeExcite,
    s.TransposedConv,
    s.Connected,
    s.Crop,
    s.Shortcut,
    s.Activation,
)


def expand(network: Network, kinds: tuple[type[s.Layer], ...] = WRITTEN_OUT) -> tuple[Network, dict[int, int]]:
    """The same function without sections that stand for others, and without uneven sums.

    An ``[se]`` becomes avgpool, conv 1x1 relu, conv 1x1 hard_sigmoid, scale_channels. A transposed convolution becomes
    an upsample with zeros (none for a stride of 1) and a convolution of stride 1, which keeps batch norm and
    activation. A ``[connected]`` becomes the convolution that it is, a ``[crop]`` or an ``[activation]`` one with a
    single weight a channel. A shortcut reads maps of other shapes through a [fit]. Classes are read out of a
    convolution, see read_outs.py. The new sections keep the cfg line of the one they stand for, so that messages point
    to the file as written. ``kinds`` may be some of these: the other sections stay, and what classes are read out of.

    Returns:
        The network, and old layer number -> new one, that of the section that gives the output. The image stays -1.
    """
    everything = {i: i for i in range(-1, len(network.spec.layers))}
    network, first = with_read_outs(network) if kinds == WRITTEN_OUT else (network, everything)
    width, uneven = channels(network.spec), uneven_sums(network.spec) if s.Shortcut in kinds else {}
    layers: list[s.Layer] = []
    number = {-1: -1}
    for i, layer in enumerate(network.spec.layers):
        layer = replace(layer, sources=tuple(number[j] for j in layer.sources))
        if i in uneven:
            layers += _fitted(layer, len(layers), uneven[i])
        else:
            layers += _written_out(layer, len(layers), width[i]) if isinstance(layer, kinds) else [layer]
        number[i] = len(layers) - 1
    made = Network(replace(network.spec, layers=tuple(layers)), _renamed(network, number, kinds))
    return made, {i: number[j] for i, j in first.items()}


def _written_out(layer: s.Layer, at: int, width: int) -> list[s.Layer]:
    """The sections of one, the first of them layer ``at``."""
    match layer:
        case s.SqueezeExcite():
            return [
                s.AvgPool(sources=layer.sources, line=layer.line),
                s.Conv(sources=(at,), line=layer.line, filters=layer.squeeze, activation="relu"),
                s.Conv(sources=(at + 1,), line=layer.line, filters=width, activation="hard_sigmoid"),
                s.ScaleChannels(sources=(at + 2, *layer.sources), line=layer.line),
            ]
        case s.TransposedConv():
            spread = s.Upsample(sources=layer.sources, line=layer.line, stride=layer.stride, zeros=True)
            return [*([spread] if layer.stride > 1 else []), _plain(layer, at)]
    return [AS_CONVOLUTIONS[type(layer)](layer, width)] if type(layer) in AS_CONVOLUTIONS else [layer]


def _fitted(layer: s.Layer, at: int, fits: tuple[s.Fitted | None, ...]) -> list[s.Layer]:
    """A [fit] for each source that needs one, the first source once more, then the sum of what is alike."""
    made: list[s.Layer] = []
    sources = list(layer.sources)
    for place, fit in enumerate(fits):
        if fit:
            made.append(replace(fit, sources=(sources[place],), line=layer.line))
            sources[place] = at + len(made) - 1
    made.append(s.Route(sources=(sources[0],), line=layer.line))
    return [*made, replace(layer, sources=(at + len(made) - 1, *sources[1:]))]


def _plain(layer: s.TransposedConv, at: int) -> s.Conv:
    """The convolution of the map with zeros: it pads by size - 1 - pad in front, where its kernel begins to reach."""
    return s.Conv(
        sources=(at,) if layer.stride > 1 else layer.sources,
        line=layer.line,
        options=layer.options,
        filters=layer.filters,
        size=layer.size + _uneven(layer),
        pad=layer.size - 1 - layer.pad,
        groups=layer.groups,
        bn=layer.bn,
        activation=layer.activation,
        neuron=layer.neuron,
        weight_quant=layer.weight_quant,
    )


def _window(layer: s.Crop, width: int) -> s.Conv:
    """The convolution without padding that keeps the middle: as much larger than 1x1 as there are pixels left out."""
    down, right = (given - kept for given, kept in zip(layer.given, layer.kept, strict=True))
    if down != right:
        raise InputError(
            f"cfg line {layer.line}: [crop] leaves out {down} rows and {right} columns; in integers it takes as many "
            "of both, or give the network the image that is left and delete the [crop]"
        )
    return s.Conv(sources=layer.sources, line=layer.line, filters=width, size=down + 1, groups=width)


def _window_tensors(layer: s.Crop, width: int) -> tuple[Tensor, Tensor]:
    """Weight [C, 1, k, k] and bias [C] of that convolution."""
    size = layer.given[0] - layer.kept[0] + 1
    weight = torch.zeros(width, 1, size, size)
    weight[:, :, (size - 1) // 2, (size - 1) // 2] = 1 if layer.noadjust else 2
    return weight, torch.zeros(width) if layer.noadjust else -torch.ones(width)


def _alone(layer: s.Activation, width: int) -> s.Conv:
    """The 1x1 convolution, a weight of 1 a channel, that has its activation."""
    kept = {"options": layer.options, "activation": layer.activation, "neuron": layer.neuron}
    return s.Conv(sources=layer.sources, line=layer.line, filters=width, groups=width, **kept)  # type: ignore[arg-type]


def _alone_tensors(layer: s.Activation, width: int) -> tuple[Tensor, Tensor]:
    """Weight [C, 1, 1, 1] and bias [C] of that convolution."""
    return torch.ones(width, 1, 1, 1), torch.zeros(width)


def _uneven(layer: s.TransposedConv) -> int:
    """Pixels of padding that it needs more in front than behind."""
    return layer.size - 1 - 2 * layer.pad


def _plain_weight(layer: s.TransposedConv, weight: Tensor) -> Tensor:
    """[in, out / groups, k, k] -> [out, in / groups, k', k']: turned about, rows of 0 at the end where pads differ."""
    more = _uneven(layer)
    return F.pad(out_first(layer, weight).flip(2, 3), (0, more, 0, more)).contiguous()


def _renamed(network: Network, number: dict[int, int], kinds: tuple[type[s.Layer], ...]) -> State:
    """The tensors under their new layers' names; the matrices of an ``[se]`` become 1x1 kernels with biases of 0."""
    state, width = State(), channels(network.spec)
    for n, made in enumerate(network.spec.layers):
        if type(made) in FIXED and type(made) in kinds:
            weight, bias = FIXED[type(made)](made, width[n])
            state |= {f"layers.{number[n]}.conv.weight": weight, f"layers.{number[n]}.conv.bias": bias}
    for key, value in network.state.items():
        _, i, rest = key.split(".", 2)
        layer, new = network.spec.layers[int(i)], number[int(i)]
        if not isinstance(layer, kinds):
            state[f"layers.{new}.{rest}"] = value
        elif isinstance(layer, s.SqueezeExcite):
            new -= 2 if rest == "fc1.weight" else 1
            state[f"layers.{new}.conv.weight"] = value[:, :, None, None]
            state[f"layers.{new}.conv.bias"] = torch.zeros(len(value), dtype=value.dtype, device=value.device)
        elif isinstance(layer, s.TransposedConv) and rest == "conv.weight":
            state[f"layers.{new}.conv.weight"] = _plain_weight(layer, value)
        else:
            state[f"layers.{new}.{rest}"] = value
    return state


AS_CONVOLUTIONS: dict[type[s.Layer], Callable[[Any, int], s.Conv]] = {  # (layer, channels it gives)
    s.Connected: lambda layer, width: plain(layer),
    s.Crop: _window,
    s.Activation: _alone,
}
FIXED: dict[type[s.Layer], Callable[[Any, int], tuple[Tensor, Tensor]]] = {  # weight and bias where a layer has none
    s.Crop: _window_tensors,
    s.Activation: _alone_tensors,
}
