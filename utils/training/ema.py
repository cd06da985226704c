"""The exponential moving average of a network's state; it is what gets validated and saved."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class Ema:
    """``average = d * average + (1 - d) * state`` after every optimizer step, buffers included.

    The decay d ramps up as ``decay * (1 - exp(-updates / ramp))``, so that the random start is forgotten soon. Integer
    buffers (counters) are copied.

    Args:
        model: what is averaged; the average starts as a copy of it.
        decay: final decay, 0 <= decay < 1.
        ramp: updates after which the decay has reached 63 % of its final value.
        copied: whether a tensor of that name is copied instead, because the mean of two of its values is none: a
            power of two, say.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        decay: float = 0.9999,
        ramp: float = 2000.0,
        copied: Callable[[str], bool] = lambda name: False,
    ) -> None:
        self.copied = copied
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay, self.ramp, self.updates = decay, ramp, 0

    def decay_at(self, updates: int) -> float:
        """Decay used in the n-th update, counted from 1."""
        return self.decay * (1 - math.exp(-updates / self.ramp))

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Take one step towards the model's state."""
        self.updates += 1
        weight = 1 - self.decay_at(self.updates)
        average, current = self.model.state_dict(), model.state_dict()
        floats = [name for name, value in average.items() if value.is_floating_point() and not self.copied(name)]
        torch._foreach_lerp_([average[name] for name in floats], [current[name] for name in floats], weight)
        for name in average.keys() - set(floats):
            average[name].copy_(current[name])

    def state_dict(self) -> dict[str, Any]:
        """Average and number of updates."""
        return {"updates": self.updates, "model": self.model.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a saved average."""
        self.updates = int(state["updates"])
        self.model.load_state_dict(state["model"])
