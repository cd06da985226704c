"""Networks of random weights, for benchmarks that ask what is done with a structure and not how well it sees."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from models import Darknet
from utils.darknet import spec as s
from utils.darknet.heads import head_convolutions
from utils.darknet.network import Network
from utils.darknet.ops import facts
from utils.darknet.sharing import tied
from utils.darknet.walk import run

RANGES = {
    "bn.weight": (0.0, 1.0),
    "bn.bias": (-0.3, 0.3),
    "bn.running_mean": (-0.2, 0.2),
    "bn.running_var": (0.5, 1.5),
}
TIMES = 8  # as many channels as are left of


def narrow(spec: s.ModelSpec, times: int = TIMES) -> s.ModelSpec:
    """The structure with a ``times``-th of the channels wherever that is whole; outputs keep theirs.

    Groups stay where they divide what is left, and a depthwise convolution stays one.
    """
    heads, layers = set(head_convolutions(spec).values()), list(spec.layers)

    def step(i: int, layer: s.Layer, given: list[tuple[int, int]]) -> tuple[int, int]:
        """(channels before, channels now)"""
        was = facts(layer).channels(layer, [before for before, _ in given], "")
        if isinstance(layer, s.Kernel):
            before, now = given[0]
            filters = layer.filters if i in heads or layer.filters % times else layer.filters // times
            filters = now if layer.depthwise(before) else filters
            groups = now if layer.depthwise(before) else math.gcd(layer.groups, math.gcd(filters, now))
            layers[i] = replace(layer, filters=filters, groups=groups)
        elif isinstance(layer, s.SqueezeExcite):
            layers[i] = replace(layer, squeeze=max(1, layer.squeeze // times))
        return was, facts(layers[i]).channels(layers[i], [now for _, now in given], f"cfg line {layer.line}")

    run(spec, (spec.channels, spec.channels), step)
    return replace(spec, layers=tuple(layers))


def random_network(spec: s.ModelSpec, seed: int = 0) -> Network:
    """Kernels as torch starts them, gammas in 0..1, betas and statistics away from 0."""
    torch.manual_seed(seed)
    state = {key: value for key, value in Darknet(spec).state_dict().items() if "num_batches" not in key}
    make = torch.Generator().manual_seed(seed)
    for key, value in state.items():
        name = key.split(".", 2)[2]
        if name in RANGES:
            low, high = RANGES[name]
            state[key] = torch.rand(value.shape, generator=make) * (high - low) + low
    return tied(Network(spec, state))
