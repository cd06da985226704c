"""Which wires stay when every layer has a rate of its own, as random search and sensitivity ask for."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from utils.darknet.channel_groups import ChannelGroups, trace
from utils.darknet.network import Network
from utils.errors import InputError
from utils.pruning.plan import Plan, ShortcutRule, lined, offered, settle, spread, validate
from utils.pruning.scores import Score, Scores, gammas, strengths


def plan_layerwise(
    net: Network,
    rates: Mapping[int, float],
    *,
    tie: ShortcutRule,
    floor: float = 0.0,
    multiple: int = 1,
    score: Score = gammas,
    scope: frozenset[int] | None = None,
) -> Plan:
    """Let each layer lose its weakest channels: int(free channels * rate) of them, never more than asked.

    A layer without a rate has no say: its wires stay, unless another layer on them has one.

    Args:
        net: the network to judge; it is not changed.
        rates: share of its free channels that each layer wants to lose, 0..1, by layer number.
        tie: as in `plan_channels`, and so are the others.
        floor: likewise.
        multiple: likewise.
        score: likewise.
        scope: likewise.

    Raises:
        InputError: an argument is out of range, or a layer that is not offered has a rate.
    """
    wires = trace(net.spec)
    scores = strengths(net.spec, wires, score(net))
    plan = decide_layerwise(wires, scores, rates, tie=tie, floor=floor, multiple=multiple, scope=scope)
    return lined(plan, net.spec)


def decide_layerwise(
    wires: ChannelGroups,
    scores: Scores,
    rates: Mapping[int, float],
    *,
    tie: ShortcutRule,
    floor: float = 0.0,
    multiple: int = 1,
    scope: frozenset[int] | None = None,
) -> Plan:
    """The decision behind `plan_layerwise`; there is no threshold, and ``percent`` is what the rates ask for."""
    validate(0.0, floor, multiple)
    free, wanted = offered(wires, tie, scope), {}
    for i, rate in sorted(rates.items()):
        if i not in free:
            raise InputError(f"layer {i} has nothing to prune: it is locked, tied, out of scope, or no convolution")
        if not 0 <= rate <= 1:
            raise InputError(f"the rate of layer {i} must be in [0, 1], got {rate}")
        judged = scores[i][free[i]]
        going = int(len(judged) * rate + 1e-9)  # 0.29 * 100 is 28.999…
        part = torch.ones(len(judged), dtype=torch.bool)
        part[judged.argsort(stable=True)[:going]] = False
        wanted[i] = spread(part, free[i])
    keep, unrounded, rows = settle(wires, scores, free, wanted, tie=tie, floor=floor, multiple=multiple)
    asked = 1 - sum(row.above for row in rows) / sum(row.before for row in rows)
    return Plan(keep, math.nan, asked, tie, rows, multiple, {i: scores[i] for i in free}, unrounded)
