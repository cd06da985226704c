"""Neurons that integrate and fire over all steps at once: one node of autograd's graph, not T times its small ones.

    u[t] = d v[t-1] + x[t]          charge; v is the membrane behind a reset, d the decay
    s[t] = fired(u[t])              fire
    v[t] = after_reset(u[t], s[t])  reset

What is kept for the gradient is u alone, [T, ...]; spikes are found again from it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from utils.darknet.firing import after_reset, fired
from utils.darknet.neuron_spec import NeuronSpec
from utils.temporal.surrogates import SURROGATE


class Integrate(torch.autograd.Function):
    """lif, plif and ilif over T steps, with the gradient written out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, v: Tensor, decay: Tensor, neuron: NeuronSpec) -> tuple[Tensor, Tensor]:
        """Current [T, ...], membrane [...], decay [] -> what is sent [T, ...], and the membrane behind it."""
        membrane, sent = torch.empty_like(x), torch.empty_like(x)
        first, d = v, float(decay)
        for t in range(len(x)):
            u = torch.add(x[t], v, alpha=d, out=membrane[t])
            sent[t] = fired(neuron, u, neuron.v_th)
            v = after_reset(neuron, u, sent[t])
        ctx.save_for_backward(membrane, first, decay)
        ctx.neuron = neuron
        return sent, v

    @staticmethod
    def backward(ctx: Any, wanted: Tensor, after: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:
        """Back through the steps; see `_through_reset` for what passes a reset.

        dL/du[t] = dL/ds[t] s'(u[t]) + dL/dv[t] dv[t]/du[t]; dL/dx[t] = dL/du[t]; dL/dv[t-1] = d dL/du[t].
        """
        membrane, first, decay = ctx.saved_tensors
        neuron, learned = ctx.neuron, ctx.needs_input_grad[2]
        slope, d = slope_of(neuron), float(decay)
        gradient, pull = torch.empty_like(membrane), torch.zeros_like(decay)
        for t in range(len(membrane) - 1, -1, -1):
            u = membrane[t]
            steep = slope(u)
            g = torch.mul(wanted[t], steep, out=gradient[t])
            g.addcmul_(after, _through_reset(neuron, u, steep)) if neuron.kind != "ilif" else g.add_(after)
            if learned:
                before = first if t == 0 else _behind(neuron, membrane[t - 1])
                pull += (g * before).sum(dtype=pull.dtype)
            after = g * d
        return gradient, after, pull if learned else None, None


def slope_of(neuron: NeuronSpec) -> Callable[[Tensor], Tensor]:
    """What stands for the derivative of what a neuron sends, as a function of its membrane.

    An ilif's is 1 between 0 and its highest level: the straight-through estimator.
    """
    if neuron.kind == "ilif":
        return lambda u: ((u >= 0) & (u <= neuron.levels * neuron.v_th)).to(u.dtype)
    surrogate = SURROGATE[neuron.surrogate]
    return lambda u: surrogate(u - neuron.v_th)


def _behind(neuron: NeuronSpec, u: Tensor) -> Tensor:
    return after_reset(neuron, u, fired(neuron, u, neuron.v_th))


def _through_reset(neuron: NeuronSpec, u: Tensor, steep: Tensor) -> Tensor:
    """dv/du: hard 1 - s, soft 1, each with the reset's own gradient where it is not detached."""
    if neuron.reset == "hard":
        stays = (u <= neuron.v_th).to(u.dtype)
        return stays - u * steep if neuron.reset_gradient else stays
    return 1 - neuron.v_th * steep if neuron.reset_gradient else torch.ones_like(u)
