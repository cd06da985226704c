"""What an edge of a network with neurons carries: spikes, that is whole numbers of a unit, or analog values."""

from __future__ import annotations

import torch
from torch import Tensor

from utils.darknet import spec as s
from utils.darknet.forward import move_channels
from utils.darknet.neuron_spec import SPIKING
from utils.darknet.ops import activation_of, facts
from utils.darknet.shapes import channels
from utils.darknet.walk import run


def spike_units(spec: s.ModelSpec) -> dict[int, Tensor]:
    """What a spike of each channel is worth by edge, float [C]; 0 where a channel carries analog values.

    A sum of spikes of one unit is several spikes. Pools, routes and upsampling hand spikes on.
    """
    width, neurons = channels(spec), spec.neurons

    def step(i: int, layer: s.Layer, given: list[Tensor]) -> Tensor:
        if i in neurons:
            return torch.full((width[i],), neurons[i].unit if neurons[i].kind in SPIKING else 0.0)
        if (
            facts(layer).section == "shortcut"
            and not facts(layer).tensors(layer, 1)
            and activation_of(layer) == "linear"
        ):
            return _of_sum(given)
        if isinstance(layer, s.Activation) and layer.activation == "linear":
            return given[0]
        if facts(layer).computes:
            return torch.zeros(width[i])
        return move_channels(layer, given)

    return run(spec, torch.zeros(width[-1]), step)


def _of_sum(given: list[Tensor]) -> Tensor:
    """The unit that all sources of a sum share, as far as they have the channel; else 0."""
    unit = given[0].clone()
    for other in given[1:]:
        both = min(len(unit), len(other))
        unit[:both] = torch.where(unit[:both] == other[:both], unit[:both], 0.0)
    return unit


def analog_kernels(spec: s.ModelSpec) -> tuple[int, ...]:
    """The convolutions that read analog values, at least in part: those multiply, the others only add weights up."""
    units = spike_units(spec)
    return tuple(i for i, layer in spec.kernels.items() if not (units[layer.sources[0]] > 0).all())


def spike_counts(values: Tensor, unit: Tensor) -> Tensor:
    """Spikes [N, C, H, W] in values of an edge; 0 in channels that carry analog values."""
    per_spike = torch.where(unit > 0, 1 / unit, 0.0).to(values).view(1, -1, 1, 1)
    return (values * per_spike).round()
