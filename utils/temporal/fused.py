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

from utils.darknet.firing import above, after_reset, fired
from utils.darknet.neuron_spec import NeuronSpec
from utils.temporal.surrogates import RECTANGLE, SURROGATE


class Integrate(torch.autograd.Function):
    """lif, plif and ilif over T steps, with the gradient written out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, v: Tensor, decay: Tensor, neuron: NeuronSpec) -> tuple[Tensor, Tensor]:
        """Current [T, ...], membrane [...], decay [] -> what is sent [T, ...], and the membrane behind it."""
        membrane, sent = torch.empty_like(x), torch.empty_like(x)
        first, d = v, float(decay)
        for current, u, out in zip(x.unbind(), membrane.unbind(), sent.unbind(), strict=True):
            torch.add(current, v, alpha=d, out=u)
            v = after_reset(neuron, u, fired(neuron, u, neuron.v_th, out))
        ctx.save_for_backward(membrane, first, decay)
        ctx.neuron = neuron
        ctx.set_materialize_grads(False)
        return sent, v

    @staticmethod
    def backward(
        ctx: Any, wanted: Tensor | None, after: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        """Back through the steps; see `_through_reset` for what passes a reset.

        dL/du[t] = dL/ds[t] s'(u[t]) + dL/dv[t] dv[t]/du[t]; dL/dx[t] = dL/du[t]; dL/dv[t-1] = d dL/du[t].
        """
        membrane, first, decay = ctx.saved_tensors
        neuron, learned = ctx.neuron, ctx.needs_input_grad[2]
        d, scale = float(decay), 1.0  # of ``after``: it is dL/dv / scale, so that no pass is spent on a factor
        gradient, pull = torch.empty_like(membrane), torch.zeros_like(decay)
        wanted = torch.zeros_like(membrane) if wanted is None else wanted
        steps = list(zip(wanted.unbind(), membrane.unbind(), gradient.unbind(), strict=True))
        for t, (w, u, g) in reversed(list(enumerate(steps))):
            _through_spike(neuron, w, u, g)
            if after is not None:
                g.add_(_through_reset(neuron, u, after), alpha=scale)
            if learned:
                before = first if t == 0 else _behind(neuron, membrane[t - 1])
                pull += (g * before).sum(dtype=pull.dtype)
            after, scale = g, d
        begun = gradient[0] * d if ctx.needs_input_grad[1] else None
        return gradient, begun, pull if learned else None, None


def slope_of(neuron: NeuronSpec) -> Callable[[Tensor], Tensor]:
    """What stands for the derivative of what a neuron sends, as a function of its membrane.

    An ilif's is 1 between 0 and its highest level: the straight-through estimator. A signed neuron has two thresholds,
    and a slope at each.
    """
    if neuron.kind == "ilif":
        return lambda u: torch.eq(u, u.clamp(0, neuron.levels * neuron.v_th), out=torch.empty_like(u))
    steep, v_th = steepness(neuron), neuron.v_th
    if neuron.signed:
        return lambda u: steep(u - v_th).add_(steep(-u - v_th))
    return lambda u: steep(u - v_th)


def steepness(neuron: NeuronSpec) -> Callable[[Tensor], Tensor]:
    """A neuron's surrogate s, as wide as its key says: s(x / w) / w, whose integral is that of s."""
    surrogate, width = SURROGATE[neuron.surrogate], neuron.surrogate_width
    return surrogate if width == 1 else lambda x: surrogate(x / width).div_(width)


def _behind(neuron: NeuronSpec, u: Tensor) -> Tensor:
    return after_reset(neuron, u, fired(neuron, u, neuron.v_th))


def _through_spike(neuron: NeuronSpec, wanted: Tensor, u: Tensor, out: Tensor) -> None:
    """dL/ds ds/du. A rectangle lets pass what lies between two values, as a hard tanh does: one pass over memory."""
    if neuron.kind != "ilif" and neuron.surrogate == "rectangle" and not neuron.signed:
        half = RECTANGLE * neuron.surrogate_width / 2
        torch.ops.aten.hardtanh_backward.grad_input(wanted, u, neuron.v_th - half, neuron.v_th + half, grad_input=out)
        if neuron.surrogate_width != 1:
            out.div_(neuron.surrogate_width)
    else:
        torch.mul(wanted, slope_of(neuron)(u), out=out)


def _through_reset(neuron: NeuronSpec, u: Tensor, after: Tensor) -> Tensor:
    """dL/dv dv/du: dv/du is hard 1 - |s|, soft 1, each with the reset's own gradient where it is not detached."""
    if neuron.kind == "ilif" or (neuron.reset == "soft" and not neuron.reset_gradient):
        return after
    if neuron.reset == "soft":
        return torch.addcmul(after, after, slope_of(neuron)(u), value=-neuron.v_th)
    left = torch.addcmul(after, after, above(u.abs() if neuron.signed else u, neuron.v_th), value=-1)
    if neuron.reset_gradient:
        slope = steepness(neuron)
        steep = slope(u - neuron.v_th)
        if neuron.signed:  # |s| falls where s rises towards 0
            steep = steep - slope(-u - neuron.v_th)
        left.addcmul_(after * u, steep, value=-1)
    return left
