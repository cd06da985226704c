"""Layers whose units read what all of them sent at the step before: LIF and LTC units, and an LSTM to compare with.

Their state is [N, U]; what they read and send is [T, N, C, 1, 1], as that of any other neuron. All of it is computed
in fp32, whatever autocast says: a membrane that moves by a hundredth a step stands still in 8 bits. Norms of steps have
statistics for each of the first S steps, and a later step takes those of the last: Cooijmans et al., Recurrent Batch
Normalization, ICLR 2017, section 3 (arXiv 1603.09025).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from utils.darknet import spec as s
from utils.darknet.firing import after_reset
from utils.darknet.fold import BN_EPS
from utils.darknet.neuron_spec import ADAPTATION, NeuronSpec
from utils.darknet.walk import rule
from utils.temporal.fused_recurrence import LifSteps, LtcSteps
from utils.temporal.neurons import Memory, StatefulNeuron
from utils.temporal.surrogates import SURROGATE, Spike

GAMMA = 0.5  # where gammas start: at an ltc's threshold, 0.1, hardly a unit fires, and it learns half as fast


class StepNorm(nn.Module):
    """Batch norm without a shift, the statistics of each of the first ``steps`` steps its own."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int, steps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), GAMMA))
        self.register_buffer("running_mean", torch.zeros(steps, width))
        self.register_buffer("running_var", torch.ones(steps, width))

    def forward(self, x: Tensor, step: int) -> Tensor:
        """[N, U] of a step, counted from 0 -> alike."""
        n = min(step, len(self.running_mean) - 1)
        mean, var = self.running_mean[n], self.running_var[n]  # views: training moves the statistics in place
        return F.batch_norm(x, mean, var, self.weight, None, self.training, 0.1, BN_EPS)


class Recurrence(StatefulNeuron):
    """A layer's units, whatever they are."""

    def unroll(self, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """[T, N, C, 1, 1] and the state before -> what is sent [T, N, U, 1, 1], and the state behind."""
        with torch.autocast(x.device.type, enabled=False):
            sent, memory = self.over_steps(x.float().flatten(2), memory)
        return sent[..., None, None], memory

    def over_steps(self, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """[T, N, C] and the state before -> [T, N, U], and the state behind."""
        raise NotImplementedError


class SpikingRecurrence(Recurrence):
    """What [lif_rnn] and [ltc_rnn] have in common: d = norm(W x) + norm(R s) + bias, s what was sent before.

    Attributes:
        fired: spikes a unit and step of the last pass, a scalar; what a firing rate is made of.
    """

    kept = 2  # tensors [N, U] of a state, spikes last

    def __init__(self, layer: s.SpikingRnn, neuron: NeuronSpec, given: int) -> None:
        super().__init__(neuron)
        width, steps = layer.filters, layer.step_norm
        self.layer = layer
        self.input, self.back = nn.Linear(given, width), nn.Linear(width, width, bias=False)
        nn.init.xavier_normal_(self.input.weight)
        nn.init.orthogonal_(self.back.weight)
        nn.init.zeros_(self.input.bias)
        self.input_norm = StepNorm(width, steps) if steps else None
        self.back_norm = StepNorm(width, steps) if steps else None
        self.slope: Callable[[Tensor], Tensor] = SURROGATE[neuron.surrogate]
        self.fired = torch.zeros(())
        self.fused = not steps and (layer.neuron_kind != "ltc" or neuron.adaptive)

    def start(self, like: Tensor) -> Memory:
        """Units at rest, and the number of the first step, which norms of steps count by."""
        zeros = like.new_zeros(len(like), self.layer.filters, dtype=torch.float32)
        return (*(zeros,) * self.kept, torch.zeros((), dtype=torch.int64))

    def over_steps(self, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """All steps as one node of the graph; where there are norms of steps, one after the other."""
        if self.fused:
            membranes, sent, behind = self.at_once(F.linear(x, self.input.weight, self.input.bias), memory[:-1])
            self.fired = sent.detach().mean()
            return membranes if self.layer.sends == "membrane" else sent, (*behind, memory[-1] + len(x))
        return self.one_by_one(x, memory)

    def at_once(self, x: Tensor, units: Memory) -> tuple[Tensor, Tensor, Memory]:
        """Currents [T, N, U] from outside and the units' state -> membranes, spikes [T, N, U], the state behind."""
        raise NotImplementedError

    def one_by_one(self, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """`over_steps` in small operations."""
        *state, begin = memory
        first, units = int(begin), tuple(state)
        arriving = F.linear(x, self.input.weight)
        sent, fired = [], torch.zeros((), device=x.device)
        for t, current in enumerate(arriving, start=first):
            back = self.back(units[-1])
            if self.input_norm is not None and self.back_norm is not None:
                current, back = self.input_norm(current, t), self.back_norm(back, t)
            u, units = self.charged(current + back + self.input.bias, units)
            sent.append(u if self.layer.sends == "membrane" else units[-1])
            fired += units[-1].detach().mean()
        self.fired = fired / len(x)
        return torch.stack(sent), (*units, begin + len(x))

    def charged(self, d: Tensor, units: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """A current [N, U] and the units' state -> the membrane before its reset, and the state behind it."""
        raise NotImplementedError

    def spike(self, u: Tensor, theta: Tensor | float) -> tuple[Tensor, Tensor]:
        """Membrane and threshold -> what is left of the membrane, and the spikes."""
        sent: Tensor = Spike.apply(u - theta, self.slope)
        return after_reset(self.neuron, u, sent if self.neuron.reset_gradient else sent.detach()), sent


class LifRecurrence(SpikingRecurrence):
    """u = decay v + d, s = 1[u > v_th], v what the reset leaves."""

    def at_once(self, x: Tensor, units: Memory) -> tuple[Tensor, Tensor, Memory]:
        """All steps."""
        u, sent, v = LifSteps.apply(x, *units, self.back.weight, self.neuron)
        return u, sent, (v, sent[-1])

    def charged(self, d: Tensor, units: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One step."""
        u = self.neuron.membrane_decay * units[0] + d
        return u, self.spike(u, self.neuron.v_th)


class LtcRecurrence(SpikingRecurrence):
    """Liquid time constants, their gates dense: alpha of [d; u], rho of [d; b].

        u += alpha (d - u),  b = rho b + (1 - rho) s,  theta = v_th + 1.8 b

    Source: Yin, Corradi, Bohte, 2022 (arXiv 2112.11231), equations 10 to 13; b starts at 0.
    """

    kept = 3

    def __init__(self, layer: s.SpikingRnn, neuron: NeuronSpec, given: int) -> None:
        super().__init__(layer, neuron, given)
        width = layer.filters
        self.tau_m = nn.Linear(2 * width, width)
        self.tau_adp = nn.Linear(2 * width, width) if neuron.adaptive else None
        for gate in (self.tau_m, self.tau_adp):
            if gate is not None:
                nn.init.xavier_normal_(gate.weight)
                nn.init.zeros_(gate.bias)

    def at_once(self, x: Tensor, units: Memory) -> tuple[Tensor, Tensor, Memory]:
        """All steps."""
        slow = self.tau_adp
        assert slow is not None
        gates = self.tau_m.weight, self.tau_m.bias, slow.weight, slow.bias
        u, sent, v, b = LtcSteps.apply(x, *units, self.back.weight, *gates, self.neuron)
        return u, sent, (v, b, sent[-1])

    def charged(self, d: Tensor, units: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One step."""
        u, b, before = units
        theta: Tensor | float = self.neuron.v_th
        if self.tau_adp is not None:
            rho = self.tau_adp(torch.cat((d, b), 1)).sigmoid()
            b = torch.lerp(before, b, rho)
            theta = self.neuron.v_th + ADAPTATION * b
        u = torch.lerp(u, d, self.tau_m(torch.cat((d, u), 1)).sigmoid())
        left, sent = self.spike(u, theta)
        return u, (left, b, sent)


class LstmRecurrence(Recurrence):
    """torch's LSTM of one layer; its state is (h, c)."""

    def __init__(self, layer: s.Lstm, given: int) -> None:
        nn.Module.__init__(self)
        self.cell = nn.LSTM(given, layer.filters)

    def start(self, like: Tensor) -> Memory:
        """Zeros."""
        zeros = like.new_zeros(len(like), self.cell.hidden_size, dtype=torch.float32)
        return zeros, zeros

    def over_steps(self, x: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """h at every step; the state is (h, c)."""
        h, c = (value[None] for value in memory)
        out, (h, c) = self.cell(x, (h, c))
        return out, (h[0], c[0])

    def extra_repr(self) -> str:
        """Nothing beside the cell's own."""
        return ""


def firing_rates(model: nn.Module) -> dict[str, float]:
    """Spikes a unit and step in the last pass, of each recurrent layer that spikes, by the module's name."""
    layers = {name: module for name, module in model.named_modules() if isinstance(module, SpikingRecurrence)}
    return {name: float(module.fired) for name, module in layers.items()}


def make_recurrence(spec: s.ModelSpec, i: int, given: int) -> Recurrence:
    """The module of a recurrent layer that reads so many channels."""
    return rule(RECURRENCES, spec.recurrent[i], "module")(spec, spec.recurrent[i], given)


RECURRENCES: dict[type[s.Layer], Callable[[s.ModelSpec, Any, int], Recurrence]] = {
    s.LtcRnn: lambda spec, layer, given: LtcRecurrence(layer, spec.neuron_of(layer), given),
    s.LifRnn: lambda spec, layer, given: LifRecurrence(layer, spec.neuron_of(layer), given),
    s.Lstm: lambda spec, layer, given: LstmRecurrence(layer, given),
}
