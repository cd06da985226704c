"""Sparse training as --prune means it: which gammas are pushed, and how far they are."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from utils.darknet.network import Network
from utils.darknet.spec import ModelSpec
from utils.pruning.blocks import layer_gammas
from utils.pruning.layer_plan import plan_layers
from utils.pruning.penalty import SparsityPenalty, reach
from utils.pruning.penalty import StrengthSchedule as Strength
from utils.pruning.plan import ShortcutRule
from utils.pruning.preflight import NEAR_ZERO, QUANTILES, judge, report
from utils.pruning.scores import gammas
from utils.training.schedule import Schedule

log = logging.getLogger(__name__)

TIES = {0: ShortcutRule.KEEP, 1: ShortcutRule.ANY}  # --prune of the channel strategies -> which gammas they can cut
BLOCKS = 2  # --prune of layer pruning


def prunable(spec: ModelSpec, prune: int) -> ShortcutRule | Mapping[int, Tensor]:
    """What ``--prune`` pushes: a tie's channels, or the last gammas of every residual block.

    Raises:
        InputError: the blocks are asked for, and the network has none.
    """
    return layer_gammas(spec) if prune == BLOCKS else TIES[prune]


def sparsity(network: Network, prune: int) -> tuple[dict[int, Tensor], dict[str, Any]]:
    """The gammas that are pushed, [n] by layer, and how sparse they are by the names of results.csv."""
    if prune == BLOCKS:
        pushed = layer_gammas(network.spec)
        offered = {i: values[pushed[i]] for i, values in gammas(network).items() if i in pushed}
        sizes = torch.cat(list(offered.values()))
        scores = sorted(row.score for row in plan_layers(network, n=0).rows)
        message = {f"gamma_q{round(100 * share):02d}": float(sizes.quantile(share)) for share in QUANTILES}
        return offered, {"near_zero": float((sizes < NEAR_ZERO).float().mean()), "weakest_block": scores[0], **message}
    asked = judge(network, tie=TIES[prune])
    found = report(asked)
    shares = {"near_zero": found.near_zero, "safe_percent": found.safe, "survivable_percent": found.survivable}
    return asked.offered(), shares | {f"gamma_q{round(100 * q):02d}": value for q, value in found.quantiles.items()}


def penalty_of(args: argparse.Namespace, spec: ModelSpec, schedule: Schedule, lr: float) -> SparsityPenalty | None:
    """The L1 term of -sr; says so when it is too weak for the run's length."""
    if not args.sparse:
        return None
    penalty = SparsityPenalty(spec, prunable(spec, args.prune), args.s, Strength(args.s_schedule))
    strengths = [penalty.strength(step / schedule.steps) for step in range(schedule.steps)]
    far = reach(1.0, [schedule.rate(i, lr) * s for i, s in enumerate(strengths)], schedule.momentum)
    channels = sum(int(mask.sum()) for mask in penalty.masks.values())
    log.info("sparse: %s channels under s = %g, which alone would move a gamma by %.2g", f"{channels:,}", args.s, far)
    if far < 0.5 and not args.adam:
        log.info("sparse: too little to make a gamma zero; use a larger --s or more --epochs")
    return penalty


def bound(penalty: SparsityPenalty | None, model: nn.Module, schedule: Schedule) -> Callable[[int], None] | None:
    """The penalty as the loop calls it: with the number of the step."""
    if penalty is None:
        return None
    return lambda step: penalty(model.named_parameters(), step / schedule.steps)
