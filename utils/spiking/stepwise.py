"""Layerwise mode taken literally: trains of single spikes, one step after the other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.darknet import spec as s
from utils.darknet.modules import convolve
from utils.darknet.reorder import insert_zeros, reorg
from utils.quantization.executor import image_levels
from utils.quantization.integer import IntConv, IntShortcut, read_out
from utils.quantization.validate import readouts
from utils.spiking.neurons import Neuron
from utils.spiking.spike_schedule import SpikingNetwork


@dataclass(frozen=True)
class Spikes:
    """What a simulation saw.

    ``trains``: int8 [T,N,C,H,W] of {-1, 0, 1} for every layer, step by step through its own window; the image is one
    step of direct current, int16 [1,N,C,H,W] of 0..255, as is all that only moves it. ``membranes``: the charge each
    read-out has integrated, int64 [N,O,H,W].
    """

    trains: dict[int, Tensor]
    membranes: dict[int, Tensor]

    def counts(self) -> dict[int, Tensor]:
        """Spikes per neuron, int32 [N,C,H,W]."""
        return {i: train.sum(0, dtype=torch.int32) for i, train in self.trains.items()}


class StepwiseExecutor(nn.Module):
    """A predictor that simulates every step of every layer; slow, and the proof that ``LayerwiseExecutor`` is right.

    It shares with it the neuron's definition and the integers, and nothing else: no exact-convolution slices, no
    closed form, no counts. Time is [T,N,C,H,W]; T is the window of the layer.
    """

    def __init__(self, network: SpikingNetwork) -> None:
        super().__init__()
        self.spiking = network

    @torch.no_grad()
    def forward(self, x: Tensor) -> list[Tensor]:
        """Images [N,C,H,W] of n / 255 -> raw head maps, in cfg order."""
        membranes = self.simulate(x).membranes
        integer, heads = self.spiking.integer, []
        for i in readouts(integer.spec):
            layer, op = integer.conv(i)
            heads.append(read_out(membranes[i], op, layer.activation))
        return heads

    @torch.no_grad()
    def simulate(self, x: Tensor) -> Spikes:
        """Run one frame through, keeping every train."""
        trains = {-1: image_levels(x).to(torch.int16)[None]}
        membranes: dict[int, Tensor] = {}
        for i, layer in enumerate(self.spiking.spec.layers):
            inputs = [trains[j] for j in layer.sources if j in trains]
            match layer:
                case s.Conv():
                    _, op = self.spiking.integer.conv(i)
                    total = _integrate(layer, op, inputs[0])
                    if op.requantiser is None:
                        membranes[i] = total.to(torch.int64)
                    else:
                        trains[i] = self._fire(total, Neuron.of(op.requantiser, x.device))
                case s.Shortcut():
                    add = self.spiking.integer.ops[i]
                    assert isinstance(add, IntShortcut)
                    charge = sum(_currents(train, gain) for train, gain in zip(inputs, add.gains, strict=True))
                    assert isinstance(charge, Tensor)
                    trains[i] = self._fire(charge, Neuron.of(add.requantiser, x.device))
                case s.Output():
                    pass
                case _:
                    trains[i] = _relay(layer, inputs, signed=self.spiking.integer.grids[i].qmin < 0)
        return Spikes(trains, membranes)

    def _fire(self, total: Tensor, neuron: Neuron) -> Tensor:
        """A whole window of one layer, int8 [T,N,C,H,W]."""
        potential, fired = neuron.charge(total), torch.zeros_like(total)
        return torch.stack([neuron.step(potential, fired).to(torch.int8) for _ in range(self.spiking.window)])


def _integrate(layer: s.Conv, op: IntConv, train: Tensor) -> Tensor:
    """A = bias + the weighted spikes, added up one step at a time; float64 [N,O,H,W]."""
    weight = op.weight.to(train.device).double()
    total: Tensor | None = None
    for spikes in train:
        current = convolve(layer, spikes.double(), weight)
        total = current if total is None else total.add_(current)
    assert total is not None
    return total + op.bias.to(train.device).double().view(1, -1, 1, 1)


def _currents(train: Tensor, gain: Tensor) -> Tensor:
    """A shortcut's charge from one source, step by step; float64 [N,C,H,W]; ``gain`` [1 or C]."""
    gain = gain.to(train.device).double().view(-1, 1, 1)
    total = torch.zeros(train.shape[1:], dtype=torch.float64, device=train.device)
    for spikes in train:
        total.add_(spikes.double() * gain)
    return total


def _relay(layer: s.Layer, trains: list[Tensor], *, signed: bool) -> Tensor:
    """Layers without neurons: what arrives in a step leaves in the same step."""
    match layer:
        case s.MaxPool():
            return _counter_max(layer, trains[0]) if signed else _pool(layer, trains[0], silent=0)
        case s.Reorg():
            return reorg(trains[0].flatten(0, 1), layer.stride).unflatten(0, trains[0].shape[:2])
        case s.Upsample() if layer.zeros:
            return insert_zeros(trains[0], layer.stride)
        case s.Upsample():
            return trains[0].repeat_interleave(layer.stride, 3).repeat_interleave(layer.stride, 4)
        case s.Route():
            steps = max(len(train) for train in trains)
            parts = [_last(train, steps)[:, :, _slice(train, layer)] for train in trains]
            return torch.cat(parts, 2)
        case s.Dropout():
            return trains[0]
    raise TypeError(f"{type(layer).__name__} does not relay spikes")


def _slice(train: Tensor, layer: s.Route) -> slice:
    share = train.shape[2] // layer.groups
    return slice(layer.group_id * share, (layer.group_id + 1) * share)


def _last(train: Tensor, steps: int) -> Tensor:
    """The image's one step of current among trains of ``steps``: it comes first, then nothing."""
    missing = steps - len(train)
    return torch.cat([train, train.new_zeros(missing, *train.shape[1:])]) if missing else train


def _pool(layer: s.MaxPool, train: Tensor, silent: float) -> Tensor:
    """The OR over each window, step by step; outside the map it is ``silent``."""
    before, after = layer.pad // 2, layer.pad - layer.pad // 2
    steps = []
    for spikes in train:
        padded = F.pad(spikes.float(), (before, after, before, after), value=silent)
        steps.append(F.max_pool2d(padded, layer.size, layer.stride).to(train.dtype))
    return torch.stack(steps)


def _counter_max(layer: s.MaxPool, train: Tensor) -> Tensor:
    """Signed trains: each step emits the change of the largest count so far, which is -1, 0 or 1."""
    counted = _pool(layer, train.cumsum(0, dtype=torch.int16), silent=-torch.inf)
    return torch.diff(counted, dim=0, prepend=torch.zeros_like(counted[:1])).to(train.dtype)
