"""Layerwise mode taken literally: trains of single spikes, one step after the other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from utils.darknet import spec as s
from utils.darknet.forward import move
from utils.darknet.modules import convolve
from utils.darknet.walk import run
from utils.errors import InputError
from utils.quantization.exact_conv import FLOAT32_EXACT, accumulator_bounds
from utils.quantization.executor import image_levels
from utils.quantization.integer import IntConv, IntPool, IntShortcut, read_out
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

    It shares with it the neuron's definition, the integers and the moves of values, and nothing else: no
    exact-convolution slices, no closed form, no counts. Time is [T,N,C,H,W]; T is the window of the layer.
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
        membranes: dict[int, Tensor] = {}
        integer = self.spiking.integer

        def step(i: int, layer: s.Layer, given: list[Tensor | None]) -> Tensor | None:
            inputs, op = [train for train in given if train is not None], integer.ops.get(i)
            match op:
                case None:
                    return relay(layer, inputs, signed=integer.grids[i].qmin < 0) if i in integer.grids else None
                case IntConv():
                    total = _integrate(integer.conv(i)[0], op, inputs[0])
                case IntShortcut():
                    total = torch.stack([_currents(train, g) for train, g in zip(inputs, op.gains, strict=True)]).sum(0)
                case IntPool():
                    total = inputs[0].double().sum((0, 3, 4))[..., None, None]
                case _:
                    raise InputError(f"{integer.place(i)}: {type(layer).__name__} has no spiking form")
            if op.requantiser is not None:
                return self._fire(total, Neuron.of(op.requantiser, x.device))
            membranes[i] = total.to(torch.int64)
            return None

        image: Tensor | None = image_levels(x).to(torch.int16)[None]
        trains = run(self.spiking.spec, image, step)
        return Spikes({i: train for i, train in trains.items() if train is not None}, membranes)

    def _fire(self, total: Tensor, neuron: Neuron) -> Tensor:
        """A whole window of one layer, int8 [T,N,C,H,W]."""
        potential, fired = neuron.charge(total), torch.zeros_like(total)
        return torch.stack([neuron.step(potential, fired).to(torch.int8) for _ in range(self.spiking.window)])


def _integrate(layer: s.Conv, op: IntConv, train: Tensor) -> Tensor:
    """A = bias + the weighted spikes, added up step after step; float64 [N,O,H,W].

    What one step carries is a sum of few weights, which float32 holds on a processor: several times as fast.
    """
    largest = int(accumulator_bounds(op.weight, op.bias, int(train.abs().max())).max())
    kind = torch.float32 if largest < FLOAT32_EXACT and train.device.type == "cpu" else torch.float64
    weight = op.weight.to(train.device, kind)
    total: Tensor | None = None
    for spikes in train:
        current = convolve(layer, spikes.to(kind), weight).double()
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


def relay(layer: s.Layer, trains: list[Tensor], *, signed: bool) -> Tensor:
    """Layers without neurons: what arrives in a step leaves in the same step; every [T,N,C,H,W].

    A max pool is the OR over each window. Of signed trains it emits the change of the largest count so far, which is
    -1, 0 or 1.
    """
    steps = max(len(train) for train in trains)
    given = [_last(train, steps) for train in trains]
    if not (signed and isinstance(layer, s.MaxPool)):
        return _each_step(layer, given)
    counted = _each_step(layer, [train.cumsum(0, dtype=torch.int16) for train in given])
    return torch.diff(counted, dim=0, prepend=torch.zeros_like(counted[:1])).to(trains[0].dtype)


def _each_step(layer: s.Layer, trains: list[Tensor]) -> Tensor:
    """A layer that moves values, at every step of its own."""
    widest = max((train.dtype for train in trains), key=lambda kind: kind.itemsize)
    moved = move(layer, [train.flatten(0, 1).float() for train in trains])
    return moved.unflatten(0, trains[0].shape[:2]).to(widest)


def _last(train: Tensor, steps: int) -> Tensor:
    """The image's one step of current among trains of ``steps``: it comes first, then nothing."""
    missing = steps - len(train)
    return torch.cat([train, train.new_zeros(missing, *train.shape[1:])]) if missing else train
