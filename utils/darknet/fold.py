"""Batch norm folded into the convolution before it, and put behind one that has none."""

from __future__ import annotations

from dataclasses import replace

import torch

from utils.darknet.heads import head_convolutions
from utils.darknet.kernels import as_stored, out_first
from utils.darknet.network import Network
from utils.darknet.sharing import untied
from utils.errors import InputError

BN_EPS = 1e-6  # what OpenCV reads Darknet files with; docs/decisions/001


def fold_bn(network: Network) -> Network:
    """The same function in eval mode, with every convolution's batch norm folded into a weight and a bias.

    w' = w * gamma / sqrt(var + eps), b' = beta - mean * gamma / sqrt(var + eps), in float64, along the output axis,
    which is not the first one of a transposed convolution.
    A network without batch norm comes back as it is, so folding twice is folding once.
    """
    network = untied(network)
    layers, state = list(network.spec.layers), {}
    for key, value in network.state.items():
        if ".bn." not in key:
            state[key] = value
    for i, layer in network.spec.normed.items():
        if layer.weight_quant != "none":
            bits = {"binary": "one bit"}.get(layer.weight_quant, "8 bits")
            raise InputError(
                f"cfg line {layer.line}: weight_quant={layer.weight_quant} trains weights of {bits}; batch norm can "
                "not be folded into them. Train without it for what needs folded weights"
            )
        gamma, beta, mean, var = (
            network.state[f"layers.{i}.bn.{name}"].double()
            for name in ("weight", "bias", "running_mean", "running_var")
        )
        gain = gamma / torch.sqrt(var + BN_EPS)
        weight = network.state[f"layers.{i}.conv.weight"]
        scaled = out_first(layer, weight.double()) * gain[:, None, None, None]
        state[f"layers.{i}.conv.weight"] = as_stored(layer, scaled).to(weight.dtype)
        state[f"layers.{i}.conv.bias"] = (beta - mean * gain).to(weight.dtype)
        layers[i] = replace(layer, bn=False)
    return Network(replace(network.spec, layers=tuple(layers)), state)


def unfold_bn(network: Network) -> Network:
    """The same function with batch norm behind every layer that has none and is no output; gammas judge channels then.

    A channel's gamma is the length of its kernel, which then has length 1; beta is its bias, statistics are 0 and 1.
    """
    outputs, state = set(head_convolutions(network.spec).values()), dict(network.state)
    layers = list(network.spec.layers)
    for i, layer in network.spec.kernels.items():
        if layer.bn or i in outputs:
            continue
        weight = state[f"layers.{i}.conv.weight"]
        rows = out_first(layer, weight.double())
        length = rows.flatten(1).norm(dim=1)
        unit = rows / length.where(length > 0, 1.0)[:, None, None, None]
        state[f"layers.{i}.conv.weight"] = as_stored(layer, unit).to(weight.dtype)
        bias = state.pop(f"layers.{i}.conv.bias")
        ones = torch.ones_like(bias)
        values = {"weight": length.to(weight.dtype), "bias": bias, "running_mean": 0 * ones}
        values["running_var"] = ones - BN_EPS
        state |= {f"layers.{i}.bn.{name}": value for name, value in values.items()}
        layers[i] = replace(layer, bn=True)
    return Network(replace(network.spec, layers=tuple(layers)), state)
