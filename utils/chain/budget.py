"""The one rule of how long each stage of a chain trains and how hard it pushes, from what there is to learn from.

Steps decide, not epochs: a stage passes over the data so many times (`EPOCHS`), but takes no fewer steps than a network
needs to get anywhere (`LEAST`) and no more than `MOST`. A step over fewer than `FULL` images counts as that share of
one. 4,000 images learn for 10, 9 and 6 epochs, 160 for 14, 40 and 60, a dozen for hundreds: about as many steps.

The penalty s is 0.001 over 2,250 steps, those of the sample set, and grows as the root of the steps that are fewer: a
gamma is moved less far, and it costs more, though both less than the steps are fewer. Over `STRONG` it is let go half
way (--s-schedule decay) at half of the rate, and the baseline teaches: the rest of the steps bring back what it cost.

What goes on from the first training uses its rate where it is at least half as long, in proportion less where it is
shorter: a rate undoes what was learnt at the end of a cosine, and that takes as many steps again. The penalty is as
many times larger as the rate is smaller, so that the gammas are moved as far (docs/decisions/138).
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
RATE = 0.2  # train.py's own
GENTLE = 1 / 2  # of the rate under a strong penalty, which is twice as large then
AS_LONG = 1 / 2  # of the first training's steps: a later one so long bears its rate
PATIENCE = (10, 1 / 2)  # epochs at least, and share of a training's, without anything better: it ends


@dataclass(frozen=True)
class Push:
    """Strength of the sparsity penalty and the learning rate beside it."""

    s: float
    lr: float

    @property
    def strong(self) -> bool:
        """Whether it costs so much that the rest of the steps have to bring it back."""
        return self.s > STRONG


@dataclass(frozen=True)
class TrainingBudget:
    """What a network and its data say before anything is trained.

    ``images`` to train on, optimizer ``steps`` an epoch, whether the chain begins with ``trained`` weights, and for how
    many epochs these have ``learnt`` from the same data.
    """

    images: int
    steps: int
    trained: bool
    learnt: int = 0

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

    def rate(self, epochs: int, learnt: int) -> float:
        """Rate of a training of so many epochs that goes on from one of ``learnt`` epochs, two digits.

        What the chain's own weights had learnt before counts as well.
        """
        before = learnt + self.learnt
        return _two_digits(RATE * min(1.0, epochs / (AS_LONG * before))) if before else RATE

    def push(self, epochs: int, learnt: int) -> Push:
        """How a sparse training of so many epochs pushes what learnt for ``learnt`` epochs."""
        strength, rate = S * math.sqrt(S_STEPS / (epochs * self.steps)), self.rate(epochs, learnt)
        if strength > STRONG:
            rate = min(rate, RATE * GENTLE)
        return Push(_two_digits(min(max(strength * RATE / rate, S_RANGE[0]), S_RANGE[1])), rate)

    def __str__(self) -> str:
        steps = ", ".join(f"{name} {self.epochs(name)}" for name in EPOCHS)
        start = "trained weights" if self.trained else "random weights"
        return f"{self.images:,} training images, {self.steps} steps an epoch, {start}; epochs by the rule: {steps}"


def _two_digits(value: float) -> float:
    return float(f"{value:.2g}")
