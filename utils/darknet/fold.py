"""Batch norm folded into the convolution before it."""

from __future__ import annotations

from dataclasses import replace

import torch

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
