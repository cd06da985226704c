"""What a network that was trained as spikes costs, by the counter that converted networks have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from utils.darknet.ops import facts
from utils.darknet.spec import ModelSpec
from utils.errors import InputError
from utils.spiking.spike_schedule import MEMBRANE_BYTES
from utils.spiking.synops import LayerCost, SpikeCost, cost_of
from utils.temporal.execution import FRAMES, Clock
from utils.temporal.spikes import spike_counts, spike_units

STATES = {"ltc": 3}  # numbers that a neuron keeps between steps, where it is not its membrane alone
FLOAT_BYTES = 4


class Timed(Protocol):
    """A network with neurons, as far as its operations are counted."""

    spec: ModelSpec
    timesteps: int
    clocks: Mapping[bool, Clock]

    def activations(self, x: Tensor) -> dict[int, Tensor]:
        """Every edge's values, [T * N, C, H, W] where it has steps."""

    def state_dict(self) -> dict[str, Tensor]:
        """Its tensors."""


@torch.no_grad()
def measure_direct(model: Timed, batches: Iterable[Tensor]) -> SpikeCost:
    """Run images, or frames, all of one size, and count.

    Spikes and accumulates are those of all steps. Multiplications are done where a convolution reads analog values:
    once of an image that stays the same, else at every step; and in the gates of an ltc. ``macs`` are those of a
    conventional network of the same layers, which needs no steps.

    Args:
        model: a network with neurons, in eval mode.
        batches: [N, C, H, W] in 0..1, or [N, T, C, H, W].

    Raises:
        InputError: it has transposed convolutions, whose accumulates are not counted.
        ValueError: there are no images.
    """
    spec, state = model.spec, model.state_dict()
    for i, layer in spec.kernels.items():
        if layer.inputs_first:
            raise InputError(f"cfg line {layer.line}: the accumulates of layer {i}, a transposed one, are not counted")
    work = {
        i: state[f"layers.{i}.conv.weight"].cpu() if i in spec.kernels else None
        for i, layer in enumerate(spec.layers)
        if facts(layer).integrates
    }
    units, shapes, frames = spike_units(spec), dict[int, torch.Size](), spec.input_frames
    ends = list[tuple[int, dict[int, Tensor]]]()  # of the last step, where outputs read nothing else

    def counted() -> Iterator[tuple[int, dict[int, Tensor]]]:
        nonlocal frames
        for x in batches:
            frames = frames or x.dim() == FRAMES
            values = model.activations(x)
            shapes.update({i: value.shape[1:] for i, value in values.items()})
            counts = {i: spike_counts(value, units[i]).abs() for i, value in values.items()}
            ends.append((len(x), {i: count[-len(x) :].sum(0, keepdim=True) for i, count in counts.items()}))
            yield len(x), {i: count.sum(0, keepdim=True) for i, count in counts.items()}

    weights = sum(FLOAT_BYTES * value.numel() for key, value in state.items() if "num_batches" not in key)
    analog = {i: unit == 0 for i, unit in units.items()}
    cost = cost_of(spec, work, counted(), state_bytes=0, weight_bytes=weights, neurons=spec.neurons, analog=analog)
    clock = model.clocks[frames]
    layers, found = {}, dict(cost.layers)
    if clock.last:
        reading = {i: weight for i, weight in work.items() if i in clock.averaging}
        last = cost_of(spec, reading, ends, state_bytes=0, weight_bytes=0, neurons=(), analog=analog)
        found |= {i: replace(found[i], sops=each.sops) for i, each in last.layers.items()}
    for i, each in found.items():
        repeated = i not in clock.averaging and clock.timed & set(spec.layers[i].sources)
        layers[i] = _over_time(spec, i, each, shapes[i], model.timesteps if repeated else 1)
    kept = sum(shapes[i].numel() * STATES.get(neuron.kind, 1) for i, neuron in spec.neurons.items())
    return replace(cost, layers=layers, state_bytes=kept * MEMBRANE_BYTES)


def _over_time(spec: ModelSpec, i: int, cost: LayerCost, shape: torch.Size, steps: int) -> LayerCost:
    """A layer's cost with how often it multiplies, and what its gates do."""
    own = [held for held in facts(spec.layers[i]).tensors(spec.layers[i], shape[0]) if held.key.startswith("neuron.")]
    kernels = sum(torch.Size(held.shape).numel() for held in own if len(held.shape) > 1)
    return replace(cost, steps=steps, gate_macs=kernels * shape[1:].numel() * spec.timesteps)
