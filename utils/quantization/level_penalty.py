"""Levels cost something: in training a term that pushes them down, since in spikes they are what is paid for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from utils.quantization.fake import FakeQuantised

Loss = Callable[[Any, Any], Mapping[str, Tensor]]


def sparing(loss: Loss, model: nn.Module, strength: float) -> Loss:
    """The loss with ``strength`` times the mean level of the model's pass beside it, as the term "levels"."""
    if not strength:
        return loss
    assert isinstance(model, FakeQuantised)
    model.counting = True

    def both(raw: Any, batch: Any) -> Mapping[str, Tensor]:
        terms, pushed = loss(raw, batch), strength * model.mean_level()
        return {**terms, "levels": pushed, "total": terms["total"] + pushed}

    return both


def timed(model: nn.Module, penalty: Callable[[int], None] | None, steps: int) -> Callable[[int], None] | None:
    """The penalty of each step; before it, a quantised model is told how far the run is."""
    if not isinstance(model, FakeQuantised):
        return penalty

    def each(step: int) -> None:
        model.at((step + 1) / steps)
        if penalty:
            penalty(step)

    return each
