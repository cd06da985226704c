"""A short probe of a sparsity penalty: what pushing so far costs, before a run is spent on it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from utils.pruning.penalty import SparsityPenalty

RATE, MOMENTUM = 0.01, 0.9  # of the probe: gentle, since no warm-up goes before it


def pushed(
    model: nn.Module,
    batches: Sequence[Any],
    far: float,
    penalty: SparsityPenalty,
    *,
    inputs: Callable[[Any], Tensor],
    loss: Callable[[Any, Any], Mapping[str, Tensor]],
) -> nn.Module:
    """A copy of a model whose gammas were pushed so far in as many steps as there are batches, learning meanwhile.

    A run has more steps to make up for it, so that this is an upper bound of what its push costs.

    Args:
        model: it is not changed.
        batches: of training images, a step each.
        far: what the whole run would move a gamma by, see `penalty.reach`.
        penalty: which gammas.
        inputs: batch -> what the model takes.
        loss: of its outputs and the batch; "total" is minimised.

    Returns:
        nn.Module: in eval mode.
    """
    twin = copy.deepcopy(model).train()
    mine = copy.copy(penalty)
    mine.s = far * (1 - MOMENTUM) / (RATE * len(batches))
    optimizer = torch.optim.SGD(twin.parameters(), lr=RATE, momentum=MOMENTUM)
    for batch in batches:
        optimizer.zero_grad(set_to_none=True)
        loss(twin(inputs(batch)), batch)["total"].backward()
        nn.utils.clip_grad_norm_(twin.parameters(), 10.0)
        mine(twin.named_parameters())
        optimizer.step()
    return twin.eval()
