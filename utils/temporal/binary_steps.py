"""A network of ilif neurons in binary spikes alone: D steps of 0 and 1 for each step of training, with the same sums.

A neuron that would send n of D levels fires in the first n of D binary steps. A convolution runs over each of them and
adds its results up; the neuron behind it charges once all D have come. Max pools are ORs of binary maps, since
the larger of two numbers fires in all binary steps in which either does; what moves values moves them step by step.
Source: Luo et al., SpikeYOLO, section 4.3 (arXiv 2407.20708).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from utils.darknet import spec as s
from utils.darknet.forward import without_tensors
from utils.darknet.modules import convolve
from utils.darknet.ops import facts
from utils.darknet.walk import run
from utils.errors import InputError
from utils.temporal.execution import Clock, clock_of
from utils.temporal.spikes import spike_units


class BinarySteps(nn.Module):
    """A predictor of binary spikes: [N, C, H, W] in 0..1 -> raw head maps, those of its network.

    Args:
        network: with ilif neurons alone (`models.Darknet`), in eval mode.

    Raises:
        InputError: a neuron is another one, or frames are its input.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network, self.spec = network, network.spec
        _check(self.spec)
        self.levels = {i: neuron.levels for i, neuron in self.spec.neurons.items()}
        self.most = max(self.levels.values())
        self.clock: Clock = clock_of(self.spec, frames=False)
        self.spiking = {i for i, unit in spike_units(self.spec).items() if bool((unit > 0).all())}
        self.values: set[float] = set()  # that were sent, in thresholds; binary ones are 0 and 1
        self.eval()

    @torch.no_grad()
    def forward(self, x: Tensor) -> list[Tensor]:
        """Edges of spikes are [D, T * N, C, H, W] between layers, edges of membranes [T * N, C, H, W]."""
        out = run(self.spec, x, self._step, keep=self.spec.heads)
        return [out[i] for i in self.spec.heads]

    def _step(self, i: int, layer: s.Layer, given: list[Tensor]) -> Tensor:
        if i in self.clock.averaging:
            means = [self._mean(j, value) for j, value in zip(layer.sources, given, strict=True)]
            return self._whole(i, layer, means)
        if all(j in self.spiking for j in layer.sources):
            if i in self.spec.kernels:
                return self._neurons(i, layer, self._added_up(i, given[0]))
            if i in self.spiking and i not in self.spec.neurons:
                parts = [without_tensors(layer, list(each)) for each in zip(*given, strict=True)]
                return torch.stack(parts)
        return self._neurons(i, layer, self._whole(i, layer, self._in_step(layer, given)))

    def _in_step(self, layer: s.Layer, given: list[Tensor]) -> list[Tensor]:
        """Spikes as their sums, and what is the same at every step beside what is not."""
        timed = bool(self.clock.timed & set(layer.sources))
        found = [value.sum(0) if j in self.spiking else value for j, value in zip(layer.sources, given, strict=True)]
        steps = self.spec.timesteps
        return [
            x.repeat(steps, 1, 1, 1) if timed and j not in self.clock.timed else x
            for j, x in zip(layer.sources, found, strict=True)
        ]

    def _whole(self, i: int, layer: s.Layer, given: list[Tensor]) -> Tensor:
        if str(i) not in self.network.layers:
            return without_tensors(layer, given)
        made: Tensor = self.network.layers[str(i)](*given)
        return made

    def _added_up(self, i: int, spikes: Tensor) -> Tensor:
        """A convolution of D binary maps, the bias once; then its batch norm."""
        block = self.network.layers[str(i)]
        parts = [convolve(block.layer, each, block.conv.weight) for each in spikes]
        total = torch.stack(parts).sum(0)
        if block.conv.bias is not None:
            total = total + block.conv.bias[:, None, None]
        normed: Tensor = block.activation(total if block.bn is None else block.bn(total))
        return normed

    def _neurons(self, i: int, layer: s.Layer, current: Tensor) -> Tensor:
        """What a layer's neurons send, in D binary maps; a layer without neurons gives what it has."""
        if i not in self.spec.neurons:
            return current
        neuron, steps, v_th = self.network.layers[str(i)].neuron, self.spec.timesteps, self.spec.neurons[i].v_th
        timed = bool(self.clock.timed & set(layer.sources))
        over_time = current.unflatten(0, (steps, -1)) if timed else current.expand(steps, *current.shape)
        counts = (neuron(over_time).flatten(0, 1) / v_th).round()
        maps = torch.stack([(counts > k).to(current.dtype) for k in range(self.most)])
        self.values.update(maps.unique().tolist())
        return maps * v_th

    def _mean(self, j: int, value: Tensor) -> Tensor:
        whole = value.sum(0) if j in self.spiking else value
        return self.clock.read_out(whole.unflatten(0, (self.spec.timesteps, -1))) if j in self.clock.timed else whole


def _adds(spec: s.ModelSpec, i: int) -> bool:
    """Whether a layer adds spikes up, so that a step of it may be more than 1."""
    layer, units = spec.layers[i], spike_units(spec)
    return isinstance(layer, s.Shortcut) and bool((units[i] > 0).any())


def _check(spec: s.ModelSpec) -> None:
    if spec.input_frames:
        raise InputError("[net] input=frames: binary steps are run of images that stay the same; use input=repeat")
    for i, neuron in spec.neurons.items():
        layer = spec.layers[i]
        if neuron.kind != "ilif":
            raise InputError(
                f"layer {i} (cfg line {layer.line}): activation={neuron.kind} sends no levels that binary steps could "
                "be of; train with --spiking ilif"
            )
    sums = run(spec, False, lambda i, layer, given: i not in spec.neurons and (_adds(spec, i) or any(given)))
    for layer in spec.layers:
        if isinstance(layer, s.MaxPool) and sums[layer.sources[0]]:
            raise InputError(
                f"cfg line {layer.line}: a max pool of sums of spikes is no OR of binary steps; pool before the sum, "
                "or put an [activation] between"
            )
    for layer in spec.kernels.values():
        if layer.weight_quant != "none":
            raise InputError(f"cfg line {layer.line}: weight_quant={layer.weight_quant} beside ilif; train without it")
        if facts(layer).section == "transposed_convolutional":
            raise InputError(f"cfg line {layer.line}: a transposed convolution; use a cfg without it")
