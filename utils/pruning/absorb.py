"""What a cut channel still sends, and who takes it over.

A channel whose gamma is zero sends the constant act(beta) to its readers, not nothing. `constants` follows these
constants through the graph, `absorb` moves them into the readers' running mean or bias.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from utils.darknet import spec as s
from utils.darknet.activations import ACTIVATIONS
from utils.darknet.fold import BN_EPS
from utils.darknet.network import Network, State
from utils.pruning.plan import Plan
from utils.pruning.wires import Wires, trace

MIDDLE_GATE = 0.5  # a gate lies in 0..1 and depends on the image: its middle halves the worst error


def absorb(net: Network, plan: Plan) -> Network:
    """Give the constants of the channels that ``plan`` cuts to the convolutions that read them.

    With batch norm: running_mean -= offset; without: bias += offset, where offset[o] = Σ w[o,i,k]·c[i] over the cut i.
    Exact for 1x1 readers; where a kernel reaches over a zero-padded border the offset is too large there. A
    squeeze-excite layer has no bias to take anything: its gate loses the cut channels' share.

    Returns:
        Network: as wide as ``net``, to be cut by the same plan.
    """
    wires = trace(net.spec)
    sent = constants(net, plan.keep, wires)
    new = dict(net.state)
    for i, layer in enumerate(net.spec.layers):
        if not isinstance(layer, s.Conv) or i in wires.depthwise:
            continue
        offset = through_kernel(net.state, i, layer, sent[layer.sources[0]])
        if not offset.any():
            continue
        key, sign = (f"layers.{i}.bn.running_mean", -1) if layer.bn else (f"layers.{i}.conv.bias", 1)
        new[key] = net.state[key] + sign * offset.to(net.state[key].dtype)
    return Network(net.spec, new)


def constants(net: Network, keep: Tensor, wires: Wires | None = None) -> dict[int, Tensor]:
    """The constant each cut channel sends, float64 [C] by layer (-1: the image); 0 for channels that stay.

    A convolution starts with act(beta) as if its gamma were 0 (act(0) where it has no batch norm: its bias goes too).
    A depthwise or grouped one hands its input's constant on through its own kernel, batch norm and activation, which
    away from zero-padded borders is exact whatever its gamma is.
    """
    wires = wires or trace(net.spec)
    sent: dict[int, Tensor] = {-1: torch.zeros(net.spec.channels, dtype=torch.float64)}
    for i, layer in enumerate(net.spec.layers):
        value = _send(net.state, i, layer, [sent[j] for j in layer.sources])
        sent[i] = value.masked_fill(keep[wires.outputs[i]], 0.0)
    return sent


def through_kernel(state: State, i: int, layer: s.Conv, given: Tensor) -> Tensor:
    """What layer ``i``'s kernel makes of constant input channels ``given`` [C_in], zeros skipped: float64 [C_out]."""
    weight, group = state[f"layers.{i}.conv.weight"], len(given) // layer.groups
    out = torch.zeros(layer.groups, layer.filters // layer.groups, dtype=torch.float64)
    rows = weight.detach().reshape(layer.groups, -1, *weight.shape[1:])
    for g in given.view(layer.groups, group).any(1).nonzero().flatten().tolist():
        part = given[g * group : (g + 1) * group]
        lit = part.nonzero().flatten()
        kernel = rows[g][:, lit.to(weight.device)].sum((2, 3), dtype=torch.float64).cpu()
        out[g] = kernel @ part[lit]
    return out.flatten()


def _send(state: State, i: int, layer: s.Layer, given: list[Tensor]) -> Tensor:
    match layer:
        case s.Conv():
            return _convolution(state, i, layer, given[0])
        case s.Shortcut():
            return _act(layer.activation)(torch.stack(given).sum(0))
        case s.ScaleChannels():
            return _act(layer.activation)(given[0] * given[1])
        case s.SqueezeExcite():
            return given[0] * MIDDLE_GATE
        case s.Route():
            return torch.cat([part.view(layer.groups, -1)[layer.group_id] for part in given])
    return given[0]


def _convolution(state: State, i: int, layer: s.Conv, given: Tensor) -> Tensor:
    def value(name: str) -> Tensor:
        return state[f"layers.{i}.{name}"].detach().cpu().double()

    act = _act(layer.activation)
    if layer.groups == 1:
        return act(value("bn.bias") if layer.bn else torch.zeros(layer.filters, dtype=torch.float64))
    through = through_kernel(state, i, layer, given)
    if not layer.bn:
        return act(through + value("conv.bias"))
    scale = value("bn.weight") / (value("bn.running_var") + BN_EPS).sqrt()
    return act((through - value("bn.running_mean")) * scale + value("bn.bias"))


def _act(name: str) -> Callable[[Tensor], Tensor]:
    return ACTIVATIONS[name]
