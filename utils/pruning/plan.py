"""Which wires stay: one function and a table behind all channel strategies. Nothing is cut here."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TypedDict

import torch
from torch import Tensor

from utils.darknet.channel_groups import ChannelGroups, trace
from utils.darknet.network import Network
from utils.darknet.spec import ModelSpec
from utils.errors import InputError
from utils.pruning.scores import Score, Scores, gammas, strengths


class ShortcutRule(Enum):
    """What to do with a wire that several layers share in parallel (a shortcut, a grouped convolution)."""

    KEEP = "leave it"  # normal, regular
    LEADER = "the first layer on the wire decides"  # shortcut
    ANY = "it stays if any layer wants it"  # slim


class PlanOptions(TypedDict, total=False):
    """What `plan_channels` takes besides a tie, and all that ask it hand on; its docstring says what each is."""

    floor: float
    multiple: int
    score: Score
    scope: frozenset[int] | None


class PlanRules(PlanOptions):
    """The same with the tie: a strategy before one network."""

    tie: ShortcutRule


@dataclass(frozen=True)
class PlanRow:
    """One layer: ``above`` of its channels are above the threshold, ``after`` stay when ties and floors are counted."""

    layer: int
    line: int
    before: int
    above: int
    after: int


@dataclass(frozen=True)
class Plan:
    """What a strategy decided: ``keep`` is bool [wires]; ``rows`` are the layers that were offered.

    ``wanted``, bool [wires], is ``keep`` before layers were rounded up; ``multiple`` and ``scores`` (of the offered
    layers) are what `fill` rounded by. ``carriers``, bool [wires], are those of ``keep`` that only carry a constant;
    None as long as nobody has appointed any.
    """

    keep: Tensor
    threshold: float
    percent: float
    tie: ShortcutRule
    rows: tuple[PlanRow, ...] = ()
    multiple: int = 1
    scores: Scores = field(default_factory=dict, compare=False, repr=False)
    wanted: Tensor | None = None
    carriers: Tensor | None = None

    @property
    def alive(self) -> Tensor:
        """The wires that stay with their gammas, bool [wires]: ``keep`` without the carriers."""
        return self.keep if self.carriers is None else self.keep & ~self.carriers

    @property
    def removed(self) -> float:
        """Share of the offered channels that go; ties, floors and rounding keep it under ``percent``."""
        before = sum(row.before for row in self.rows)
        return 1 - sum(row.after for row in self.rows) / before if before else 0.0

    def __str__(self) -> str:
        threshold = "a threshold a layer" if math.isnan(self.threshold) else f"threshold {self.threshold:.4g}"
        head = f"percent {self.percent:g}, {threshold}: {self.removed:.1%} of the channels go"
        lines = [f"layer {r.layer} (cfg line {r.line}): {r.before} -> {r.after} ({r.above} above)" for r in self.rows]
        return "\n".join([head, *lines])


def plan_channels(
    net: Network,
    *,
    percent: float,
    tie: ShortcutRule,
    floor: float = 0.0,
    multiple: int = 1,
    score: Score = gammas,
    scope: frozenset[int] | None = None,
) -> Plan:
    """Keep the channels whose score is above one threshold for the whole network.

    Args:
        net: the network to judge; it is not changed.
        percent: share of the prunable channels under the threshold, 0 <= percent < 1.
        tie: what to do with wires that several layers share.
        floor: smallest share of its channels a layer keeps, 0..1; at least one always stays.
        multiple: a layer keeps a multiple of this many channels, rounded up, never above its width.
        score: judge of the channels; |gamma| by default.
        scope: layers that are offered (`scope.parse_scope`); the wires of all others stay. None: all layers.

    Raises:
        InputError: an argument is out of range, or the network has nothing to prune.

    Source: Liu et al., Network Slimming, ICCV 2017, section 3 (arXiv 1708.06519).
    """
    wires = trace(net.spec)
    scores = strengths(net.spec, wires, score(net))
    plan = decide(wires, scores, percent=percent, tie=tie, floor=floor, multiple=multiple, scope=scope)
    return lined(plan, net.spec)


def offered(wires: ChannelGroups, tie: ShortcutRule, scope: frozenset[int] | None = None) -> Scores:
    """The channels that may go: bool [C] by layer, of the layers that have any.

    Raises:
        InputError: there is none.
    """
    frozen = _frozen(wires, tie, scope)
    free = {i: ~frozen[wires.outputs[i]] for i in wires.voters if not frozen[wires.outputs[i]].all()}
    if not free and scope is not None and offered(wires, tie):
        raise InputError(
            "nothing to prune in this scope: the wires of its layers feed heads, or other layers that are out of it "
            "share them; widen --scope (--explain shows which layers go together)"
        )
    if not free and tie is ShortcutRule.KEEP and (wires.tied & ~wires.locked).any():
        raise InputError(
            f"nothing to prune: all {len(wires.voters)} convolutions with batch norm feed heads or are tied; "
            "slim_prune.py and shortcut_prune.py cut channels that are tied as well"
        )
    if not free:
        raise InputError(
            f"nothing to prune: all {len(wires.voters)} convolutions with batch norm feed heads or are tied; "
            "a network with folded batch norm has to be pruned before folding; one that never had any gets it by "
            "python3 -m utils.darknet.import --batch-norm"
        )
    return free


def decide(
    wires: ChannelGroups,
    scores: Scores,
    *,
    percent: float,
    tie: ShortcutRule,
    floor: float = 0.0,
    multiple: int = 1,
    scope: frozenset[int] | None = None,
) -> Plan:
    """The decision behind `plan_channels`, for callers that already traced the wires and judged them.

    Channels are ranked, not compared with the threshold: of equal ones the earlier go first, so that exactly
    int(percent * channels) are under it, dead channels (all exactly 0) included.
    """
    validate(percent, floor, multiple)
    free = offered(wires, tie, scope)
    ranked = torch.cat([scores[i][may_go] for i, may_go in free.items()])
    order = ranked.argsort(stable=True)
    under = int(percent * len(ranked) + 1e-9)  # 0.29 * 100 is 28.999…
    if under == len(ranked):
        raise InputError(f"percent {percent} leaves none of the {under} channels; use {1 - 1 / under:.4g} at most")
    above = torch.ones(len(ranked), dtype=torch.bool)
    above[order[:under]] = False
    parts = above.split([int(may_go.sum()) for may_go in free.values()])
    wanted = {i: spread(part, free[i]) for i, part in zip(free, parts, strict=True)}
    keep, unrounded, rows = settle(wires, scores, free, wanted, tie=tie, floor=floor, multiple=multiple)
    judged = {i: scores[i] for i in free}
    return Plan(keep, float(ranked[order[under]]), percent, tie, rows, multiple, judged, unrounded)


def _frozen(wires: ChannelGroups, tie: ShortcutRule, scope: frozenset[int] | None) -> Tensor:
    """Wires that stay whatever their scores are: bool [wires]."""
    frozen = wires.locked | wires.tied if tie is ShortcutRule.KEEP else wires.locked.clone()
    for i in wires.voters:
        if scope is not None and i not in scope:
            frozen[wires.outputs[i]] = True
    return frozen


def spread(part: Tensor, may_go: Tensor) -> Tensor:
    """What of a layer is wanted, bool [C]: of the channels that may go those in ``part``, and all others."""
    wanted = ~may_go
    wanted[may_go] = part
    return wanted


def settle(
    wires: ChannelGroups,
    scores: Scores,
    free: Scores,
    wanted: Scores,
    *,
    tie: ShortcutRule,
    floor: float,
    multiple: int,
) -> tuple[Tensor, Tensor, tuple[PlanRow, ...]]:
    """Make one decision of what the layers want: ties, then floors, then multiples.

    Args:
        wires: of the network.
        scores: of the channels, by voter.
        free: channels that may go, as `offered` says.
        wanted: bool [C] by layer; wires that no layer in here runs through stay.
        tie: as in `plan_channels`, and so are the others.
        floor: likewise.
        multiple: likewise.

    Returns:
        tuple: what stays, bool [wires]; the same before multiples; a row an offered layer, its cfg line left at 0.
    """
    keep = torch.ones(wires.count, dtype=torch.bool)
    for i, may_go in free.items():
        keep[wires.outputs[i][may_go]] = False
    decided = keep.clone()
    for i, want in wanted.items():
        wire = wires.outputs[i]
        staying = want | _strongest(scores[i], want, _least(len(want), floor))
        keep[wire[staying & ~decided[wire] if tie is ShortcutRule.LEADER else staying]] = True
        decided[wire] = True
    keep |= ~decided  # nobody with a say is on these
    judged = {i: scores[i] for i in free}
    fill(keep, wires, judged, floor, 1)
    unrounded = keep.clone()
    fill(keep, wires, judged, floor, multiple)
    rows = []
    for i, may_go in free.items():
        above = int(wanted[i].sum()) if i in wanted else len(may_go)
        rows.append(PlanRow(i, 0, len(may_go), above, int(keep[wires.outputs[i]].sum())))
    return keep, unrounded, tuple(rows)


def lined(plan: Plan, spec: ModelSpec) -> Plan:
    """The plan with the cfg lines of its layers."""
    return replace(plan, rows=tuple(replace(row, line=spec.layers[row.layer].line) for row in plan.rows))


def validate(percent: float, floor: float, multiple: int) -> None:
    """Refuse what is out of range, with an InputError that says so."""
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


def fill(keep: Tensor, wires: ChannelGroups, scores: Scores, floor: float, multiple: int) -> None:
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
