"""What a cut channel still sends, and the simple way of giving it to its readers.

A channel whose gamma is zero sends the constant act(beta) to its readers, not nothing. `zeroed` is the network in which
that is so, `constants` follows the constants through its graph, `absorb` moves them into the readers' running mean or
bias. `carrier.carry` is the way that is exact at borders too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.darknet import spec as s
from utils.darknet.channel_groups import ChannelGroups, handed_on, sliced, trace
from utils.darknet.kernels import as_stored, out_first
from utils.darknet.network import Network, State
from utils.darknet.patterns import patterns, response, share
from utils.darknet.shortcuts import source_shares
from utils.darknet.walk import rule, run
from utils.pruning.plan import Plan

MIDDLE_GATE = 0.5  # hard_sigmoid(0): a gate lies in 0..1 and depends on the image, its middle halves the worst error


def absorb(net: Network, plan: Plan) -> Network:
    """Give the constants of the channels that ``plan`` cuts to the convolutions that read them.

    A transposed one, and one that reads a map with zeros, makes no constant of a constant: there it is the mean.

    With batch norm: running_mean -= offset; without: bias += offset, where offset[o] = Σ w[o,i,k]·c[i] over the cut i.
    Equal to the `zeroed` network for 1x1 readers; where a kernel reaches over a zero-padded border the offset is too
    large there. A squeeze-excite layer has no bias to take anything: its gate loses the cut channels' share.

    Returns:
        Network: as wide as ``net``, to be cut by the same plan.
    """
    wires = trace(net.spec)
    sent = constants(net, plan.keep, wires)
    new, pattern = dict(net.state), patterns(net.spec)[0]
    for i, layer in net.spec.kernels.items():
        if i in wires.depthwise:
            continue
        offset = through_kernel(net.state, i, layer, sent[layer.sources[0]]) * share(pattern[layer.sources[0]])
        if offset.any():
            new.update(shifted(net.state, i, layer, offset))
    return Network(net.spec, new)


def shifted(state: State, i: int, layer: s.Kernel, offset: Tensor) -> State:
    """The one tensor by which convolution ``i`` adds ``offset`` [C_out] to what its kernel gives."""
    key, sign = (f"layers.{i}.bn.running_mean", -1) if layer.bn else (f"layers.{i}.conv.bias", 1)
    return {key: state[key] + sign * offset.to(state[key])}


def zeroed(net: Network, plan: Plan) -> Network:
    """The network as sparse training means it: full width, the wires that are not alive send constants.

    Their gammas are 0 in every batch norm they run through: of the convolution that makes them, of depthwise and
    grouped ones behind it, of each one that a shortcut ties to it. Betas stay. A gate without batch norm keeps its bias
    and loses its kernel; the gate of a squeeze-excite layer rests at its middle. A depthwise convolution without batch
    norm stays as it is: it hands the constant on through its kernel, and what comes out differs at padded borders.
    """
    wires = trace(net.spec)
    new = dict(net.state)
    for i, layer in enumerate(net.spec.layers):
        makes, gone = rule(ROWS, layer, "rule for its rows")(layer, i in wires.depthwise), ~plan.alive[wires.outputs[i]]
        if makes and gone.any():
            key = f"layers.{i}.{makes}"
            rows = out_first(layer, net.state[key])
            new[key] = as_stored(layer, rows.index_fill(0, gone.nonzero().flatten().to(rows.device), 0.0))
    return Network(net.spec, new)


def constants(net: Network, keep: Tensor, wires: ChannelGroups | None = None) -> dict[int, Tensor]:
    """The constant each cut channel sends in the `zeroed` network, float64 [C] by layer (-1: the image); 0 if it stays.

    Behind an [upsample] with zeros: the constant that stands between the zeros (see `patterns`).

    A convolution sends act(beta), or act(bias) where it has no batch norm. A depthwise one without batch norm hands its
    input's constant on through its own kernel, which is what it does away from zero-padded borders.
    """
    groups = wires or trace(net.spec)

    def step(i: int, layer: s.Layer, given: list[Tensor]) -> Tensor:
        value = response(net.spec, layer)(rule(SENDS, layer, "rule for constants")(net.state, i, layer, given))
        return value.masked_fill(keep[groups.outputs[i]], 0.0)

    return run(net.spec, torch.zeros(net.spec.channels, dtype=torch.float64), step)


def through_kernel(state: State, i: int, layer: s.Kernel, given: Tensor) -> Tensor:
    """What layer ``i``'s kernel makes of constant input channels ``given`` [C_in], zeros skipped: float64 [C_out].

    Of a transposed one the mean: stride^2 px share a kernel.
    """
    weight, group = out_first(layer, state[f"layers.{i}.conv.weight"]), len(given) // layer.groups
    out = torch.zeros(layer.groups, layer.filters // layer.groups, dtype=torch.float64)
    rows = weight.detach().reshape(layer.groups, -1, *weight.shape[1:])
    for g in given.view(layer.groups, group).any(1).nonzero().flatten().tolist():
        part = given[g * group : (g + 1) * group]
        lit = part.nonzero().flatten()
        kernel = rows[g][:, lit.to(weight.device)].sum((2, 3), dtype=torch.float64).cpu()
        out[g] = kernel @ part[lit]
    return out.flatten() / layer.shared_by


def _kernel(state: State, i: int, layer: s.Kernel, given: list[Tensor]) -> Tensor:
    def value(name: str) -> Tensor:
        return state[f"layers.{i}.{name}"].detach().cpu().double()

    if layer.bn:
        return value("bn.bias")
    if layer.depthwise(len(given[0])):
        return through_kernel(state, i, layer, given[0]) + value("conv.bias")
    return value("conv.bias")


def alike_channels(given: Sequence[Tensor]) -> Tensor:
    """Numbers of whole channels of a shortcut's sources, [C'] each -> [sources, C]: 0 where one has no such channel."""
    wide = len(given[0])
    return torch.stack([F.pad(part[:wide], (0, wide - len(part[:wide]))) for part in given])


def _sum(state: State, i: int, layer: s.Shortcut, given: list[Tensor]) -> Tensor:
    if not layer.weighted:
        return alike_channels(given).sum(0)
    weights = state[f"layers.{i}.weights"].detach().cpu().double()
    shares = source_shares(weights, layer.weights_normalization).view(len(given), -1)
    return (alike_channels(given) * shares).sum(0)


SENDS: dict[type[s.Layer], Callable[[State, int, Any, list[Tensor]], Tensor]] = {  # constants, before the activation
    s.Kernel: _kernel,
    s.Shortcut: _sum,
    # exact where the map's height is a multiple of stride^2; elsewhere rows of a block's channels mix
    s.Fitted: lambda state, i, layer, given: F.pad(given[0], (0, layer.filters - len(given[0]))),
    s.Reorg: lambda state, i, layer, given: given[0].repeat(layer.stride**2),
    s.Reorg3d: lambda state, i, layer, given: given[0].repeat(layer.stride**2),
    s.Product: lambda state, i, layer, given: given[0] * given[1],
    s.ScaleChannels: lambda state, i, layer, given: given[0] * given[1],
    s.SqueezeExcite: lambda state, i, layer, given: given[0] * MIDDLE_GATE,
    s.Route: lambda state, i, layer, given: sliced(layer, given),
    s.Layer: lambda state, i, layer, given: handed_on(layer, given),
}
ROWS: dict[type[s.Layer], Callable[[Any, bool], str]] = {  # (layer, is it depthwise) -> the tensor whose rows are 0
    s.Kernel: lambda layer, depthwise: "bn.weight" if layer.bn else "" if depthwise else "conv.weight",
    s.SqueezeExcite: lambda layer, depthwise: "fc2.weight",
    s.Layer: lambda layer, depthwise: "",
}
