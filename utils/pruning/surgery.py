"""Cut wires out of a network, or silence them at full width. Every function here is pure."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from utils.darknet import spec as s
from utils.darknet.channel_groups import ChannelGroups, trace
from utils.darknet.kernels import Held, as_stored, out_first
from utils.darknet.network import Network
from utils.darknet.ops import facts
from utils.errors import InputError
from utils.pruning.absorb import constants
from utils.pruning.plan import Plan


def cut(net: Network, plan: Plan) -> Network:
    """Take the wires that ``plan`` does not keep out of the cfg and out of every tensor.

    A silenced network and a cut one compute the same; call `absorb` before, for what beta still sends. Tensors that
    lose nothing are shared with ``net``.

    Raises:
        InputError: the plan is another network's, or a layer would be left without channels.
    """
    wires = trace(net.spec)
    spec = _narrow(net.spec, wires, plan)
    new = dict(net.state)
    for i, layer in enumerate(net.spec.layers):
        stay, read = plan.keep[wires.outputs[i]], plan.keep[wires.inputs(layer)]
        for held in facts(layer).tensors(layer, len(read)):
            key = f"layers.{i}.{held.key}"
            new[key] = _cut(net.state[key], held, (layer, spec.layers[i]), stay, read)
    return Network(spec, new)


def narrow(spec: s.ModelSpec, plan: Plan) -> s.ModelSpec:
    """The cfg after the cut, without touching a weight: predicts parameters and MACs of a plan.

    Raises:
        InputError: as `cut`.
    """
    return _narrow(spec, trace(spec), plan)


def silence(net: Network, plan: Plan) -> Network:
    """The same function as the cut network, at full width: gamma and beta (or kernel and bias) of what goes are 0.

    Where an activation makes something of 0 (logistic), the readers' weights for these channels are zeroed as well.
    """
    wires = trace(net.spec)
    new = dict(net.state)
    for i, kernel in net.spec.kernels.items():
        gone = ~plan.keep[wires.outputs[i]]
        for name in ("bn.weight", "bn.bias") if kernel.bn else ("conv.weight", "conv.bias"):
            new[f"layers.{i}.{name}"] = _zero(kernel, new[f"layers.{i}.{name}"], 0, gone)
    quiet = Network(net.spec, new)
    sent = constants(quiet, plan.keep, wires)
    for i, layer in enumerate(net.spec.layers):
        given = wires.outputs[layer.sources[0]]
        noisy = torch.isin(given, given[sent[layer.sources[0]] != 0])  # with a channel all that share its wire
        key = f"layers.{i}.{mixing_tensor(layer)}"
        if key in new:
            new[key] = _zero(layer, new[key], 1, noisy)
    return Network(net.spec, new)


def channels_before_after(before: s.ModelSpec, after: s.ModelSpec) -> list[tuple[int, int, int]]:
    """(layer number, filters before, filters after) of every convolution, for tables and pictures.

    Raises:
        ValueError: the two do not have the same layers.
    """
    if len(before.layers) != len(after.layers):
        raise ValueError(f"{len(before.layers)} layers before, {len(after.layers)} after")
    left = after.kernels
    return [(i, layer.filters, left[i].filters) for i, layer in before.kernels.items() if i in left]


def _narrow(spec: s.ModelSpec, wires: ChannelGroups, plan: Plan) -> s.ModelSpec:
    if len(plan.keep) != wires.count:
        raise InputError(f"this plan is another network's: it has {len(plan.keep)} wires, the network {wires.count}")
    if not plan.keep[wires.locked].all():
        raise InputError("this plan cuts wires of the image or of a head; they have to stay")
    layers = list(spec.layers)
    for i, layer in spec.kernels.items():
        filters = int(plan.keep[wires.outputs[i]].sum())
        if not filters:
            raise InputError(f"cfg line {layer.line}: all {layer.filters} channels of layer {i} would go; keep one")
        layers[i] = layer.narrowed(filters)
    return replace(spec, layers=tuple(layers))


def _cut(tensor: Tensor, held: Held, pair: tuple[s.Layer, s.Layer], stay: Tensor, read: Tensor) -> Tensor:
    """A tensor with the channels out that ``stay`` and those in that are still ``read``; the layer before and after."""
    rows = out_first(pair[0], tensor)
    for axis, left in ((held.out, stay), (held.own, stay), (held.into, read)):
        rows = rows if axis is None else _pick(rows, axis, left)
    return as_stored(pair[1], rows)


def _pick(tensor: Tensor, axis: int, stay: Tensor) -> Tensor:
    if stay.all():
        return tensor
    return tensor.index_select(axis, stay.nonzero().flatten().to(tensor.device))


def _zero(layer: s.Layer, tensor: Tensor, axis: int, gone: Tensor) -> Tensor:
    """A layer's tensor with 0 for outputs (axis 0) or inputs (axis 1) that are ``gone``."""
    if not gone.any():
        return tensor
    return as_stored(layer, out_first(layer, tensor).index_fill(axis, gone.nonzero().flatten().to(tensor.device), 0.0))


def mixing_tensor(layer: s.Layer) -> str:
    """The key of the tensor by which a layer mixes channels, "" where there is none.

    A grouped convolution is not among them: what is cut of it goes by whole groups.
    """
    return next((held.key for held in facts(layer).tensors(layer, 1) if held.into is not None), "")
