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
        membrane += neuron.membrane_start * neuron.v_th
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


def fired(neuron: NeuronSpec, membrane: Tensor, threshold: Tensor | float, out: Tensor | None = None) -> Tensor:
    """What a neuron sends at this membrane: 0 or 1, of an ``ilif`` multiples of its threshold, of an ``li`` itself.

    A signed one sends -1 where the membrane is below the threshold's negative. Source: Guo et al., Ternary Spike, AAAI
    2024, equation 5 (arXiv 2312.06372). What is sent is written to ``out``, where that is given.
    """
    if neuron.kind == "ilif":
        counts = torch.div(membrane, neuron.v_th, out=out).clamp_(0, neuron.levels)
        return counts.add_(0.5).floor_().mul_(neuron.v_th)
    if neuron.kind == "li":
        return membrane
    sent = above(membrane, threshold, out)
    return sent.sub_(above(-membrane, threshold)) if neuron.signed else sent


def above(values: Tensor, least: Tensor | float, out: Tensor | None = None) -> Tensor:
    """1 where values are above, else 0, in their own type and without a gradient; no mask of bool comes between."""
    values = values.detach()
    least = least.detach() if isinstance(least, Tensor) else least
    return torch.gt(values, least, out=torch.empty_like(values) if out is None else out)


def after_reset(neuron: NeuronSpec, membrane: Tensor, sent: Tensor) -> Tensor:
    """The membrane behind a spike: hard to 0, soft less what was sent. Each is one pass over memory."""
    if neuron.kind == "ilif":
        return membrane - sent
    if neuron.reset == "hard":
        return torch.addcmul(membrane, membrane, sent.abs() if neuron.signed else sent, value=-1)
    return torch.sub(membrane, sent, alpha=neuron.v_th)
