"""The one rule of how long each stage of a chain trains and how hard it pushes, from what there is to learn from.

Steps decide, not epochs: a stage passes over the data so many times (`EPOCHS`), but takes no fewer steps than a network
needs to get anywhere (`LEAST`) and no more than `MOST`. A step over fewer than `FULL` images counts as that share of
one. 4,000 images learn for 10, 9 and 6 epochs, 160 for 14, 40 and 60, a dozen for hundreds: about as many steps.

The penalty s is 0.001 over 2,250 steps, those of the sample set, and grows as the root of the steps that are fewer: a
gamma is moved less far, and it costs more, though both less than the steps are fewer. Over `STRONG` it is let go half
way (--s-schedule decay) at half of the rate, and the baseline teaches: the rest of the steps bring back what it cost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

BASELINE, SPARSE, FINETUNED = "baseline", "sparse", "finetuned"
EPOCHS: Mapping[str, int] = {BASELINE: 10, SPARSE: 9, FINETUNED: 6}
LEAST: Mapping[str, int] = {BASELINE: 140, SPARSE: 400, FINETUNED: 600}  # steps, of networks that know something
SCRATCH = 2500  # steps at least, of a baseline that begins with random weights
MOST = 20_000  # steps
FULL = 16  # images a step, below which it counts as a part of one
S, S_STEPS = 1e-3, 2250  # the penalty, and the steps over which it was chosen
S_RANGE = (1e-4, 1e-2)
STRONG = 2e-3
GENTLE_LR = 0.1  # under a strong penalty, half of train.py's rate and twice the penalty
PATIENCE = (10, 1 / 2)  # epochs at least, and share of a training's, without anything better: it ends


@dataclass(frozen=True)
class TrainingBudget:
    """What a network and its data say before anything is trained.

    ``images`` to train on, optimizer ``steps`` an epoch, and whether the chain begins with ``trained`` weights.
    """

    images: int
    steps: int
    trained: bool

    @property
    def worth(self) -> float:
        """Full steps an epoch."""
        return min(self.steps, self.images / FULL)

    def epochs(self, stage: str) -> int:
        """How often a training stage sees each image."""
        least = SCRATCH if stage == BASELINE and not self.trained else LEAST[stage]
        wanted = max(EPOCHS[stage], math.ceil(least / self.worth))
        return max(1, min(wanted, MOST // self.steps))

    def patience(self, epochs: int) -> int:
        """Epochs without anything better after which a training ends."""
        return max(PATIENCE[0], math.ceil(PATIENCE[1] * epochs))

    def s(self, epochs: int) -> float:
        """Strength of the sparsity penalty for a sparse training of so many epochs, two digits."""
        strength = S * math.sqrt(S_STEPS / (epochs * self.steps))
        strength *= 2 if strength > STRONG else 1
        return float(f"{min(max(strength, S_RANGE[0]), S_RANGE[1]):.2g}")

    def __str__(self) -> str:
        steps = ", ".join(f"{name} {self.epochs(name)}" for name in EPOCHS)
        start = "trained weights" if self.trained else "random weights"
        return f"{self.images:,} training images, {self.steps} steps an epoch, {start}; epochs by the rule: {steps}"
