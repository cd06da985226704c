"""Bits by layer: sensitivity, a descent, and the real score of a few of its steps.

Images and score are handed in. They should come from training images alone: when validation images take no part in the
choice, what is measured on them afterwards is honest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from utils.darknet.counts import count
from utils.darknet.expand import expand
from utils.darknet.network import Network
from utils.darknet.spec import ModelSpec
from utils.errors import InputError
from utils.quantization.bits import as_written
from utils.quantization.calibrate import calibrate
from utils.quantization.choices import Budget
from utils.quantization.executor import IntegerExecutor
from utils.quantization.lower import lower
from utils.quantization.scheme import Scheme
from utils.quantization.sensitivity import (
    FULL,
    BitCost,
    DamageRow,
    DescentStep,
    bits_by_layer,
    descend,
    scheme_with,
    sensitivity,
)

PROBED = 16  # training images that each unit's damage is measured on

Measure = Callable[[Sequence[Tensor]], float]  # raw maps -> how far they are from those it was made of


@dataclass(frozen=True)
class Trial:
    """A step of the descent and its score.

    ``scheme`` counts layers as the cfg does, ``own`` as the network that has its [se] written out.
    """

    step: DescentStep
    scheme: Scheme
    own: Scheme
    score: float


@dataclass
class TrialScorer:
    """Scores the steps of a descent, and remembers what it has tried.

    ``exact`` is the float network's score, of which ``allowed`` may be lost; ``heading`` the word for it.
    """

    network: Network
    start: Scheme
    images: Sequence[Tensor]
    score: Callable[[nn.Module], float]
    exact: float
    allowed: float
    heading: str
    trials: list[Trial] = field(default_factory=list)

    def accepts(self, step: DescentStep) -> bool:
        """Whether a step stays within the drop; measured, as quantised anew with these bits."""
        expanded, number = expand(self.network)
        scheme = scheme_with(self.start, expanded.spec, step.choice)
        scheme = replace(scheme, layer_bits=as_written(scheme.layer_bits, number))
        integer = lower(calibrate(self.network, self.images, scheme))
        self.trials.append(Trial(step, scheme, integer.scheme, self.score(IntegerExecutor(integer))))
        return self.drop_of(self.trials[-1]) <= self.allowed

    def drop_of(self, trial: Trial) -> float:
        """What a trial lost against the float network."""
        return self.exact - trial.score


@dataclass(frozen=True)
class BitSearch:
    """What a search found, and what it went by.

    ``spec`` has its [se] written out; ``kind`` is what the steps' shares are of, "size" or "bops".
    """

    spec: ModelSpec
    chosen: Trial
    damage: tuple[DamageRow, ...]
    steps: tuple[DescentStep, ...]
    scorer: TrialScorer
    kind: str

    @property
    def layers(self) -> tuple[tuple[int, int, int], ...]:
        """(layer, weight bits, activation bits); 0 where a layer has none."""
        return bits_by_layer(self.chosen.own, self.spec)


def search_bits(
    scorer: TrialScorer,
    size: tuple[int, int],
    distance: Callable[[Sequence[Tensor]], Measure],
    budget: Budget | None = None,
) -> BitSearch:
    """The fewest bits by layer that the scorer accepts, or the first ones within a budget.

    Args:
        scorer: the network, the scheme of 8 bits to start from, calibration images; nothing tried yet.
        size: (height, width) of the images, px.
        distance: raw maps of a network -> how far another's are from them, on the same images.
        budget: to be met; None: as few bit operations as the scorer's drop allows.

    Raises:
        InputError: no bits meet the budget, or those that do cost more than the drop.
    """
    full = calibrate(scorer.network, scorer.images, scorer.start)
    spec = full.network.spec
    probe = torch.cat(list(scorer.images))[:PROBED]
    far = distance(IntegerExecutor(lower(full))(probe))
    rows = sensitivity(full, scorer.images, lambda network: far(IntegerExecutor(network)(probe)))
    macs = {layer.layer: layer.macs for layer in count(spec, size).layers}
    kind = budget.kind if budget else "bops"
    steps = descend(rows, BitCost(spec, kind, macs))
    chosen = _meet(steps, scorer, budget) if budget else _cheapest(steps, scorer)
    return BitSearch(spec, chosen, tuple(rows), tuple(steps), scorer, kind)


def _meet(steps: Sequence[DescentStep], scorer: TrialScorer, budget: Budget) -> Trial:
    """The first step within the budget."""
    inside = next((step for step in steps if step.share <= budget.share), None)
    if inside is None:
        raise InputError(
            f"--budget {budget}: at the fewest bits {steps[-1].share:.3f} of 8 bits is left; ask for no less"
        )
    if scorer.accepts(inside):
        return scorer.trials[-1]
    raise InputError(
        f"--budget {budget}: costs {scorer.drop_of(scorer.trials[-1]):.4f} of {scorer.heading} on training "
        f"images, more than --max-drop {scorer.allowed:g}; raise one of them, or train: train.py --quantized"
    )


def _cheapest(steps: Sequence[DescentStep], scorer: TrialScorer) -> Trial:
    """The last step within the drop, by bisection: damage rises along the descent."""
    good, bad = 0, len(steps)
    best: Trial | None = None
    while bad - good > 1:
        middle = (good + bad) // 2
        if scorer.accepts(steps[middle]):
            good, best = middle, scorer.trials[-1]
        else:
            bad = middle
    if best is not None or scorer.accepts(steps[0]):
        return best or scorer.trials[-1]
    raise InputError(
        f"--max-drop {scorer.allowed:g}: {FULL} bits everywhere cost {scorer.drop_of(scorer.trials[-1]):.4f} of "
        f"{scorer.heading} on training images; allow more, or train: train.py --quantized"
    )
