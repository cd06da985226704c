"""Neurons with state: charge, fire, reset. Each runs T steps at once or one at a time, with the same result."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from utils.darknet.firing import after_reset, fired
from utils.darknet.neuron_spec import ADAPTATION, UNROUNDED, NeuronSpec
from utils.darknet.spec import ModelSpec
from utils.errors import InputError
from utils.temporal.fused import Integrate
from utils.temporal.hardware import Leak
from utils.temporal.straight_through import rounded_membrane
from utils.temporal.surrogates import SURROGATE, Spike

Memory = tuple[Tensor, ...]  # what a neuron keeps from step to step, each as large as one step's current


class StatefulNeuron(nn.Module):
    """An activation that keeps state; ``neuron`` says how it was chosen."""

    def __init__(self, neuron: NeuronSpec) -> None:
        super().__init__()
        self.neuron = neuron

    def start(self, like: Tensor) -> Memory:
        """State before the first step, the same for all: inference never depends on a random generator.

        Args:
            like: one step's current, [N, C, H, W].
        """
        return (torch.zeros_like(like),)

    def unroll(self, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Currents [T, N, C, H, W] and the state before them -> what is sent, alike, and the state behind it."""
        sent = []
        for current in x:
            out, memory = self.step(current, memory)
            sent.append(out)
        return torch.stack(sent), memory

    def step(self, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """One step of `unroll`: [N, C, H, W]."""
        sent, memory = self.unroll(x[None], memory)
        return sent[0], memory

    def forward(self, x: Tensor) -> Tensor:
        """Currents [T, N, C, H, W] from rest -> what is sent, alike."""
        return self.unroll(x, self.start(x[0]))[0]

    def extra_repr(self) -> str:
        """The neuron's choices."""
        return str(self.neuron)


class IntegrateAndFire(StatefulNeuron):
    """lif, and ilif, which in training sends whole numbers of its threshold.

    ``grid`` holds the units of its currents, [C, 1, 1], where these are whole numbers (hardware.py); its layer sets it.
    ``rounds``: whether, in training, what is sent is whole: levels of an ilif, spikes of a lif whose rates count. Else
    an ilif sends what it would round, and a lif at every step the rate that it would have over all of them.
    """

    def __init__(self, neuron: NeuronSpec) -> None:
        super().__init__(neuron)
        self.grid: Tensor | None = None
        self.rounds = True

    def start(self, like: Tensor) -> Memory:
        """The membrane's own start."""
        return (torch.full_like(like, self.neuron.membrane_start * self.neuron.v_th),)

    def unroll(self, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """All steps as one node of the graph; where membranes are rounded, step by step."""
        if self.grid is not None and not self.training:
            return self._in_whole_numbers(x, memory[0], self.grid)
        if self.neuron.membrane_bits:
            return super().unroll(x, memory)
        if self.training and not self.rounds:
            return self._unrounded(x, memory[0])
        sent, v = Integrate.apply(x, memory[0], self.decay(), self.neuron)
        return sent, (v,)

    @property
    def sends_rates(self) -> bool:
        """Whether it sends a rate now, which is the same at every step of the same current."""
        return self.training and not self.rounds and self.neuron.kind == "lif"

    def step(self, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """One step."""
        if self.grid is not None and not self.training:
            sent, memory = self._in_whole_numbers(x[None], memory[0], self.grid)
            return sent[0], memory
        if self.training and not self.rounds:
            sent, memory = self._unrounded(x[None], memory[0])
            return sent[0], memory
        sent, v = Integrate.apply(x[None], memory[0], self.decay(), self.neuron)
        bits = self.neuron.membrane_bits
        return sent[0], (rounded_membrane(v, bits) if bits else v,)

    def _in_whole_numbers(self, x: Tensor, v: Tensor, grid: Tensor) -> tuple[Tensor, Memory]:
        """Steps whose decay is a shift of whole numbers of the grid; float32 holds all of them exactly."""
        leak, sent = Leak.of(self.neuron.membrane_decay), torch.empty_like(x)
        assert leak is not None
        for t in range(len(x)):
            u = leak(v / grid) * grid + x[t]
            sent[t] = fired(self.neuron, u, self.neuron.v_th)
            v = after_reset(self.neuron, u, sent[t])
        return sent, (v,)

    def _unrounded(self, x: Tensor, v: Tensor) -> tuple[Tensor, Memory]:
        """Steps without rounding: an ilif's gradient is what goes straight through the rounding as well.

        A lif that forgot nothing and charged x a step would fire x / v_th of its steps, rounded down; what
        `initial_beta` adds for the rounding's sake is taken off.
        """
        if self.neuron.kind == "lif":
            return ((x - self.neuron.to_nearest) / self.neuron.v_th).clamp(0, 1), (v,)
        sent = []
        for current in x:
            u = self.decay() * v + current
            sent.append(u.clamp(0, self.neuron.levels * self.neuron.v_th))
            v = u - sent[-1].detach()
        return torch.stack(sent), (v,)

    def decay(self) -> Tensor:
        """Share of the membrane that is left after a step, a scalar."""
        return torch.tensor(self.neuron.membrane_decay)


class ParametricIntegrateAndFire(IntegrateAndFire):
    """plif: a lif whose decay is learned, one for a layer, as the sigmoid of ``rate``.

    Source: Fang et al., ICCV 2021 (arXiv 2007.05785), without their factor of 1 - decay on the current.
    """

    def __init__(self, neuron: NeuronSpec) -> None:
        super().__init__(neuron)
        d = min(max(neuron.membrane_decay, 1e-4), 1 - 1e-4)
        self.rate = nn.Parameter(torch.tensor([math.log(d / (1 - d))]))

    def decay(self) -> Tensor:
        """The learned one."""
        return self.rate.sigmoid()[0]


class LeakyIntegrator(StatefulNeuron):
    """li: the membrane itself, leaking and without spikes; a read-out."""

    def step(self, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """u = d u + x."""
        u = self.neuron.membrane_decay * memory[0] + x
        return u, (u,)


class LiquidTimeConstant(StatefulNeuron):
    """ltc: gates decide, for each unit and step, how fast membrane and threshold follow.

        alpha = sigmoid(tau_m * (d + u)),  u += alpha (d - u)
        rho = sigmoid(tau_adp * (d + b)),  b = rho b + (1 - rho) s,  theta = v_th + 1.8 b
        s = 1[u > theta],                  u = (1 - s) u

    d is the current, * a convolution by the gate's kernel. Source: Yin, Corradi, Bohte, Accurate online training of
    dynamical spiking neural networks through Forward Propagation Through Time, 2022 (arXiv 2112.11231), whose gates
    have batch norm, ours a bias; b starts at 0.
    """

    def __init__(self, neuron: NeuronSpec, channels: int) -> None:
        super().__init__(neuron)
        side = 1 if neuron.gate == "pointwise" else 3
        groups = channels if neuron.gate == "depthwise" else 1
        self.tau_m = nn.Conv2d(channels, channels, side, padding=side // 2, groups=groups)
        self.tau_adp = (
            nn.Conv2d(channels, channels, side, padding=side // 2, groups=groups) if neuron.adaptive else None
        )
        self.slope: Callable[[Tensor], Tensor] = SURROGATE[neuron.surrogate]

    def start(self, like: Tensor) -> Memory:
        """Membrane, trace of its spikes, spikes of the step before."""
        return tuple(torch.zeros_like(like) for _ in range(3))

    def step(self, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """One step, as above."""
        u, b, before = memory
        theta: Tensor | float = self.neuron.v_th
        if self.tau_adp is not None:
            rho = self.tau_adp(x + b).sigmoid()
            b = rho * b + (1 - rho) * before
            theta = self.neuron.v_th + ADAPTATION * b
        u = u + self.tau_m(x + u).sigmoid() * (x - u)
        s: Tensor = Spike.apply(u - theta, self.slope)
        u = after_reset(self.neuron, u, s if self.neuron.reset_gradient else s.detach())
        return s, (u, b, s)


def check_rounding(spec: ModelSpec, said: float | None) -> None:
    """Refuse ``--round-from``, where it is ``said``, for a network none of whose neurons has levels or rates.

    Raises:
        InputError: so it is.
    """
    if said is not None and not any(_learns_unrounded(each, spec.input_frames) for each in spec.neurons.values()):
        raise InputError(
            "--round-from: no neuron of this network has levels, or rates of a still image; add --spiking ilif or lif, "
            "or leave it away"
        )


def unrounded(spec: ModelSpec, epochs: int, share: float | None = None) -> int:
    """Of so many epochs, the first ones in which a fresh network's neurons do not send whole numbers.

    Args:
        spec: the network.
        epochs: of its training.
        share: of them; None: `UNROUNDED` of the kind of its neurons, the least where there are several.

    Source: Jacob et al., CVPR 2018, section 3.1, whose activations are not quantised at the start either (arXiv
    1712.05877).
    """
    usual = [UNROUNDED[each.kind] for each in spec.neurons.values() if _learns_unrounded(each, spec.input_frames)]
    return int(epochs * (min(usual, default=0.0) if share is None else share))


def let_round(model: nn.Module, rounds: bool) -> None:
    """Say whether a model's neurons send whole numbers in training; in eval mode they always do."""
    frames = bool(getattr(getattr(model, "spec", None), "input_frames", False))
    for module in model.modules():
        if isinstance(module, IntegrateAndFire) and _learns_unrounded(module.neuron, frames):
            module.rounds = rounds


def _learns_unrounded(neuron: NeuronSpec, frames: bool) -> bool:
    """Whether a neuron can send floats at first: of frames, each its own, a lif's rates would have no order in time."""
    return neuron.kind == "ilif" or (neuron.rate_codes and not frames)


def make_neuron(neuron: NeuronSpec, channels: int) -> StatefulNeuron:
    """The module of a neuron for so many channels."""
    if neuron.kind == "ltc":
        return LiquidTimeConstant(neuron, channels)
    return KINDS[neuron.kind](neuron)


KINDS: dict[str, Callable[[NeuronSpec], StatefulNeuron]] = {
    "lif": IntegrateAndFire,
    "ilif": IntegrateAndFire,
    "plif": ParametricIntegrateAndFire,
    "li": LeakyIntegrator,
}
