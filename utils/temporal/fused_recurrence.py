"""Recurrent spiking units over all steps at once: one node of autograd's graph, its gradient written out.

What later steps ask of a state is handed back step by step; slopes are found for all steps before that, and gradients
of weights after it, as one product each. What is kept for it are [T, N, U] of each value that cannot be found again.
Only for layers without norms of steps, whose statistics come between; utils/temporal/recurrence.py has the same in
small operations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from utils.darknet.firing import after_reset
from utils.darknet.neuron_spec import ADAPTATION, NeuronSpec
from utils.temporal.surrogates import SURROGATE


class LifSteps(torch.autograd.Function):
    """u[t] = decay v[t-1] + x[t] + R s[t-1], s = 1[u > v_th], v what the reset leaves."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, v: Tensor, s: Tensor, back: Tensor, neuron: NeuronSpec) -> tuple[Tensor, ...]:
        """Current [T, N, U], membrane and spikes before, R [U, U] -> membranes, spikes [T, N, U], membrane behind."""
        u, sent, first = torch.empty_like(x), torch.empty_like(x), s
        for t in range(len(x)):
            torch.addmm(x[t], s, back.t(), out=u[t]).add_(v, alpha=neuron.membrane_decay)
            s = torch.gt(u[t], neuron.v_th, out=sent[t])
            v = after_reset(neuron, u[t], s)
        ctx.save_for_backward(u, sent, first, back)
        ctx.neuron = neuron
        return u, sent, v

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Back through the steps; dv/du is `_left`."""
        u, sent, first, back = ctx.saved_tensors
        wanted_u, wanted_s, after = gradients
        neuron: NeuronSpec = ctx.neuron
        steep = slope_of(neuron)(u - neuron.v_th)
        left = _left(neuron, u, sent, steep)
        gradient, gs = torch.empty_like(u), torch.zeros_like(first)
        for t in range(len(u) - 1, -1, -1):
            g = torch.addcmul(wanted_u[t], wanted_s[t] + gs, steep[t], out=gradient[t]).addcmul_(after, left[t])
            after, gs = neuron.membrane_decay * g, g @ back
        return gradient, after, gs, _outer(gradient, _before(sent, first)), None


class LtcSteps(torch.autograd.Function):
    """Liquid time constants; the weights of a gate are [U, 2 U], of the current and of the state.

    d = x + R s, alpha = sigmoid(M [d; v] + m), rho = sigmoid(A [d; b] + a), b = rho b + (1 - rho) s,
    u = v + alpha (d - v), s = 1[u > v_th + 1.8 b], v = (1 - s) u.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, v: Tensor, b: Tensor, s: Tensor, back: Tensor, fast: Tensor, fast_bias: Tensor,
        slow: Tensor, slow_bias: Tensor, neuron: NeuronSpec,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """x [T, N, U]; states v, b, s [N, U]; weights -> membranes, spikes [T, N, U]; v and b behind them."""
        d, u, traces, alphas, rhos, sent = (torch.empty_like(x) for _ in range(6))
        firsts, width = (v, b, s), x.shape[2]
        both, biases = torch.cat((fast[:, :width], slow[:, :width])).t(), torch.cat((fast_bias, slow_bias))
        of_v, of_b = fast[:, width:].t(), slow[:, width:].t()
        for t in range(len(x)):
            torch.addmm(x[t], s, back.t(), out=d[t])
            alpha, rho = torch.addmm(biases, d[t], both).chunk(2, 1)
            torch.addmm(alpha, v, of_v, out=alphas[t]).sigmoid_()
            torch.addmm(rho, b, of_b, out=rhos[t]).sigmoid_()
            b = torch.lerp(s, b, rhos[t], out=traces[t])
            torch.lerp(v, d[t], alphas[t], out=u[t])
            s = torch.gt(u[t].sub(b, alpha=ADAPTATION), neuron.v_th, out=sent[t])
            v = u[t] * (1 - s)
        ctx.save_for_backward(d, u, traces, alphas, rhos, sent, *firsts, back, fast, slow)
        ctx.neuron = neuron
        return u, sent, v, traces[-1].clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Back through the steps: gm and ga are the gradients of the gates' sums."""
        d, u, traces, alphas, rhos, sent, v, b, s, back, fast, slow = ctx.saved_tensors
        wanted_u, wanted_s, gv, gb = gradients
        neuron: NeuronSpec = ctx.neuron
        steep = slope_of(neuron)(u.sub(traces, alpha=ADAPTATION) - neuron.v_th)
        before_v, before_b, before_s = _before(u * (1 - sent), v), _before(traces, b), _before(sent, s)
        fast_slope = (d - before_v) * alphas * (1 - alphas)
        slow_slope = (before_b - before_s) * rhos * (1 - rhos)
        stays, width = 1 - sent, u.shape[2]
        of_d, of_v, of_b = torch.cat((fast[:, :width], slow[:, :width])), fast[:, width:], slow[:, width:]
        gd, gates, gs = torch.empty_like(u), u.new_empty(*u.shape[:2], 2 * width), torch.zeros_like(s)
        gm, ga = gates.chunk(2, 2)
        for t in range(len(u) - 1, -1, -1):
            g = wanted_s[t] + gs
            g = (torch.addcmul(g, gv, u[t], value=-1) if neuron.reset_gradient else g).mul_(steep[t])
            gb = gb.sub(g, alpha=ADAPTATION)
            gu = g.add_(wanted_u[t]).addcmul_(gv, stays[t])
            torch.mul(gu, fast_slope[t], out=gm[t])
            torch.mul(gb, slow_slope[t], out=ga[t])
            torch.addmm(gu * alphas[t], gates[t], of_d, out=gd[t])
            gv = torch.addmm(gu.addcmul(gu, alphas[t], value=-1), gm[t], of_v)
            gs = torch.addmm(gb.addcmul(gb, rhos[t], value=-1), gd[t], back)
            gb = torch.addmm(gb * rhos[t], ga[t], of_b)
        to_fast = torch.cat((_outer(gm, d), _outer(gm, before_v)), 1)
        to_slow = torch.cat((_outer(ga, d), _outer(ga, before_b)), 1)
        biases = gm.sum((0, 1)), ga.sum((0, 1))
        return gd, gv, gb, gs, _outer(gd, before_s), to_fast, biases[0], to_slow, biases[1], None


def slope_of(neuron: NeuronSpec) -> Callable[[Tensor], Tensor]:
    """What stands for the derivative of a spike, of membrane minus threshold."""
    return SURROGATE[neuron.surrogate]


def _left(neuron: NeuronSpec, u: Tensor, sent: Tensor, steep: Tensor) -> Tensor:
    """dv/du of a reset: hard 1 - s, soft 1, each with the reset's own gradient where it is not detached."""
    if neuron.reset == "hard":
        return 1 - sent - u * steep if neuron.reset_gradient else 1 - sent
    return 1 - neuron.v_th * steep if neuron.reset_gradient else torch.ones_like(u)


def _before(values: Tensor, first: Tensor) -> Tensor:
    """[T, N, U] -> the same one step earlier, ``first`` [N, U] in front."""
    return torch.cat((first[None], values[:-1]))


def _outer(gradient: Tensor, read: Tensor) -> Tensor:
    """Of a product W r at every step: dL/dW [U, R], the sum over steps and sequences."""
    return gradient.flatten(0, 1).t() @ read.flatten(0, 1)
