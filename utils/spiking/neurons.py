"""The integrate-and-fire neuron, twice: step by step, and in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from utils.quantization.integer import Requantiser


@dataclass(frozen=True)
class Neuron:
    """Integrate and fire, reset by subtraction, in the accumulate-then-fire (layerwise) discipline.

    Charge U = A * m[o], where A is the sum of all weighted input spikes and the bias; for leaky, m_neg[o] where A < 0.
    Threshold theta = 2^f; the membrane starts at V = theta / 2, which makes the count round half up. With the counter
    S = 0 at the start of its window, the neuron does in every step

        charge   V <- theta/2 + U                  (once, when its inputs' window is over)
        fire     s = +1 if V >= theta and S < hi;  s = -1 if V < 0 and S > lo;  else 0
        reset    V <- V - s * theta,  S <- S + s

    and so, when the window is long enough, fires clip(floor((U + theta/2) / theta), lo, hi) spikes: the requantised
    level. The unsigned neuron is the one with lo = 0: it never fires a negative spike and needs no counter but the cap.

    Source: the signed neuron is that of Hu et al., Fast-SNN, TPAMI 2023; the cap on S and the exact zero as lower
    threshold make it exact (You et al., SpikeZIP-TF, ICML 2024).
    """

    gain: Tensor  # float64 [1,O,1,1], integers
    gain_negative: Tensor
    theta: float
    qmin: int
    qmax: int

    @classmethod
    def of(cls, by: Requantiser, device: torch.device) -> Neuron:
        """The neuron that counts to what ``by`` requantises to."""
        gain, negative = (
            m.to(device=device, dtype=torch.float64).view(1, -1, 1, 1) for m in (by.multiplier, by.multiplier_neg)
        )
        return cls(gain, negative, 2.0**by.shift, by.qmin, by.qmax)

    @property
    def window(self) -> int:
        """Steps it may need to fire all its spikes."""
        return max(self.qmax, -self.qmin)

    def charge(self, total: Tensor) -> Tensor:
        """V once all input has arrived; ``total`` is A. Exact in float64: every number stays below 2^48."""
        potential = total.to(torch.float64, copy=True)
        if self.qmin < 0:
            potential.mul_(torch.where(potential < 0, self.gain_negative, self.gain))
        else:  # what is negative fires nothing, whatever its gain
            potential.mul_(self.gain)
        return potential.add_(self.theta / 2)

    def count(self, potential: Tensor) -> Tensor:
        """Closed form: the spikes of a whole window, those below zero counted as negative; float64."""
        return potential.div(self.theta).floor_().clamp_(self.qmin, self.qmax)

    def step(self, potential: Tensor, fired: Tensor) -> Tensor:
        """One step of the window, literally.

        Args:
            potential: V, float64; reset in place.
            fired: S, the spikes so far, float64; counted in place.

        Returns:
            Spikes of this step in {-1, 0, 1}, float64.
        """
        up = (potential >= self.theta) & (fired < self.qmax)
        down = (potential < 0) & (fired > self.qmin)
        spikes = up.double() - down.double()
        potential.sub_(spikes, alpha=self.theta)
        fired.add_(spikes)
        return spikes
