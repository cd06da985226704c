"""How strong a wire is, judged by the convolutions it runs through.

A raw score is one number >= 0 per channel of every convolution with batch norm; |gamma| is the first one. Other scores
(L1 norm, Taylor, FPGM, random) are other functions of the same shape. What happens along a wire is the same for all:
layers in series weaken it, layers in parallel are left to the strategy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.darknet import spec as s
from utils.darknet.channel_groups import ChannelGroups
from utils.darknet.network import Network
from utils.darknet.walk import rule

Scores = dict[int, Tensor]
Score = Callable[[Network], Scores]


def gammas(net: Network) -> Scores:
    """|gamma| of every batch norm, float32 [C] on the CPU, by layer number.

    Source: Liu et al., Network Slimming, ICCV 2017, section 3 (arXiv 1708.06519).
    """
    return {i: net.state[f"layers.{i}.bn.weight"].detach().float().abs().cpu() for i in net.spec.normed}


def strengths(spec: s.ModelSpec, wires: ChannelGroups, raw: Scores) -> Scores:
    """What of each voter's channels arrives at a reader, [C] by voter.

    A path from a convolution to a reader is as strong as its weakest layer (a depthwise convolution may stand in
    between), and a channel is as strong as its strongest path: a ghost module reads a channel before *and* after the
    depthwise convolution, so a weak depthwise gamma does not condemn it.

    Channels of one layer that share a wire (a group of a grouped convolution, the slices of a route) only go together;
    each gets their root mean square, which keeps the layer's Σ score² what it was.
    """
    arriving = _passable(spec, wires, raw)
    return {i: _together(torch.minimum(raw[i], arriving[i]), wires.outputs[i]) for i in wires.voters}


def _passable(spec: s.ModelSpec, wires: ChannelGroups, raw: Scores) -> Scores:
    """The strongest way on from each layer's output to any reader, [C]; inf where it is read at once."""
    way = {i: torch.zeros(len(w)) for i, w in wires.outputs.items()}
    read = {j for layer in spec.layers for j in layer.sources}
    for i in reversed(range(len(spec.layers))):
        layer = spec.layers[i]
        if i not in read:
            way[i].fill_(torch.inf)
        widths = [len(way[j]) for j in layer.sources]
        weakest = raw[i] if i in raw else torch.full_like(way[i], torch.inf)
        back = rule(BACK, layer, "way back for scores")(
            layer, way[i], widths, weakest if i in wires.depthwise else None
        )
        for j, through in zip(layer.sources, back, strict=True):
            way[j] = torch.maximum(way[j], through)
    return way


def _through_kernel(layer: s.Kernel, way: Tensor, widths: list[int], gate: Tensor | None) -> list[Tensor]:
    """The way on is wide open where channels are mixed; a depthwise one is a gate in it."""
    return [torch.full((widths[0],), torch.inf) if gate is None else torch.minimum(way, gate)]


def _through_route(layer: s.Route, way: Tensor, widths: list[int], gate: Tensor | None) -> list[Tensor]:
    return [_spread(part, layer) for part in way.split([width // layer.groups for width in widths])]


def _through_sum(layer: s.Shortcut | s.Fitted, way: Tensor, widths: list[int], gate: Tensor | None) -> list[Tensor]:
    """Of a wider source the channels beyond the sum's have no way on here."""
    return [F.pad(way[:width], (0, max(0, width - len(way)))) for width in widths]


BACK: dict[type[s.Layer], Callable[[Any, Tensor, list[int], Tensor | None], list[Tensor]]] = {
    # the way on from each source through a layer; gate: the layer's own score where it is depthwise
    s.Kernel: _through_kernel,
    s.Route: _through_route,
    s.Shortcut: _through_sum,
    s.Fitted: _through_sum,
    s.Implicit: lambda layer, way, widths, gate: [torch.zeros(widths[0])],  # uses nothing of the image
    s.Reorg: lambda layer, way, widths, gate: [way.view(layer.stride**2, -1).amax(0)],
    s.Reorg3d: lambda layer, way, widths, gate: [way.view(layer.stride**2, -1).amax(0)],
    s.Layer: lambda layer, way, widths, gate: [way] * len(widths),
}


def _together(score: Tensor, wire: Tensor) -> Tensor:
    _, place, times = torch.unique(wire, return_inverse=True, return_counts=True)
    if (times == 1).all():
        return score
    energy = torch.zeros(len(times)).index_add_(0, place, score.square())
    return (energy / times).sqrt()[place]


def _spread(part: Tensor, route: s.Route) -> Tensor:
    whole = part.new_zeros(route.groups, len(part))
    whole[route.group_id] = part
    return whole.flatten()


def all_gammas(network: Network) -> Tensor:
    """Gammas of every channel that has one, in one row."""
    return torch.cat([values.flatten() for values in gammas(network).values()])


def widths(network: Network, numbers: Sequence[int] | None = None) -> dict[int, int]:
    """Layer -> its channels, where they have gammas; ``numbers``: of its layers in the network before a cut."""
    return {numbers[i] if numbers else i: len(values) for i, values in gammas(network).items()}
