"""Least squares: the weights that do best on the quantised inputs a layer really gets.

A layer's inputs carry the rounding of all layers before it. Its float output is known on the calibration images, so the
weights that bring the quantised inputs closest to it are a linear regression away. Where a ReLU follows, whatever is
negative in both networks counts as equal.

Source: the asymmetric reconstruction of Nagel et al., Up or down? (AdaRound), ICML 2020, with the weights instead of
their rounding as unknowns; the treatment of the ReLU is majorise-minimise.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.darknet.spec import Conv

LARGEST_FAN_IN = 2500  # inputs of one output; the regression costs their cube
ROUNDS = 4
RIDGE = 0.01  # of the mean squared input; pulls towards the given weights


def sample_positions(
    layer: Conv, inputs: Sequence[Tensor], outputs: Sequence[Tensor], count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The taps and the outputs of random output positions.

    Args:
        layer: the convolution.
        inputs: batches [N,I,H,W].
        outputs: batches [N,O,h,w].
        count: positions over all batches.
        generator: of the choice.

    Returns:
        Taps [P,I,k*k] and outputs [P,O].
    """
    taps, targets = [], []
    total = sum(len(x) for x in inputs)
    for x, y in zip(inputs, outputs, strict=True):
        share = max(1, count * len(x) // total)
        n, top, left = (torch.randint(side, (share,), generator=generator) for side in (y.shape[0], *y.shape[2:]))
        padded = F.pad(x, (layer.pad,) * 4)
        steps = range(0, layer.size * layer.dilation, layer.dilation)
        taps.append(
            torch.stack(
                [padded[n, :, top * layer.stride[0] + dy, left * layer.stride[1] + dx] for dy in steps for dx in steps],
                2,
            )
        )
        targets.append(y[n, :, top, left])
    return torch.cat(taps), torch.cat(targets)


def refit(layer: Conv, weight: Tensor, bias: Tensor, taps: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Weight and bias that bring the taps closest to the target, seen through the activation.

    Args:
        layer: the convolution; its activation decides what counts.
        weight: [O,I/groups,k,k], the start and what the ridge pulls to.
        bias: [O].
        taps: [P,I,k*k] quantised inputs, real values.
        target: [P,O] the float network's output before the activation.

    Returns:
        New weight and bias; the old ones where the fan-in is too large.
    """
    groups, positions = layer.groups, len(taps)
    x = taps.reshape(positions, groups, -1).transpose(0, 1)  # [G,P,K]
    fan_in = x.shape[2]
    if fan_in > LARGEST_FAN_IN or positions < 2 * fan_in:
        return weight, bias
    x = torch.cat([x, torch.ones(groups, positions, 1)], 2)
    y = target.view(positions, groups, -1).transpose(0, 1)  # [G,P,O/G]
    start = torch.cat([weight.view(groups, layer.filters // groups, fan_in), bias.view(groups, -1, 1)], 2)
    w = start.transpose(1, 2)  # [G,K+1,O/G]
    gram = x.transpose(1, 2) @ x / positions
    ridge = RIDGE * gram.diagonal(dim1=1, dim2=2)[:, :-1].mean(1)
    penalty = torch.diag_embed(torch.cat([ridge[:, None].expand(-1, fan_in), ridge[:, None] * 0 + 1e-6], 1) + 1e-8)
    factor = torch.linalg.cholesky((gram + penalty).double())
    first = w
    for _ in range(ROUNDS if layer.activation in ("relu", "relu6") else 1):
        made = x @ w
        wanted = torch.where(y > 0, y, made.clamp(max=0)) if layer.activation in ("relu", "relu6") else y
        slope = x.transpose(1, 2) @ (wanted - made) / positions - penalty @ (w - first)
        w = w + torch.cholesky_solve(slope.double(), factor).float()
    new = w.transpose(1, 2)
    return new[:, :, :-1].reshape(weight.shape), new[:, :, -1].reshape(-1)
