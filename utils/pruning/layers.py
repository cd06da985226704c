"""Take residual blocks out of a network, or silence them at full size. Every function here is pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from utils.darknet import spec as s
from utils.darknet.channel_groups import sliced
from utils.darknet.network import Network, State
from utils.darknet.ops import facts
from utils.darknet.patterns import is_silent_at_zero, response
from utils.darknet.shapes import channels
from utils.darknet.sharing import untied
from utils.darknet.walk import rule
from utils.errors import InputError
from utils.pruning.absorb import alike_channels, shifted, through_kernel
from utils.pruning.blocks import blocks, shorten
from utils.pruning.layer_plan import LayerPlan

KEY = re.compile(r"layers\.(\d+)\.(.+)$")
NODES, PROBABILITIES = (torch.from_numpy(x) for x in np.polynomial.hermite_e.hermegauss(31))


def drop(net: Network, plan: LayerPlan) -> Network:
    """Take the blocks that ``plan`` names out of the cfg, and their tensors out of the state.

    Every tensor that stays is shared with ``net``, under its layer's new number. The plan may have been made before
    channels were cut: `cut` changes no layer's number.

    Raises:
        InputError: the plan is another network's.
    """
    _check(net.spec, plan)
    net = untied(net)
    short = shorten(net.spec, plan.gone)
    new: State = {}
    for key, value in net.state.items():
        match = KEY.match(key)
        if match is None:
            new[key] = value
        elif int(match[1]) in short.number:
            new[f"layers.{short.number[int(match[1])]}.{match[2]}"] = value
    like = next(value for key, value in net.state.items() if key.endswith("conv.weight"))
    for i in short.carriers:
        width = short.spec.kernels[i].filters
        new[f"layers.{i}.conv.weight"] = like.new_ones(width, 1, 1, 1)
        new[f"layers.{i}.conv.bias"] = like.new_zeros(width)
    return Network(short.spec, new)


def silence_layers(net: Network, plan: LayerPlan) -> Network:
    """The same function as the dropped network, at full size: the branches that go add exactly 0.

    Gamma and beta (or kernel and bias) of the last convolutions are 0; an activation that makes something of 0 becomes
    linear. Where the trunk itself passes through the branch (an inner sum) no tensor can silence it: there the sum
    loses the source, and the silenced network, still a network, has no cfg.

    Raises:
        InputError: the plan is another network's.
    """
    _check(net.spec, plan)
    layers, new, kernels = list(net.spec.layers), dict(net.state), net.spec.kernels
    for block in plan.gone:
        ends = _ends(net.spec, block.source, block.layers)
        if ends is None:
            add = layers[block.shortcut]
            layers[block.shortcut] = replace(add, sources=tuple(j for j in add.sources if j != block.source))
            continue
        for i in ends:
            layer = net.spec.activated[i]
            if not is_silent_at_zero(layer.activation):
                layers[i] = replace(layer, activation="linear")
            if i in kernels:
                for name in ("bn.weight", "bn.bias") if kernels[i].bn else ("conv.weight", "conv.bias"):
                    new[f"layers.{i}.{name}"] = torch.zeros_like(net.state[f"layers.{i}.{name}"])
    return Network(replace(net.spec, layers=tuple(layers)), new)


def absorb_layers(net: Network, plan: LayerPlan) -> Network:
    """Give the constant part of what the branches send to the convolutions that read the sums.

    A branch whose gammas are 0 sends act(beta), one with others E[act(beta + gamma·z)] of a standard normal z, which is
    its mean as far as the batch norm's statistics are those of the data. The trunk carries it on through further sums,
    routes and pools to every convolution that reads it: running_mean -= W·c, or bias += W·c. Exact for gammas of 0 and
    1x1 readers; too much at zero-padded borders of larger kernels. Lost is what meets a gate or an activation behind a
    sum, and the constant of a branch that does not end in batch norm.

    Returns:
        Network: of the same structure, to be dropped by the same plan.
    """
    _check(net.spec, plan)
    sent = {(b.shortcut, b.source): _constant(net, b.source, b.layers) for b in plan.gone}
    inside, width = {i for b in plan.gone for i in b.layers}, channels(net.spec)
    shift = {-1: torch.zeros(net.spec.channels, dtype=torch.float64)}
    new, kernels = dict(net.state), net.spec.kernels
    for i, layer in enumerate(net.spec.layers):
        shift[i] = torch.zeros(width[i], dtype=torch.float64)
        if i in inside:
            continue
        given = [c if (c := sent.get((i, j))) is not None else shift[j] for j in layer.sources]
        if i in kernels:
            offset = through_kernel(net.state, i, kernels[i], given[0])
            if offset.any():
                new.update(shifted(net.state, i, kernels[i], offset))
        else:
            shift[i] = _carried(layer, given, shift[i])
    return Network(net.spec, new)


def _check(spec: s.ModelSpec, plan: LayerPlan) -> None:
    wrong = set(plan.gone) - set(blocks(spec))
    if wrong:
        first = min(wrong, key=lambda block: block.shortcut)
        raise InputError(
            f"this layer plan is another network's: it takes out the branch that layer {first.shortcut} adds from "
            f"layer {first.source}, which is no residual block here; plan for this network"
        )


def _ends(spec: s.ModelSpec, j: int, inside: Collection[int]) -> set[int] | None:
    """Layers to silence so that layer ``j`` becomes 0: convolutions, and what has an activation behind them."""
    if j not in inside:
        return None
    found = {j} & spec.activated.keys()
    if j in spec.kernels:
        return found
    for ends in (_ends(spec, k, inside) for k in spec.layers[j].features):
        if ends is None:
            return None
        found |= ends
    return found


def _constant(net: Network, j: int, inside: Collection[int]) -> Tensor | None:
    """The mean of what layer ``j`` sends, float64 [C]; None where that cannot be told from a batch norm."""
    if j not in inside:
        return None
    if j in net.spec.normed:
        gamma, beta = (net.state[f"layers.{j}.bn.{name}"].detach().cpu().double() for name in ("weight", "bias"))
        values = response(net.spec, net.spec.layers[j])(beta[:, None] + gamma[:, None] * NODES)
        return values @ PROBABILITIES / PROBABILITIES.sum()
    if not rule(REPEATS, net.spec.layers[j], "rule for what it sends")(net.spec.layers[j]):
        return None
    parts = [_constant(net, k, inside) for k in net.spec.layers[j].sources]
    known = [part for part in parts if part is not None]
    return _carried(net.spec.layers[j], known, torch.empty(0)) if len(known) == len(parts) else None


def _carried(layer: s.Layer, given: list[Tensor], lost: Tensor) -> Tensor:
    """What becomes of constants on their way through a layer, exactly; ``lost`` where there is no such thing."""
    return rule(CARRIED, layer, "rule for constants")(layer, given, lost)


def _sum(layer: s.Shortcut, given: list[Tensor], lost: Tensor) -> Tensor:
    return lost if layer.activation != "linear" or layer.weighted else alike_channels(given).sum(0)


CARRIED: dict[type[s.Layer], Callable[[Any, list[Tensor], Tensor], Tensor]] = {
    s.Shortcut: _sum,
    s.Route: lambda layer, given, lost: sliced(layer, given),
    s.Upsample: lambda layer, given, lost: lost if layer.zeros else given[0],
    s.Layer: lambda layer, given, lost: given[0] if facts(layer).keeps_constants else lost,
}
REPEATS: dict[type[s.Layer], Callable[[Any], bool]] = {  # whether a map is its sources' values, all of them
    s.Route: lambda layer: True,
    s.Upsample: lambda layer: not layer.zeros,
    s.Layer: lambda layer: False,
}
