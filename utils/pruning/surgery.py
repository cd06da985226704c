"""Cut wires out of a network, or silence them at full width. Every function here is pure."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from utils.darknet import spec as s
from utils.darknet.channel_groups import ChannelGroups, trace
from utils.darknet.kernels import as_stored, out_first
from utils.darknet.network import Network, State
from utils.errors import InputError
from utils.pruning.absorb import constants
from utils.pruning.plan import Plan

PER_CHANNEL = ("conv.bias", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")


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
        if isinstance(layer, s.SqueezeExcite):
            stay = plan.keep[wires.outputs[i]]
            new[f"layers.{i}.fc1.weight"] = _pick(net.state[f"layers.{i}.fc1.weight"], 1, stay)
            new[f"layers.{i}.fc2.weight"] = _pick(net.state[f"layers.{i}.fc2.weight"], 0, stay)
        elif isinstance(layer, s.Shortcut) and layer.weights_type == "per_channel":
            new[f"layers.{i}.weights"] = _pick(net.state[f"layers.{i}.weights"], 1, plan.keep[wires.outputs[i]])
        elif isinstance(layer, s.Kernel):
            stay, read = plan.keep[wires.outputs[i]], plan.keep[wires.inputs(layer)]
            new.update(_cut_convolution(net.state, i, (layer, spec.layers[i]), stay, read))
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
    for i, layer in enumerate(net.spec.layers):
        if isinstance(layer, s.Kernel):
            gone = ~plan.keep[wires.outputs[i]]
            for name in ("bn.weight", "bn.bias") if layer.bn else ("conv.weight", "conv.bias"):
                new[f"layers.{i}.{name}"] = _zero(layer, new[f"layers.{i}.{name}"], 0, gone)
    quiet = Network(net.spec, new)
    sent = constants(quiet, plan.keep, wires)
    for i, layer in enumerate(net.spec.layers):
        given = wires.outputs[layer.sources[0]]
        noisy = torch.isin(given, given[sent[layer.sources[0]] != 0])  # with a channel all that share its wire
        if isinstance(layer, s.Kernel) and layer.groups == 1:
            new[f"layers.{i}.conv.weight"] = _zero(layer, new[f"layers.{i}.conv.weight"], 1, noisy)
        elif isinstance(layer, s.SqueezeExcite):
            new[f"layers.{i}.fc1.weight"] = _zero(layer, new[f"layers.{i}.fc1.weight"], 1, noisy)
    return Network(net.spec, new)


def channels_before_after(before: s.ModelSpec, after: s.ModelSpec) -> list[tuple[int, int, int]]:
    """(layer number, filters before, filters after) of every convolution, for tables and pictures.

    Raises:
        ValueError: the two do not have the same layers.
    """
    pairs = enumerate(zip(before.layers, after.layers, strict=True))
    return [(i, a.filters, b.filters) for i, (a, b) in pairs if isinstance(a, s.Kernel) and isinstance(b, s.Kernel)]


def _narrow(spec: s.ModelSpec, wires: ChannelGroups, plan: Plan) -> s.ModelSpec:
    if len(plan.keep) != wires.count:
        raise InputError(f"this plan is another network's: it has {len(plan.keep)} wires, the network {wires.count}")
    if not plan.keep[wires.locked].all():
        raise InputError("this plan cuts wires of the image or of a head; they have to stay")
    layers = list(spec.layers)
    for i, layer in enumerate(layers):
        if not isinstance(layer, s.Kernel):
            continue
        filters = int(plan.keep[wires.outputs[i]].sum())
        if not filters:
            raise InputError(f"cfg line {layer.line}: all {layer.filters} channels of layer {i} would go; keep one")
        # Groups go whole, and a depthwise convolution's groups are its channels: both shrink with the filters.
        layers[i] = replace(layer, filters=filters, groups=max(1, layer.groups * filters // layer.filters))
    return replace(spec, layers=tuple(layers))


def _cut_convolution(state: State, i: int, pair: tuple[s.Layer, s.Layer], stay: Tensor, read: Tensor) -> State:
    """The tensors of a layer; ``pair`` is the layer before and after."""
    before, after = pair
    assert isinstance(before, s.Kernel) and isinstance(after, s.Kernel)
    key = f"layers.{i}.conv.weight"
    weight = _pick(out_first(before, state[key]), 0, stay)
    new = {key: as_stored(after, weight if before.groups > 1 else _pick(weight, 1, read))}
    for name in PER_CHANNEL:
        key = f"layers.{i}.{name}"
        if key in state:
            new[key] = _pick(state[key], 0, stay)
    return new


def _pick(tensor: Tensor, axis: int, stay: Tensor) -> Tensor:
    if stay.all():
        return tensor
    return tensor.index_select(axis, stay.nonzero().flatten().to(tensor.device))


def _zero(layer: s.Layer, tensor: Tensor, axis: int, gone: Tensor) -> Tensor:
    """A layer's tensor with 0 for outputs (axis 0) or inputs (axis 1) that are ``gone``."""
    if not gone.any():
        return tensor
    return as_stored(layer, out_first(layer, tensor).index_fill(axis, gone.nonzero().flatten().to(tensor.device), 0.0))
