"""What a network that classifies is read out of: a convolution's accumulator, which the output averages over the map.

A global average beside the last convolution is linear as that is, so both orders give the same scores; leaving it to
what follows the accumulator keeps it exact in integers and in spikes, where a level of its own would need many more
steps than the other levels. Written out, the output reads a convolution's map of any size.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import torch

from utils.darknet import spec as s
from utils.darknet.network import Network
from utils.darknet.ops import facts
from utils.darknet.shapes import channels


def with_read_outs(network: Network) -> tuple[Network, dict[int, int]]:
    """The same function, every class read out of a convolution that nothing else reads.

    Returns:
        The network, and old layer number -> new one; a global average that is left to the output has the number of what
        it reads. A network that has no such output comes back as it is.
    """
    spec, number, added = written_out(network.spec)
    if spec is network.spec:
        return network, number
    state = {}
    for key, value in network.state.items():
        _, old, rest = key.split(".", 2)
        state[f"layers.{number[int(old)]}.{rest}"] = value
    for i in added:
        width = spec.kernels[i].filters
        state[f"layers.{i}.conv.weight"] = torch.eye(width)[:, :, None, None]
        state[f"layers.{i}.conv.bias"] = torch.zeros(width)
    return Network(spec, state), number


def written_out(spec: s.ModelSpec) -> tuple[s.ModelSpec, dict[int, int], tuple[int, ...]]:
    """The layers alone: spec, old number -> new one, the numbers of convolutions that hand on what they read."""
    number = {i: i for i in range(-1, len(spec.layers))}
    heads = [i for i in spec.heads if isinstance(spec.layers[i], s.Classify)]
    readers = Counter(j for layer in spec.layers for j in set(layer.sources))
    dropped = {j for i in heads for j in _averages(spec, i, readers)}
    short = {i for i in heads if not _reads_kernel(spec, i, readers, dropped)}
    if not dropped and not short:
        return spec, number, ()
    width, layers, added = channels(spec), list[s.Layer](), []
    for i, layer in enumerate(spec.layers):
        if i in dropped:
            number[i] = number[layer.sources[0]]
            continue
        moved = replace(layer, sources=tuple(number[j] for j in layer.sources))
        if i in short:
            added.append(len(layers))
            layers.append(s.Conv(sources=moved.sources, line=layer.line, filters=width[i], activation="linear"))
            moved = replace(moved, sources=(added[-1],))
        elif _behind_dropout(spec, i) in dropped and facts(moved).section == "connected":
            moved = plain(moved)  # it reads the whole map now
        number[i] = len(layers)
        layers.append(moved)
    return replace(spec, layers=tuple(layers)), number, tuple(added)


def plain(layer: Any) -> s.Conv:
    """The convolution that a [connected] is."""
    return s.Conv(
        sources=layer.sources,
        line=layer.line,
        options=layer.options,
        filters=layer.filters,
        size=layer.size,
        bn=layer.bn,
        activation=layer.activation,
    )


def _averages(spec: s.ModelSpec, head: int, readers: Counter[int]) -> list[int]:
    """The global average that the scores pass, before or behind the last convolution; none, or one."""
    j = spec.layers[head].sources[0]
    layer = spec.layers[j] if j >= 0 else None
    if j in spec.convs and readers[j] == 1 and _pointwise(spec.convs[j]):
        j = _behind_dropout(spec, j)
        layer = spec.layers[j] if j >= 0 else None
    average = layer is not None and facts(layer).section == "avgpool" and layer.sources[0] >= 0
    return [j] if average and readers[j] == 1 else []


def _behind_dropout(spec: s.ModelSpec, i: int) -> int:
    j = spec.layers[i].sources[0]
    while j >= 0 and facts(spec.layers[j]).identity:
        j = spec.layers[j].sources[0]
    return j


def _pointwise(layer: s.Conv) -> bool:
    return (layer.size, layer.pad, layer.stride, layer.activation) == (1, 0, (1, 1), "linear")


def _reads_kernel(spec: s.ModelSpec, head: int, readers: Counter[int], dropped: set[int]) -> bool:
    """Whether the output's source, once averages are dropped, is a linear convolution that it alone reads."""
    j = spec.layers[head].sources[0]
    averaged = j in dropped
    j = spec.layers[j].sources[0] if averaged else j
    kernel = spec.kernels.get(j)
    return kernel is not None and readers[j] == 1 and (kernel.activation == "linear" or not averaged)
