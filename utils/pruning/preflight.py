"""What a network's gammas say before anything is cut: what is safe, what is survivable, what would empty a layer.

A channel sends a signal of variance gamma² (its constant part is absorbed), and the batch norm behind its readers
undoes any scale that a whole layer has. So a cut is measured by the share of Σ gamma² that each layer keeps, never by
|gamma| alone: a layer whose gammas are all tiny is as alive as one whose gammas are all large.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Unpack

import torch
from torch import Tensor

from utils.darknet.channel_groups import ChannelGroups, trace
from utils.darknet.network import Network
from utils.errors import UnsurvivableError
from utils.pruning.plan import Plan, PlanOptions, ShortcutRule, decide, offered
from utils.pruning.scores import Score, Scores, gammas, strengths

NEAR_ZERO = 1e-2  # |gamma| that sparse training calls gone; with lr·s dithering it rests one or two orders under it
SAFE_LOSS = 0.01  # of a layer's signal: -20 dB, which recalibrated batch norm hides and 4-bit activations exceed
SURVIVES = 0.5  # of the signal where layers are cut: gammas of U(0.5, 1) at percent 0.8 keep 0.3, half-normal ones 0.65
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
STEP = 0.01  # percents are found on this grid, rounded down


@dataclass(frozen=True)
class LayerReport:
    """One layer: its channels, their |gamma|, and the percent from which on nothing of it is above the threshold."""

    layer: int
    line: int
    channels: int
    smallest: float
    median: float
    largest: float
    empties_at: float


@dataclass(frozen=True)
class Preflight:
    """The judgement of a network; shares are of the prunable channels.

    ``safe`` loses next to nothing even before fine-tuning, ``survivable`` is the largest percent that `check` lets
    through, as far as gammas tell: what a network survives is measured, on recalibrated statistics, when it is cut.
    ``limit`` is the largest percent that leaves every layer something above the threshold.
    """

    channels: int
    quantiles: dict[float, float]
    near_zero: float
    limit: float
    safe: float
    survivable: float
    layers: tuple[LayerReport, ...]


@dataclass(frozen=True)
class GammaJudge:
    """A network's wires and scores, traced once and asked many times.

    ``scores`` are |gamma| along the wires, which say what signal a plan leaves; ``ranking`` is what the plan goes by:
    the same, or another score.
    """

    lines: dict[int, int]
    wires: ChannelGroups
    scores: Scores
    ranking: Scores
    tie: ShortcutRule
    floor: float = 0.0
    multiple: int = 1
    scope: frozenset[int] | None = None

    def plan(self, percent: float) -> Plan:
        """What the strategy would do."""
        return decide(
            self.wires,
            self.ranking,
            percent=percent,
            tie=self.tie,
            floor=self.floor,
            multiple=self.multiple,
            scope=self.scope,
        )

    def kept(self, plan: Plan) -> dict[int, float]:
        """Share of Σ gamma² that each layer of the plan keeps."""
        return {row.layer: self._share(row.layer, plan.keep) for row in plan.rows}

    def emptied(self, plan: Plan) -> int | None:
        """The first layer with nothing above the threshold whose floor does not save it."""
        for row in plan.rows:
            if row.above == 0 and self._share(row.layer, plan.keep) < SURVIVES:
                return row.layer
        return None

    def safe(self, percent: float) -> bool:
        """Whether no layer loses more than a negligible part of its signal."""
        return min(self.kept(self.plan(percent)).values()) >= 1 - SAFE_LOSS

    def survives(self, percent: float) -> bool:
        """Whether fine-tuning can be expected to bring the network back."""
        plan = self.plan(percent)
        return self.emptied(plan) is None and self.survival(plan) >= SURVIVES

    def survival(self, plan: Plan) -> float:
        """Share of the signal kept, mean over layers, each weighing as much as the share of its channels that go.

        Layers that lose nothing say nothing about whether the others survive.
        """
        gone = {row.layer: 1 - row.after / row.before for row in plan.rows}
        total = sum(gone.values())
        return sum(share * gone[i] for i, share in self.kept(plan).items()) / total if total else 1.0

    def offered(self) -> Scores:
        """|gamma| of the channels that may go, [n] by layer."""
        return {i: self.scores[i][may_go] for i, may_go in self._free().items()}

    def emptied_at(self) -> dict[int, float]:
        """The percent from which on nothing of a layer is above the threshold, by layer."""
        ranks = {i: self.ranking[i][may_go] for i, may_go in self._free().items()}
        together = torch.cat(list(ranks.values()))
        return {i: float((together < rank.max()).float().mean()) for i, rank in ranks.items()}

    def _free(self) -> Scores:
        return offered(self.wires, self.tie, self.scope)

    def _share(self, layer: int, keep: Tensor) -> float:
        energy = self.scores[layer].double().square()
        total = float(energy.sum())
        return float(energy[keep[self.wires.outputs[layer]]].sum()) / total if total else 1.0


def judge(
    net: Network,
    *,
    tie: ShortcutRule,
    floor: float = 0.0,
    multiple: int = 1,
    score: Score = gammas,
    scope: frozenset[int] | None = None,
) -> GammaJudge:
    """Trace and score a network for the questions above; ``score`` and ``scope`` are the plan's."""
    wires = trace(net.spec)
    lines = {i: net.spec.layers[i].line for i in wires.voters}
    scores = strengths(net.spec, wires, gammas(net))
    ranking = scores if score is gammas else strengths(net.spec, wires, score(net))
    return GammaJudge(lines, wires, scores, ranking, tie, floor, multiple, scope)


def preflight(net: Network, *, tie: ShortcutRule, **asked: Unpack[PlanOptions]) -> Preflight:
    """Everything that can be said from the gammas alone; ``asked`` is as in `judge`.

    Raises:
        InputError: nothing can be pruned, or ``floor`` or ``multiple`` is out of range.
    """
    return report(judge(net, tie=tie, **asked))


def report(judge: GammaJudge) -> Preflight:
    """`preflight` of a network that is traced already."""
    judge.plan(0.0)  # refuses what is out of range
    free, emptied_at = judge.offered(), judge.emptied_at()
    sizes = torch.cat(list(free.values())).sort().values
    rows = tuple(_layer(i, judge.lines[i], size, emptied_at[i]) for i, size in free.items())
    return Preflight(
        channels=len(sizes),
        quantiles={q: float(sizes[round(q * (len(sizes) - 1))]) for q in QUANTILES},
        near_zero=float((sizes < NEAR_ZERO).float().mean()),
        limit=min(row.empties_at for row in rows),
        safe=_largest(judge.safe),
        survivable=_largest(judge.survives),
        layers=rows,
    )


def safe_percent(net: Network, *, tie: ShortcutRule, **asked: Unpack[PlanOptions]) -> float:
    """The largest percent, rounded down to 0.01, that costs no layer more than `SAFE_LOSS` of its signal."""
    return _largest(judge(net, tie=tie, **asked).safe)


def sparse_enough(net: Network, percent: float, *, tie: ShortcutRule, **asked: Unpack[PlanOptions]) -> bool:
    """Whether the network would survive this percent, i.e. whether `check` would pass."""
    return judge(net, tie=tie, **asked).survives(percent)


def check(
    net: Network, *, percent: float, tie: ShortcutRule, force: bool = False, **asked: Unpack[PlanOptions]
) -> Preflight:
    """Refuse a percent that the network would not survive; ``force`` only reports, ``asked`` is as in `judge`.

    Raises:
        UnsurvivableError: a layer would be emptied, or the network is not sparse enough; with the largest percents that
            are survivable and safe, and the command that makes a network sparse.
    """
    judged = judge(net, tie=tie, **asked)
    plan, found = judged.plan(percent), report(judged)
    if force or judged.survives(percent):
        return found
    number = {ShortcutRule.KEEP: 0}.get(tie, 1)
    remedy = (
        f"use --percent {found.survivable:.2f} at most (by |gamma|; {found.safe:.2f} costs next to nothing), or make "
        f"it sparser first: python3 train.py -sr --s 0.001 --prune {number} --weights <these weights>; --force goes on"
    )
    empty = judged.emptied(plan)
    if empty is not None:
        width, kept = len(judged.wires.outputs[empty]), judged.kept(plan)[empty]
        raise UnsurvivableError(
            f"percent {percent:g} would empty layer {empty} (cfg line {judged.lines[empty]}): none of its "
            f"{width} channels is above {plan.threshold:.3g}, and the few that stay are {kept:.0%} of its signal; "
            f"{remedy}"
        )
    raise UnsurvivableError(
        f"the network is not sparse enough for percent {percent:g}: {found.near_zero:.0%} of its |gamma| are under "
        f"{NEAR_ZERO:g} and the layers it cuts would keep {judged.survival(plan):.0%} of their signal; {remedy}"
    )


def _layer(layer: int, line: int, sizes: Tensor, empties_at: float) -> LayerReport:
    return LayerReport(
        layer=layer,
        line=line,
        channels=len(sizes),
        smallest=float(sizes.min()),
        median=float(sizes.median()),
        largest=float(sizes.max()),
        empties_at=empties_at,
    )


def _largest(good: Callable[[float], bool]) -> float:
    """The largest percent on the grid that is good, by bisection: what a percent removes, a larger one removes too."""
    low, high = 0, round(1 / STEP)  # low is good (nothing is cut at 0), high is not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if good(middle * STEP) else (low, middle)
    return round(low * STEP, 10)
