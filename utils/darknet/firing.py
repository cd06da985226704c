"""Firing and resetting, the two rules of a neuron; and what a neuron makes of a current that never changes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from utils.darknet.neuron_spec import ADAPTATION, NeuronSpec

MIDDLE_GATE = 0.5  # of an ltc whose state is not known: the gates lie in 0..1


def constant_response(neuron: NeuronSpec) -> Callable[[Tensor], Tensor]:
    """What a neuron makes of a current that never changes: the mean of what it sends over all its steps.

    It is what a cut channel whose gamma is 0 sends on, in the mean. Of an ``ltc`` the gates rest at their middle.
    """

    def mean(current: Tensor) -> Tensor:
        membrane, trace, spikes, total = (torch.zeros_like(current) for _ in range(4))
        for _ in range(neuron.timesteps):
            if neuron.kind == "ltc":
                trace = trace + MIDDLE_GATE * (spikes - trace) if neuron.adaptive else trace
                membrane = membrane + MIDDLE_GATE * (current - membrane)
            else:
                membrane = neuron.membrane_decay * membrane + current
            spikes = fired(neuron, membrane, neuron.v_th + ADAPTATION * trace)
            total = total + spikes
            membrane = membrane if neuron.kind == "li" else after_reset(neuron, membrane, spikes)
        return total / neuron.timesteps

    return mean


def fired(neuron: NeuronSpec, membrane: Tensor, threshold: Tensor | float) -> Tensor:
    """What a neuron sends at this membrane: 0 or 1, of an ``ilif`` multiples of its threshold, of an ``li`` itself."""
    if neuron.kind == "ilif":
        return ((membrane / neuron.v_th).clamp(0, neuron.levels) + 0.5).floor() * neuron.v_th
    return membrane if neuron.kind == "li" else (membrane > threshold).to(membrane.dtype)


def after_reset(neuron: NeuronSpec, membrane: Tensor, sent: Tensor) -> Tensor:
    """The membrane behind a spike: hard to 0, soft less what was sent."""
    if neuron.kind == "ilif":
        return membrane - sent
    return membrane * (1 - sent) if neuron.reset == "hard" else membrane - neuron.v_th * sent
