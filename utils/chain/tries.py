"""What a stage of a chain knows, tries and finds, and what decides over it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from utils.chain.budget import TrainingBudget

EPS = 1e-9
FLOAT_SHARE = 0.5  # of what the chain may lose: the floats' part, the rest is left to the integers


@dataclass(frozen=True)
class Try:
    """A run of a stage: its flags, and why.

    ``start``: number of the earlier try whose best network it goes on from; None: what the stage before left, or with
    ``hardest`` the last network of that stage's first try. Where it is ``refusable`` a refusal is an answer, not the
    end; ``taught``: by the stage's teacher, if it has one.
    """

    flags: tuple[Any, ...] = ()
    why: str = "as asked"
    start: int | None = None
    hardest: bool = False
    refusable: bool = False
    taught: bool = True


@dataclass(frozen=True)
class Tried:
    """How a try ended: its score (None: refused, ``fact`` says why) and that of its best network.

    ``share``: of the channels, that a cut which chose for itself took; ``left``: the share of the parameters it left.
    """

    given: Try
    score: float | None
    best: float | None = None
    fact: str = ""
    share: float | None = None
    left: float | None = None


@dataclass(frozen=True)
class StageView:
    """What a stage knows: the budget, the baseline's score, that of the network it begins with, what may be lost.

    Scores are None before there are any. ``hardest``: that of the first try of the stage before, where it gave way and
    left another one. ``precision``: what the first training computed in, which the later ones keep, so that one chain
    ends in the same digits twice; ``auto`` where it had no choice.
    """

    budget: TrainingBudget
    max_drop: float
    baseline: float | None = None
    before: float | None = None
    hardest: float | None = None
    precision: str = "auto"

    @property
    def kept_precision(self) -> tuple[Any, ...]:
        """The flags of train.py that keep it."""
        return () if self.precision == "auto" else ("--precision", self.precision)

    @property
    def bar(self) -> float:
        """The score that the chain's end has to reach."""
        return (self.baseline or 0.0) - self.max_drop

    @property
    def goal(self) -> float:
        """What the training after the cut should reach: half of what may be lost is left to the integers."""
        return (self.baseline or 0.0) - FLOAT_SHARE * self.max_drop

    @property
    def judged(self) -> bool:
        """Whether scores say anything: where the baseline has less than may be lost, every network keeps the bar."""
        return self.bar > 0

    @property
    def floor(self) -> float:
        """What a stage should not fall under: the bar; where that is lost, what it began with less the drop."""
        before = self.bar if self.before is None else self.before
        return max(self.bar, before - self.max_drop) if before >= self.bar else before - self.max_drop


class Decision(Protocol):
    """What to try. A part of what a chain is known by, so its ``repr`` says all that it depends on."""

    def next(self, seen: StageView, tried: Sequence[Tried]) -> Try | None:
        """The next try; None when there is nothing left to try. Asked first with none tried."""

    def kept(self, seen: StageView, tried: Sequence[Tried]) -> int | None:
        """The number of the try whose network the stage leaves; None: the one that it began with."""


def holds(score: float | None, least: float | None) -> bool:
    """Whether a score is there and reaches the least that is asked."""
    return score is not None and (least is None or score >= least - EPS)
