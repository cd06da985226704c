"""What a weighted shortcut makes of its weights."""

from __future__ import annotations

import torch
from torch import Tensor

EPSILON = 1e-4  # Darknet's, so that a sum of weights can be divided by; the shares add up to a little less than 1


def source_shares(weights: Tensor, normalization: str) -> Tensor:
    """The factor of each source, [sources, ...] like ``weights``.

    Args:
        weights: a shortcut's own, [sources] or [sources, C].
        normalization: ``none``, ``relu`` or ``softmax``; over the sources, each channel for itself.

    Source: Darknet's shortcut_multilayer_cpu (blas.c); Tan et al., EfficientDet, section 3.3 (arXiv 1911.09070).
    """
    if normalization == "none":
        return weights
    positive = weights.relu() if normalization == "relu" else torch.exp(weights - weights.amax(0).detach())
    return positive / (positive.sum(0) + EPSILON)
