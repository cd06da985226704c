"""Whether a chain kept its bar; where not, which stage lost it and what would help."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from utils.chain.tries import Tried


@dataclass(frozen=True)
class Verdict:
    """``met``: the end is within ``max_drop`` of the baseline, and something was cut.

    ``stage`` lost it, ``fact`` says what is missing. What would help: fields ``without`` a value of their own, and
    ``flags``; neither where nothing is known.
    """

    met: bool
    score: float
    bar: float
    stage: str = ""
    fact: str = ""
    without: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    command: str = ""

    def record(self) -> dict[str, Any]:
        """As a record keeps it."""
        return asdict(self)


def judge_chain(
    scores: Mapping[str, float],
    params: Mapping[str, int],
    max_drop: float,
    used: Mapping[str, int],
    given: Collection[str],
    heading: str,
) -> Verdict:
    """The verdict on the scores of the stages, in their order.

    Args:
        scores: by stage, the baseline's first.
        params: likewise.
        max_drop: what the chain may lose.
        used: epochs of the trainings and bits of the weights, by the names of their fields.
        given: fields that somebody said.
        heading: the score's name.
    """
    names = list(scores)
    first, end = scores[names[0]], scores[names[-1]]
    bar = first - max_drop
    if bar <= 0:
        fact = f"the baseline itself has {heading} {first:.4f}: nothing that {max_drop:g} less could be asked of"
        return _missed(end, bar, names[0], fact, ("epochs",), ("--epochs", 2 * used["epochs"]))
    if end < bar - 1e-9:
        lost = next(name for i, name in enumerate(names) if all(scores[each] < bar for each in names[i:]))
        before = names[names.index(lost) - 1]
        fact = f"{heading} {end:.4f} at the end, {bar:.4f} was asked for (the baseline's {first:.4f} less {max_drop:g})"
        fact += f"; {lost} lost it: {scores[before]:.4f} before, {scores[lost]:.4f} after"
        return _missed(end, bar, lost, fact, *_remedy(lost, used, given))
    if params.get("pruned", 0) >= params.get("sparse", 1) > 0:
        fact = "nothing was cut: no share of the channels could go within what may be lost"
        more = ("sparse_epochs",), ("--sparse-epochs", 2 * used["sparse_epochs"])
        return _missed(end, bar, "pruned", fact, *more)
    return Verdict(True, end, bar)


def _remedy(stage: str, used: Mapping[str, int], given: Collection[str]) -> tuple[tuple[str, ...], tuple[Any, ...]]:
    """Fields to leave to the rule, and flags to add, that let a stage keep more."""
    own = {"sparse": "s", "pruned": "percent", "quantised": "a_bit"}.get(stage)
    if own is not None and own in given:
        return (own,), ()
    match stage:
        case "sparse":
            return ("sparse_epochs",), ("--sparse-epochs", 2 * used["sparse_epochs"])
        case "pruned" | "finetuned":
            return ("finetune_epochs",), ("--finetune-epochs", 2 * used["finetune_epochs"])
        case "quantised" if used["w_bit"] < 8:
            return ("w_bit",), ("--w-bit", 8)
    return (), ()


def _missed(
    score: float, bar: float, stage: str, fact: str, without: tuple[str, ...] = (), flags: tuple[Any, ...] = ()
) -> Verdict:
    return Verdict(False, score, bar, stage, fact, without, tuple(map(str, flags)))


def rows_of(stage: str, tried: Sequence[Tried], kept: int | None, *, best: bool) -> list[dict[str, Any]]:
    """What was tried in a stage, why, how it scored, and which was kept, as a record keeps it.

    ``best``: the stage leaves its best epoch, so that one's score counts; otherwise that of the last.
    """
    return [
        {
            "stage": stage,
            "flags": " ".join(map(str, each.given.flags)),
            "why": each.given.why,
            "score": each.best if best else each.score,
            "kept": number == kept,
            "fact": each.fact,
        }
        for number, each in enumerate(tried)
    ]
