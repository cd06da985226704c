"""When a neuron that runs all the time fires: three rules, of which one is exact."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from utils.quantization.integer import Requantiser, in_chunks
from utils.spiking.neurons import Neuron


class StreamingNeuron:
    """A neuron of ``Neuron``'s threshold that fires while its input still arrives.

    Its membrane is V = U(A) + theta/2 - S * theta, where A is the charge so far and U(A) = A * m, with m_neg where
    A < 0: the level-threshold rule, which for leaky is right however often A changes its sign. In every step it fires
    at most once, s = +1 or -1, and counts S <- S + s, as its rule says:

        st-bif      + if V >= theta and S < hi;   - if V < 0 and S > lo
        signed      + if V >= theta;              - if V < 0 and S > lo
        unsigned    + if V >= theta;              where lo < 0 also - if V < 0, and then never the other sign

    Lemma: where "st-bif" has nothing to fire, S = clip(floor((U + theta/2) / theta), lo, hi), the requantised level,
    whatever came in which order. "unsigned" never takes back what it fired too early; "signed" may pass the highest
    level. Fast-SNN's networks have no neuron behind a linear convolution, whose charge goes on to the sum (139).

    Source: Hu et al., Fast-SNN, TPAMI 2023 (unsigned, signed); You et al., SpikeZIP-TF, ICML 2024 (ST-BIF).
    """

    def __init__(self, by: Requantiser, rule: str, device: torch.device) -> None:
        self.neuron = Neuron.of(by, device)
        self.rule = RULES[rule]

    def fire(self, charge: Tensor, count: Tensor) -> Tensor:
        """Spikes of a step in {-1, 0, 1}, float32 [N,C,H,W], of A (float64) and S (float32, counted in place)."""
        spikes = self.rule(self.wanted(charge), count, self.neuron)
        count.add_(spikes)
        return spikes

    def wanted(self, charge: Tensor) -> Tensor:
        """floor((U + theta/2) / theta), unclipped: V >= theta where it is above S, V < 0 where it is below."""
        return in_chunks(charge, lambda part: self.neuron.charge(part).div_(self.neuron.theta).floor_())

    def level(self, charge: Tensor) -> Tensor:
        """What S has to be once everything is settled, float32."""
        return self.wanted(charge).clamp_(self.neuron.qmin, self.neuron.qmax)


def st_bif(wanted: Tensor, count: Tensor, neuron: Neuron) -> Tensor:
    """Both signs, held between the lowest and the highest level."""
    return wanted.clamp_(neuron.qmin, neuron.qmax).sub_(count).clamp_(-1, 1)


def signed(wanted: Tensor, count: Tensor, neuron: Neuron) -> Tensor:
    """Both signs, without an upper end."""
    return wanted.clamp_(min=neuron.qmin).sub_(count).clamp_(-1, 1)


def unsigned(wanted: Tensor, count: Tensor, neuron: Neuron) -> Tensor:
    """Spikes for good: positive ones; where levels are of either sign, of that which a neuron fired first."""
    spikes = wanted.sub_(count).clamp_(-1 if neuron.qmin < 0 else 0, 1)
    return spikes if neuron.qmin >= 0 else spikes.mul_(spikes * count >= 0)


RULES: dict[str, Callable[[Tensor, Tensor, Neuron], Tensor]] = {
    "st-bif": st_bif,
    "signed": signed,
    "unsigned": unsigned,
}
