"""What a weighted shortcut makes of its weights, and any shortcut of maps of another shape."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.darknet.reorder import insert_zeros

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


def fitted(x: Tensor, filters: int, stride: int = 1, spread: int = 1) -> Tensor:
    """The first ``filters`` channels of [N, C, H, W], zeros for those that lack; every ``stride``-th px, or px apart.

    Source: Darknet's shortcut_cpu (blas.c).
    """
    x = x[:, :filters]
    x = x[:, :, ::stride, ::stride] if stride > 1 else x
    x = insert_zeros(x, spread) if spread > 1 else x
    return F.pad(x, (0, 0, 0, 0, 0, filters - x.shape[1])) if x.shape[1] < filters else x


def alike(inputs: Sequence[Tensor]) -> list[Tensor]:
    """The sources of a shortcut [N, C, H, W], all in the shape of the first."""
    (_, wide, height, width) = inputs[0].shape
    found = [inputs[0]]
    for x in inputs[1:]:
        stride, spread = max(1, x.shape[2] // height), max(1, height // x.shape[2])
        one = fitted(x, wide, stride, spread)
        if one.shape[2:] != (height, width):
            raise ValueError(f"a sum cannot join maps of {height}x{width} and {x.shape[2]}x{x.shape[3]}")
        found.append(one)
    return found
