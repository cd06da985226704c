"""Layerwise mode in one convolution a layer: a layer's spikes add up to a count, which is all that matters."""

from __future__ import annotations

import torch
from torch import Tensor

from utils.quantization.byte_levels import pixelwise
from utils.quantization.executor import Executor
from utils.quantization.integer import Requantiser, in_chunks
from utils.spiking.neurons import Neuron
from utils.spiking.spike_schedule import SpikingNetwork


class LayerwiseExecutor(Executor):
    """A predictor: spike counts in, one exact convolution, the neuron's closed form, spike counts out.

    It computes what ``StepwiseExecutor`` simulates: layerwise a neuron sees all its input before it fires, so its
    charge is the convolution of the counts, whatever the order of the spikes. Pooling counts is the OR of the trains,
    because every train of n spikes is its first n steps.
    """

    def __init__(self, network: SpikingNetwork) -> None:
        super().__init__(network.integer)
        self.spiking = network

    def fire(self, acc: Tensor, by: Requantiser) -> Tensor:
        """Charge, then the closed form of a window of firing."""
        neuron = Neuron.of(by, acc.device)
        return in_chunks(acc, lambda part: neuron.count(neuron.charge(part)))

    def fire_bytes(self, i: int, by: Requantiser, acc: Tensor, zero: int) -> Tensor:
        """The same into bytes, some pixels at a time."""
        neuron = Neuron.of(by, acc.device)

        def fire(part: Tensor, place: Tensor) -> None:
            fired = neuron.count(neuron.charge(part[..., None, None]))
            place.copy_(fired.add_(zero).to(torch.int32)[..., 0, 0])  # through int32, which torch vectorises

        return pixelwise(acc, fire)

    def counts(self, x: Tensor) -> dict[int, Tensor]:
        """Spikes each neuron fired for an image, signed, int32 [N,C,H,W]; the image's entry is its pixel levels."""
        return self.levels(x)
