"""Layerwise mode in one convolution a layer: a layer's spikes add up to a count, which is all that matters."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from utils.quantization.executor import IntegerExecutor
from utils.quantization.integer import Requantiser, in_chunks, requantise
from utils.spiking.neurons import Neuron
from utils.spiking.spike_schedule import SpikingNetwork

ACC_BITS = 32  # an accumulator is an int32


class LayerwiseExecutor(IntegerExecutor):
    """A predictor: spike counts in, one exact convolution, the neuron's closed form, spike counts out.

    It computes what ``StepwiseExecutor`` simulates: layerwise a neuron sees all its input before it fires, so its
    charge is the convolution of the counts, whatever the order of the spikes. Pooling counts is the OR of the trains,
    because every train of n spikes is its first n steps.

    On int8 units the closed form is computed as the integers' requantisation is, once `counts_to_levels` has held the
    two together; elsewhere neurons are charged and counted.
    """

    def __init__(self, network: SpikingNetwork) -> None:
        super().__init__(network.integer)
        self.spiking = network
        for i, op in network.integer.ops.items():
            assert op.requantiser is None or counts_to_levels(op.requantiser), network.integer.place(i)

    def fire(self, acc: Tensor, by: Requantiser) -> Tensor:
        """Charge, then the closed form of a window of firing."""
        neuron = Neuron.of(by, acc.device)
        return in_chunks(acc, lambda part: neuron.count(neuron.charge(part)))

    def counts(self, x: Tensor) -> dict[int, Tensor]:
        """Spikes each neuron fired for an image, signed, int32 [N,C,H,W]; the image's entry is its pixel levels."""
        return self.levels(x)


def counts_to_levels(by: Requantiser) -> bool:
    """Whether a neuron fires as many spikes as there are levels, whatever its accumulator.

    Both are stairs that only go up: gains are 0 or more, and floor, clip and division by theta keep the order. Two such
    stairs are one if they step at the same places; so each is computed at the first accumulator on every step and at
    the last one below it.
    """
    pairs = torch.stack((by.multiplier, by.multiplier_neg)).unique(dim=1)
    by = replace(by, multiplier=pairs[0], multiplier_neg=pairs[1])
    first, step = steps(by)
    neuron = Neuron.of(by, torch.device("cpu"))
    for acc, on in ((first - 1, False), (first, True)):
        for found in (requantise(acc, by), neuron.count(neuron.charge(acc))):
            if bool((((found >= step) != on) & (acc.abs() < 2**ACC_BITS)).any()):
                return False
    return True


def steps(by: Requantiser) -> tuple[Tensor, Tensor]:
    """The first accumulator of every level above the lowest, int64 [1,O,1,K], and those levels [K].

    acc * m * 2^-f + 1/2 >= n from acc = ceil((2n - 1) * 2^(f-1) / m) on; of a gain of 0, as good as never.
    """
    level = torch.arange(by.qmin + 1, by.qmax + 1)
    gain = torch.where(level > 0, by.multiplier[:, None].long(), by.multiplier_neg[:, None].long())  # [O,K]
    half, gain = (2 * level - 1) * 2 ** max(by.shift - 1, 0), gain * 2 ** max(1 - by.shift, 0)
    first = -torch.div(-half, gain.clamp(min=1), rounding_mode="floor")
    never = torch.where(level > 0, 2**ACC_BITS, -(2**ACC_BITS))
    return torch.where(gain > 0, first, never)[None, :, None, :], level
