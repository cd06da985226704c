"""Bias correction: a channel's quantised output gets the mean of its float output.

Source: Nagel et al., Data-free quantization through weight equalization and bias correction, ICCV 2019, section 4.2, in
the empirical form; measured after the activation and its rounding, because that is what the next layer reads. What the
grid clips no bias can bring back, and a few strong answers that are clipped must not lift everything else: the mean
wanted is that of the float output within the grid's reach.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from utils.darknet.activations import ACTIVATIONS
from utils.darknet.spec import Kernel
from utils.quantization.activation_qparams import QParams

ROUNDS = 3
LEAST_ACTIVE = 0.01  # share of a channel's values that must respond to the bias


def correct_bias(
    layer: Kernel,
    bias: Tensor,
    charge: Sequence[Tensor],
    before: Sequence[Tensor],
    target: QParams | None,
    table: QParams | None = None,
) -> Tensor:
    """The corrected bias [O].

    Args:
        layer: the convolution.
        bias: [O], where to start.
        charge: batches [N,O,H,W] of the quantised layer's sums without bias, as real values.
        before: the same of the float network, with its bias.
        target: the output's grid; None for a read-out, which has no activation and no rounding.
        table: the pre-activation's grid where the activation is a table.
    """
    total = sum(y[:, 0].numel() for y in before)
    if target is not None:
        ends = target.qmin * target.scale, target.qmax * target.scale
        before = [ACTIVATIONS[layer.activation](y).clamp(*ends) for y in before]
    for _ in range(ROUNDS):
        lacking = torch.zeros_like(bias)
        active = torch.zeros_like(bias)
        for c, y in zip(charge, before, strict=True):
            got = c + bias.view(-1, 1, 1)
            responds = torch.ones((), dtype=torch.bool)
            if table is not None:
                entry = (got / table.scale + 0.5).floor().clamp(table.qmin, table.qmax)
                responds, got = (entry > table.qmin) & (entry < table.qmax), entry * table.scale
            if target is not None:
                level = (
                    (ACTIVATIONS[layer.activation](got) / target.scale + 0.5).floor().clamp(target.qmin, target.qmax)
                )
                active += (responds & (level > target.qmin) & (level < target.qmax)).sum((0, 2, 3))
                got = level * target.scale
            else:
                active += y[:, 0].numel()
            lacking += (y - got).sum((0, 2, 3))
        step = lacking / active.clamp_min(1)
        bias = bias + torch.where(active > LEAST_ACTIVE * total, step, torch.zeros_like(step))
    return bias
