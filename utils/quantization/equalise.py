"""Cross-layer equalisation: give every channel of an edge the same range, without changing the function.

relu, leaky and linear are positively homogeneous, f(x / k) = f(x) / k, so a channel can be divided by k > 0 where it is
made and multiplied by k where it is read. Pools, upsample, route, dropout and the features of scale_channels hand the k
on, a shortcut ties the channels it adds, a reorg those that it may mix. One scale for a whole edge then fits each of
its channels as if each had its own; the weights, which have a scale for every output channel, take up the difference.

Source: Nagel et al., Data-free quantization through weight equalization and bias correction, ICCV 2019; here the
activations' best steps decide instead of the weights' ranges.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from utils.darknet import spec as s
from utils.darknet.channel_groups import ChannelSets, handed_on, sliced
from utils.darknet.network import Network
from utils.darknet.ops import activation_of
from utils.darknet.walk import rule, run
from utils.quantization.activation_qparams import Edges, level_bounds
from utils.quantization.histogram import Histogram
from utils.quantization.ranges import channel_steps
from utils.quantization.validate import readouts

HOMOGENEOUS = ("relu", "leaky", "leaky_pow2", "linear")
LARGEST_GAIN = 64.0


def equalise(
    network: Network, edges: Edges, histograms: dict[int, Histogram], bits: dict[int, int]
) -> tuple[Network, dict[int, Histogram]]:
    """An equal network whose channels have even ranges, and its histograms (scaled, not measured again)."""
    wires, locked = trace_wires(network.spec)
    gains = even_gains(edges, histograms, bits, wires, locked)
    scaled = {i: histogram.scaled(1 / gains[wires[i]]) for i, histogram in histograms.items()}
    return rescale(network, gains, wires), scaled


def rescale(network: Network, gains: Tensor, wires: dict[int, Tensor]) -> Network:
    """An equal network whose channels are divided by the ``gains`` of their wires; batch norm, if any, does it."""
    state = dict(network.state)
    for i, layer in network.spec.kernels.items():
        weight, into, out = f"layers.{i}.conv.weight", gains[wires[layer.sources[0]]], gains[wires[i]]
        state[weight] = state[weight] * _per_tap(into, layer)
        if layer.bn:
            state[f"layers.{i}.bn.weight"] = state[f"layers.{i}.bn.weight"] / out
            state[f"layers.{i}.bn.bias"] = state[f"layers.{i}.bn.bias"] / out
        else:
            state[weight] = state[weight] / out[:, None, None, None]
            state[f"layers.{i}.conv.bias"] = state[f"layers.{i}.conv.bias"] / out
    return Network(network.spec, state)


def trace_wires(spec: s.ModelSpec) -> tuple[dict[int, Tensor], Tensor]:
    """Edge -> the wire number of each channel, long [C]; and which wires must keep gain 1, bool [wires].

    A convolution makes new wires; everything else hands wires on or ties them. Locked are the image's, the
    read-outs', the gates', and those that go through an activation that is not homogeneous.
    """
    sets = ChannelSets()
    image = sets.fresh(spec.channels)
    locked, kept = [image], set(readouts(spec))

    def step(i: int, layer: s.Layer, given: list[Tensor]) -> Tensor:
        wires = rule(WIRES, layer, "rule for its scales")(layer, given, sets, locked)
        if i in kept or activation_of(layer) not in HOMOGENEOUS:
            locked.append(wires)
        return wires

    wires = run(spec, image, step)
    roots = sets.roots()
    lock = torch.zeros(len(roots), dtype=torch.bool)
    lock[roots[torch.cat(locked)]] = True
    return {i: roots[wire] for i, wire in wires.items()}, lock


def _summed(layer: s.Shortcut, given: list[Tensor], sets: ChannelSets, locked: list[Tensor]) -> Tensor:
    sets.tie_columns(torch.stack(given))
    return given[0]


def _fitted(layer: s.Fitted, given: list[Tensor], sets: ChannelSets, locked: list[Tensor]) -> Tensor:
    """The channels that it adds are always 0, and may have any scale."""
    return torch.cat([given[0][: layer.filters], sets.fresh(max(0, layer.filters - len(given[0])))])


def _gated(layer: s.ScaleChannels, given: list[Tensor], sets: ChannelSets, locked: list[Tensor]) -> Tensor:
    locked.append(given[0])
    return given[1]


def _mixed(layer: s.Reorg, given: list[Tensor], sets: ChannelSets, locked: list[Tensor]) -> Tensor:
    """Each square of the stride's channels is cut up as one picture, wherever its rows end."""
    squares = given[0].view(-1, layer.stride**2)
    sets.tie_columns(squares.T)
    return squares[:, 0].repeat_interleave(layer.stride**2).repeat(layer.stride**2)


WIRES: dict[type[s.Layer], Callable[[Any, list[Tensor], ChannelSets, list[Tensor]], Tensor]] = {
    s.Kernel: lambda layer, given, sets, locked: sets.fresh(layer.filters),
    s.Shortcut: _summed,
    s.ScaleChannels: _gated,
    s.Route: lambda layer, given, sets, locked: sliced(layer, given),
    s.Reorg: _mixed,
    s.Reorg3d: lambda layer, given, sets, locked: given[0].repeat(layer.stride**2),
    s.Fitted: _fitted,
    s.Layer: lambda layer, given, sets, locked: handed_on(layer, given),
}


def even_gains(
    edges: Edges, histograms: dict[int, Histogram], bits: dict[int, int], wires: dict[int, Tensor], locked: Tensor
) -> Tensor:
    """One gain a wire: its step over its group's typical step, geometric mean where several edges have a say."""
    steps = {i: channel_steps(histograms[i], *level_bounds(bits[i], edges.signed[i])) for i in edges.producers}
    logs, votes = torch.zeros(len(locked)), torch.zeros(len(locked))
    for producers in edges.members().values():
        known = [i for i in producers if i in steps]
        if not known:
            continue
        log = torch.cat([steps[i] for i in known]).clamp_min(torch.finfo(torch.float32).tiny).log()
        wire = torch.cat([wires[i] for i in known])
        live = log > log.max() - 2 * torch.tensor(LARGEST_GAIN).log()  # the dead and nearly dead do not vote
        logs.index_add_(0, wire[live], log[live] - log[live].mean())
        votes.index_add_(0, wire[live], torch.ones(int(live.sum())))
    gains = (logs / votes.clamp_min(1)).exp().clamp(1 / LARGEST_GAIN, LARGEST_GAIN)
    return torch.where(locked, torch.ones_like(gains), gains)


def _per_tap(gains: Tensor, layer: s.Kernel) -> Tensor:
    """Gains of the input channels [I] as they meet the weight [O,I/groups,k,k]."""
    per_group = gains.view(layer.groups, 1, -1)  # [G,1,I/G]
    return per_group.expand(-1, layer.filters // layer.groups, -1).reshape(layer.filters, -1)[:, :, None, None]
