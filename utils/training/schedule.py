"""Learning rate and momentum as a function of the step alone, so that a resumed run needs no state for them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch.optim import Optimizer

STEPS = 10  # an epoch of a small set has at least so many: batches made for COCO would leave it two


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A linear warm-up into a cosine that ends at ``final`` times the full rate.

    ``steps`` and ``warmup`` count optimizer steps. During the warm-up the rate of biases falls from ``bias_lr`` instead
    of rising from 0 (None: they rise like the rest): the priors of fresh heads settle before the features move.
    ``cycle`` steps are the first cosine, each further one is ``lengthen`` times as long as the last (0: one for all).

    Source: Loshchilov & Hutter, SGDR, ICLR 2017 (arXiv 1608.03983); the warm-up is that of Goyal et
    al., 2017 (arXiv 1706.02677).
    """

    steps: int
    warmup: int = 0
    final: float = 0.05
    momentum: float = 0.937
    warmup_momentum: float = 0.8
    bias_lr: float | None = None
    cycle: int = 0
    lengthen: int = 2

    def ramp(self, step: int) -> float:
        """How far the warm-up is, 0 < ramp <= 1; the first step already learns."""
        return min(1.0, (step + 1) / (self.warmup + 1))

    def cosine(self, step: int) -> float:
        """1 at step 0 and at the start of a cycle, ``final`` from the last step on."""
        start, length = 0, self.cycle or self.steps
        while self.cycle and start + length <= step:
            start, length = start + length, length * self.lengthen
        progress = min(1.0, (step - start) / max(1, length - 1))
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2

    def rate(self, step: int, full: float, *, bias: bool = False) -> float:
        """Learning rate at a step, for a group whose full rate is ``full``."""
        start = self.bias_lr if bias and self.bias_lr is not None else 0.0
        ramp = self.ramp(step)
        return ramp * full * self.cosine(step) + (1 - ramp) * start

    def momentum_at(self, step: int) -> float:
        """Momentum (or Adam's first beta) at a step."""
        ramp = self.ramp(step)
        return ramp * self.momentum + (1 - ramp) * min(self.warmup_momentum, self.momentum)

    def apply(self, optimizer: Optimizer, step: int) -> None:
        """Set every group's rate and momentum for this step. A group's full rate is its ``initial_lr``."""
        for group in optimizer.param_groups:
            group["lr"] = self.rate(step, group["initial_lr"], bias=group.get("name") == "bias")
            if "momentum" in group:
                group["momentum"] = self.momentum_at(step)
            elif "betas" in group:
                group["betas"] = (self.momentum_at(step), group["betas"][1])


def step_ends(batches: int, accumulate: int) -> list[int]:
    """After how many batches of an epoch each optimizer step is taken; about ``accumulate`` batches a step.

    The batches are dealt out evenly, so the last step of an epoch is never a noisy one over a single leftover batch.
    """
    steps = max(1, round(batches / max(1, accumulate))) if batches else 0
    return [(number + 1) * batches // steps for number in range(steps)]
