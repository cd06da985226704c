"""What each stage of a chain tries, and what it tries next: from scores alone, so that a cut chain finds its way.

A decision is asked for the next try until it has none, then for the one to keep. The same scores give the same answers;
nothing is remembered between the questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from utils.chain.budget import BASELINE, FINETUNED, RATE, SPARSE, Push, TrainingBudget
from utils.chain.tries import StageView, Tried, Try, holds

HALVINGS = 2  # of s, and of the rate after a cut
HALF = 0.5  # of the parameters: what a chain that may choose takes away at least, where training can follow
GIVES_BACK = 3  # times what the chain may lose: training after a cut has given back so much (docs/decisions/023)
A_BITS = (4, 5, 6, 8)
AUTO = "the largest that the pre-flight and the drop allow"


@dataclass(frozen=True)
class Once:
    """The flags as they are."""

    def next(self, seen: StageView, tried: Sequence[Tried]) -> Try | None:
        """Nothing but the stage's own flags."""
        return None if tried else Try()

    def kept(self, seen: StageView, tried: Sequence[Tried]) -> int | None:
        """The only one."""
        return 0


@dataclass(frozen=True)
class Learn(Once):
    """The first training: its length by the rule unless it is given; gentle where the weights know the data."""

    stage: str
    epochs: int | None = None
    patience: int | None = None
    lr: float | None = None

    def next(self, seen: StageView, tried: Sequence[Tried]) -> Try | None:
        """One training."""
        if tried:
            return None
        epochs, why = _epochs(self.epochs, seen.budget, self.stage)
        lr = _own(seen.budget.rate(epochs, 0)) if self.lr is None else self.lr
        return Try(("--epochs", epochs, *_patience(self.patience, epochs, seen.budget), *_rate(lr)), why)


@dataclass(frozen=True)
class BackOff:
    """Sparse training that gives way: s halves and half of the epochs go on from the best, until the bar is kept.

    So few epochs have a lower rate, where it follows from the ``learnt`` epochs of the first training.
    """

    epochs: int | None = None
    s: float | None = None
    lr: float | None = None
    schedule: str | None = None
    learnt: int | None = None

    def next(self, seen: StageView, tried: Sequence[Tried]) -> Try | None:
        """A given s is used once; the rule's is halved as often as `HALVINGS`."""
        epochs, why = _epochs(self.epochs, seen.budget, SPARSE)
        push = self._push(seen.budget, epochs)
        if not tried:
            return self._try(seen, push, epochs, why, strong=push.strong)
        if self.s is not None or len(tried) > HALVINGS or holds(tried[-1].score, seen.bar):
            return None
        half = max(1, epochs // 2)
        s, lr = push.s / 2 ** len(tried), min(push.lr, self._push(seen.budget, half).lr)
        start = max(range(len(tried)), key=lambda i: _value(tried[i].best))
        go_on = start if holds(tried[start].best, seen.bar) else None
        place = "from its best epoch" if go_on is not None else "from the baseline again"
        why = f"{_lost(seen.baseline, tried[-1].score)} cost more than {seen.max_drop:g}: s halved, {place}"
        return self._try(seen, Push(float(f"{s:.2g}"), lr), half, why, go_on, strong=push.strong)

    def _push(self, budget: TrainingBudget, epochs: int) -> Push:
        learnt = self.learnt or budget.epochs(BASELINE)
        return budget.push(epochs, learnt) if self.s is None else Push(self.s, budget.rate(epochs, learnt))

    def _try(
        self, seen: StageView, push: Push, epochs: int, why: str, start: int | None = None, *, strong: bool
    ) -> Try:
        strong = strong and self.s is None
        schedule = self.schedule or ("decay" if strong else None)
        manner = (*(("--s-schedule", schedule) if schedule else ()), *_rate(self.lr or _own(push.lr)))
        return Try(("--s", push.s, *manner, "--epochs", epochs, *seen.kept_precision), why, start, taught=strong)

    def kept(self, seen: StageView, tried: Sequence[Tried]) -> int | None:
        """The first that keeps the bar, or else the one that lost least."""
        return _first(tried, seen.bar)


@dataclass(frozen=True)
class CutShare:
    """How much goes: a share that is given, or the largest that the pre-flight and the drop allow.

    What the cut may lose is what the chain may: training follows. Where sparse training gave way, and its first try
    lost no more than that training gives back, that one's network is cut as well; where neither takes half of the
    parameters, it is cut by half. The larger cut is kept.
    """

    percent: float | None = None

    def next(self, seen: StageView, tried: Sequence[Tried]) -> Try | None:
        """The given percent, or ``auto``; where that finds none, nothing is cut."""
        if self.percent is not None:
            return None if tried else Try(("--percent", self.percent))
        flags = ("--percent", "auto", "--max-drop", seen.max_drop)
        if not tried:
            return Try(flags, AUTO, refusable=True)
        worth = holds(seen.hardest, (seen.baseline or 0.0) - GIVES_BACK * seen.max_drop)
        if worth and len(tried) == 1:
            found = f"{tried[0].share:g} can be cut" if tried[0].share else "nothing can be cut"
            why = f"{found} of what sparse training left; of its first try, {_lost(seen.baseline, seen.hardest)} under"
            return Try(flags, f"{why} the baseline?", hardest=True, refusable=True)
        cut = [each for each in tried if each.score is not None]
        least = min((each.left for each in cut if each.left is not None), default=0.0)
        if worth and len(tried) == 2 and least > HALF:
            why = f"{least:.1%} of the parameters would be left: its first try by half, as training follows"
            return Try(("--target-params", HALF), why, hardest=True, refusable=True)
        return None if cut else Try(("--percent", 0.0), "nothing could be cut")

    def kept(self, seen: StageView, tried: Sequence[Tried]) -> int | None:
        """The cut that left the fewest parameters, of those that were not refused; the earlier of two alike."""
        cut = [i for i, each in enumerate(tried) if each.score is not None]
        return min(cut, key=lambda i: 1.0 if (left := tried[i].left) is None else left)


@dataclass(frozen=True)
class Recover:
    """The training after the cut, which never ends below what it began with.

    Worse than before: from the start at half of the rate. Better, but under the goal: on from the best at half of it.
    The rate follows from the ``learnt`` epochs of the first training.
    """

    epochs: int | None = None
    patience: int | None = None
    lr: float | None = None
    learnt: int | None = None

    def next(self, seen: StageView, tried: Sequence[Tried]) -> Try | None:
        """Up to `HALVINGS` more trainings."""
        epochs, why = _epochs(self.epochs, seen.budget, FINETUNED)
        flags = ("--epochs", epochs, *_patience(self.patience, epochs, seen.budget), *seen.kept_precision)
        rate = self.lr or seen.budget.rate(epochs, self.learnt or seen.budget.epochs(BASELINE))
        if not tried or not seen.judged:
            return None if tried else Try((*flags, *_rate(self.lr or _own(rate))), why)
        found = tried[-1].best
        worse = not holds(found, seen.before)
        if len(tried) > HALVINGS or (not worse and (holds(found, seen.goal) or len(tried) > 1)):
            return None
        flags += _rate(rate / 2 ** len(tried))
        if worse:
            return Try(flags, f"{_lost(seen.before, found)} below what it began with: half of the rate, from the start")
        start = self.kept(seen, tried)
        why = f"{_lost(seen.goal, found)} under what leaves integers their part: on from the best at half of the rate"
        return Try(flags, why, start)

    def kept(self, seen: StageView, tried: Sequence[Tried]) -> int | None:
        """The best of all, what it began with among them."""
        best = max(range(len(tried)), key=lambda i: _value(tried[i].best))
        return best if holds(tried[best].best, seen.before) or not seen.judged else None


@dataclass(frozen=True)
class Widen:
    """Integers of few bits, and of more where they lose too much. Given bits are used as they are.

    ``trained``: they are trained for, so long as the training after the cut or as ``epochs`` says.
    """

    w_bit: int
    a_bit: int | None = None
    trained: bool = False
    epochs: int | None = None

    def next(self, seen: StageView, tried: Sequence[Tried]) -> Try | None:
        """The next number of bits of the activations."""
        length: tuple[Any, ...] = ()
        if self.trained:
            length = ("--epochs", _epochs(self.epochs, seen.budget, FINETUNED)[0], *seen.kept_precision)
        if self.a_bit is not None:
            return None if tried else Try(("--w-bit", self.w_bit, "--a-bit", self.a_bit, *length))
        if len(tried) == len(A_BITS) or (tried and (not seen.judged or holds(tried[-1].score, seen.floor))):
            return None
        bits, why = A_BITS[len(tried)], "the fewest to try"
        if tried:
            why = f"{_lost(seen.before, tried[-1].score)} lost with {A_BITS[len(tried) - 1]} bits: more"
        return Try(("--w-bit", self.w_bit, "--a-bit", bits, *length), why)

    def kept(self, seen: StageView, tried: Sequence[Tried]) -> int | None:
        """The first that holds, or else the best."""
        return _first(tried, seen.floor)


def _first(tried: Sequence[Tried], least: float) -> int:
    held = [i for i, each in enumerate(tried) if holds(each.score, least)]
    return held[0] if held else max(range(len(tried)), key=lambda i: _value(tried[i].score))


def _epochs(given: int | None, budget: TrainingBudget, stage: str) -> tuple[int, str]:
    if given is not None:
        return given, "as asked"
    epochs = budget.epochs(stage)
    return epochs, f"{epochs * budget.steps} steps over {budget.images:,} images"


def _patience(given: int | None, epochs: int, budget: TrainingBudget) -> tuple[Any, ...]:
    patience = budget.patience(epochs) if given is None else given
    return ("--patience", patience) if patience < epochs else ()


def _rate(lr: float | None) -> tuple[Any, ...]:
    return () if lr is None else ("--lr", lr)


def _own(rate: float) -> float | None:
    return rate if rate < RATE else None  # it is train.py's without a flag


def _value(score: float | None) -> float:
    return -1.0 if score is None else score


def _lost(before: float | None, after: float | None) -> str:
    return f"{100 * ((before or 0.0) - (after or 0.0)):.1f} points"
