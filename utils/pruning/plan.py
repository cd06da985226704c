"""Which wires stay: one function and a table behind all channel strategies. Nothing is cut here."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from utils.darknet.network import Network
from utils.errors import InputError
from utils.pruning.scores import Score, Scores, gammas, strengths
from utils.pruning.wires import Wires, trace


class Tie(Enum):
    """What to do with a wire that several layers share in parallel (a shortcut, a grouped convolution)."""

    KEEP = "leave it"  # normal, regular
    LEADER = "the first layer on the wire decides"  # shortcut
    ANY = "it stays if any layer wants it"  # slim


@dataclass(frozen=True)
class Row:
    """One layer: ``above`` of its channels are above the threshold, ``after`` stay when ties and floors are counted."""

    layer: int
    line: int
    before: int
    above: int
    after: int


@dataclass(frozen=True)
class Plan:
    """What a strategy decided: ``keep`` is bool [wires]; ``rows`` are the layers that were offered."""

    keep: Tensor
    threshold: float
    percent: float
    tie: Tie
    rows: tuple[Row, ...] = ()

    @property
    def removed(self) -> float:
        """Share of the offered channels that go; ties, floors and rounding keep it under ``percent``."""
        before = sum(row.before for row in self.rows)
        return 1 - sum(row.after for row in self.rows) / before if before else 0.0

    def __str__(self) -> str:
        head = f"percent {self.percent:g}, threshold {self.threshold:.4g}: {self.removed:.1%} of the channels go"
        lines = [f"layer {r.layer} (cfg line {r.line}): {r.before} -> {r.after} ({r.above} above)" for r in self.rows]
        return "\n".join([head, *lines])


def plan_channels(
    net: Network,
    *,
    percent: float,
    tie: Tie,
    floor: float = 0.0,
    multiple: int = 1,
    score: Score = gammas,
) -> Plan:
    """Keep the channels whose score is above one threshold for the whole network.

    Args:
        net: the network to judge; it is not changed.
        percent: share of the prunable channels under the threshold, 0 <= percent < 1.
        tie: what to do with wires that several layers share.
        floor: smallest share of its channels a layer keeps, 0..1; at least one always stays.
        multiple: a layer keeps a multiple of this many channels, rounded up, never above its width.
        score: judge of the channels; |gamma| by default.

    Raises:
        InputError: an argument is out of range, or the network has nothing to prune.

    Source: Liu et al., Network Slimming, ICCV 2017, section 3 (arXiv 1708.06519).
    """
    wires = trace(net.spec)
    lines = {i: net.spec.layers[i].line for i in wires.voters}
    plan = decide(
        wires, strengths(net.spec, wires, score(net)), percent=percent, tie=tie, floor=floor, multiple=multiple
    )
    rows = tuple(Row(r.layer, lines[r.layer], r.before, r.above, r.after) for r in plan.rows)
    return Plan(plan.keep, plan.threshold, percent, tie, rows)


def decide(wires: Wires, scores: Scores, *, percent: float, tie: Tie, floor: float = 0.0, multiple: int = 1) -> Plan:
    """The decision behind `plan_channels`, for callers that already traced the wires and judged them.

    Channels are ranked, not compared with the threshold: of equal ones the earlier go first, so that exactly
    int(percent * channels) are under it, dead channels (all exactly 0) included.
    """
    _validate(percent, floor, multiple)
    frozen = wires.locked | wires.tied if tie is Tie.KEEP else wires.locked
    offered = {i: ~frozen[wires.outputs[i]] for i in wires.voters if not frozen[wires.outputs[i]].all()}
    if not offered:
        raise InputError(
            f"nothing to prune: all {len(wires.voters)} convolutions with batch norm feed heads or are tied; "
            "a network with folded batch norm has to be pruned before folding"
        )
    ranked = torch.cat([scores[i][free] for i, free in offered.items()])
    order = ranked.argsort(stable=True)
    under = int(percent * len(ranked) + 1e-9)  # 0.29 * 100 is 28.999…
    above = torch.ones(len(ranked), dtype=torch.bool)
    above[order[:under]] = False

    keep, decided = frozen.clone(), frozen.clone()
    sizes = [int(free.sum()) for free in offered.values()]
    for (i, free), part in zip(offered.items(), above.split(sizes), strict=True):
        wanted = ~free
        wanted[free] = part
        wanted |= _strongest(scores[i], wanted, _least(len(free), floor))
        wire = wires.outputs[i]
        keep[wire[wanted & ~decided[wire] if tie is Tie.LEADER else wanted]] = True
        decided[wire] = True
    _fill(keep, wires, {i: scores[i] for i in offered}, floor, multiple)

    rows = tuple(
        Row(i, 0, len(free), int(part.sum() + (~free).sum()), int(keep[wires.outputs[i]].sum()))
        for (i, free), part in zip(offered.items(), above.split(sizes), strict=True)
    )
    return Plan(keep, float(ranked[order[under]]), percent, tie, rows)


def _validate(percent: float, floor: float, multiple: int) -> None:
    if not 0 <= percent < 1:
        raise InputError(f"percent must be in [0, 1), got {percent}")
    if not 0 <= floor <= 1:
        raise InputError(f"the smallest share a layer keeps must be in [0, 1], got {floor}")
    if multiple < 1:
        raise InputError(f"a multiple of channels must be at least 1, got {multiple}")


def _least(width: int, floor: float) -> int:
    return max(1, round(width * floor))


def _strongest(scores: Tensor, staying: Tensor, n: int) -> Tensor:
    """The ``n`` strongest channels, those that stay anyway first: bool [C]."""
    chosen = torch.zeros_like(staying)
    order = scores.masked_fill(staying, torch.inf).argsort(descending=True, stable=True)
    chosen[order[:n]] = True
    return chosen


def _fill(keep: Tensor, wires: Wires, scores: Scores, floor: float, multiple: int) -> None:
    """Add the strongest of what would go until every layer has its floor and its multiple; ``keep`` only grows.

    A wire that is added for one layer is added for all on it, so this repeats until nothing changes.
    """
    growing = True
    while growing:
        growing = False
        for i, score in scores.items():
            wire = wires.outputs[i]
            have = int(keep[wire].sum())
            wide = math.ceil(max(have, _least(len(wire), floor)) / multiple) * multiple
            target = min(len(wire), wide)
            if have == target:
                continue
            growing = True
            for c in score.masked_fill(keep[wire], -torch.inf).argsort(descending=True, stable=True).tolist():
                keep[wire[c]] = True
                if int(keep[wire].sum()) >= target:
                    break
