"""EagleEye: of random networks within a budget of MACs, the one that is best after its batch norm was recalibrated.

Source: Li et al., EagleEye: Fast Sub-net Evaluation for Efficient Neural Network Pruning, ECCV 2020 (arXiv 2007.02491).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from tqdm import tqdm

from utils.darknet.channel_groups import trace
from utils.darknet.network import Network
from utils.darknet.spec import ModelSpec
from utils.errors import InputError
from utils.pruning.absorb import absorb
from utils.pruning.criteria import l1
from utils.pruning.layerwise import decide_layerwise
from utils.pruning.plan import Plan, ShortcutRule, lined, offered
from utils.pruning.scores import Score, strengths
from utils.pruning.surgery import cut, narrow

HALVINGS = 20  # of the range a shape's strength is looked for in
DRAWS = 20  # shapes that may miss the budget, one after the other

Planned = tuple[Plan, int]  # with its MACs


@dataclass(frozen=True)
class Candidate:
    """One network that was tried: its MACs, its metric, the rate each layer asked for."""

    number: int
    macs: int
    metric: float
    rates: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class SearchResult:
    """The plan of the best candidate, ``trace[best]``, and all that were measured, in the order drawn."""

    plan: Plan
    best: int
    trace: tuple[Candidate, ...]


def absorbed_cut(net: Network, plan: Plan) -> Network:
    """The usual way from a plan to a network: constants go to the readers, then the wires go."""
    return cut(absorb(net, plan), plan)


def search(
    net: Network,
    *,
    candidates: int,
    remain: float,
    delta: float,
    measure: Callable[[Network], float],
    recalibrate: Callable[[Network], Network],
    macs: Callable[[ModelSpec], int],
    seed: int,
    tie: ShortcutRule,
    floor: float = 0.0,
    multiple: int = 1,
    score: Score = l1,
    scope: frozenset[int] | None = None,
    make: Callable[[Network, Plan], Network] = absorbed_cut,
) -> SearchResult:
    """Draw, cut, recalibrate and measure ``candidates`` networks; the best metric wins, the first of equal ones.

    A draw is a shape: one u of U(0, 1) for each layer, which keeps the share (1 - u)^f of its channels. The strength f,
    the same for all layers, is found by bisection so that the MACs fit the budget; f = 1 is the paper's draw. So hardly
    a draw is lost, however small the budget is. The same seed gives the same candidates.

    Args:
        net: the network to be cut; it is not changed.
        candidates: how many networks to measure.
        remain: MACs that shall be left, as a share of the full network's, in (0, 1].
        delta: how far from ``remain`` they may be.
        measure: metric of a network, larger is better; nan loses against everything.
        recalibrate: measures batch norm anew, on training images (`recalibrate.recalibrate`).
        macs: counts a structure, e.g. `counts.count` at some size.
        seed: of the draws.
        tie: as in `plan_channels`, and so are ``floor``, ``multiple``, ``score`` and ``scope``.
        floor: likewise.
        multiple: likewise.
        score: likewise.
        scope: likewise.
        make: cuts a network by a plan.

    Raises:
        InputError: an argument is out of range, or the budget cannot be met; with the MACs that can be.
    """
    _validate(candidates, remain, delta)
    wires, full = trace(net.spec), macs(net.spec)
    scores, layers = strengths(net.spec, wires, score(net)), list(offered(wires, tie, scope))

    def planned(rates: dict[int, float]) -> Planned:
        plan = decide_layerwise(wires, scores, rates, tie=tie, floor=floor, multiple=multiple, scope=scope)
        return plan, macs(narrow(net.spec, plan))

    least = planned(dict.fromkeys(layers, 1.0))[1] / full
    if least > remain + delta:
        raise InputError(_out_of_reach(remain, delta, least))
    draws = _Draws(layers, seed)
    best, trace_, won = -1, [], None
    for number in tqdm(range(candidates), desc="candidates", leave=False, disable=None):
        rates, (plan, left) = draws.within(planned, full, remain, delta)
        metric = measure(recalibrate(make(net, plan)))
        trace_.append(Candidate(number, left, metric, tuple(rates.items())))
        if won is None or _order(metric) > _order(trace_[best].metric):
            best, won = number, plan
    assert won is not None
    return SearchResult(lined(won, net.spec), best, tuple(trace_))


def _out_of_reach(remain: float, delta: float, least: float) -> str:
    return (
        f"no network of {remain:.0%} ± {delta:.1%} of the MACs can be cut: with the floor of every layer "
        f"{least:.1%} are left; keep more (a smaller --percent), lower the floor, or offer more layers (--scope)"
    )


class _Draws:
    """Random shapes, one after the other; `DRAWS` misses in a row are an error."""

    def __init__(self, layers: list[int], seed: int) -> None:
        self.layers = layers
        self.make = torch.Generator().manual_seed(seed)
        self.reached: list[float] = []  # shares of the MACs that all bisections came by

    def within(
        self, planned: Callable[[dict[int, float]], Planned], full: int, remain: float, delta: float
    ) -> tuple[dict[int, float], Planned]:
        """The next shape that fits the budget, at the strength at which it does."""
        for _ in range(DRAWS):
            shape = torch.rand(len(self.layers), generator=self.make, dtype=torch.float64).tolist()
            low, high = 0.0, 1.0
            for _ in range(HALVINGS):
                t = (low + high) / 2
                rates = {i: 1 - (1 - u) ** (t / (1 - t)) for i, u in zip(self.layers, shape, strict=True)}
                plan, left = planned(rates)
                self.reached.append(left / full)
                gap = self.reached[-1] - remain
                if abs(gap) <= delta:
                    return rates, (plan, left)
                low, high = (t, high) if gap > 0 else (low, t)
        nearest = min(self.reached, key=lambda share: abs(share - remain))
        raise InputError(
            f"no network of {remain:.1%} ± {delta:.2%} of the MACs was found in {DRAWS} draws: they reached "
            f"{min(self.reached):.1%} to {max(self.reached):.1%}, {nearest:.2%} at the nearest; allow a larger --delta "
            "or a smaller --multiple"
        )


def _order(metric: float) -> float:
    return -math.inf if math.isnan(metric) else metric


def _validate(candidates: int, remain: float, delta: float) -> None:
    if candidates < 1:
        raise InputError(f"the number of candidates must be at least 1, got {candidates}")
    if not 0 < remain <= 1:
        raise InputError(f"the share of the MACs that remains must be in (0, 1], got {remain}")
    if not 0 <= delta < 1:
        raise InputError(f"delta must be in [0, 1), got {delta}")
