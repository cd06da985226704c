"""Sparse training as --prune means it: which gammas are pushed, and how far they are."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from utils.darknet.network import Network
from utils.darknet.spec import ModelSpec
from utils.pruning.blocks import layer_gammas
from utils.pruning.layer_plan import plan_layers
from utils.pruning.penalty import SparsityPenalty, StrengthSchedule, reach
from utils.pruning.plan import ShortcutRule
from utils.pruning.preflight import NEAR_ZERO, QUANTILES, judge, report
from utils.pruning.scores import gammas

log = logging.getLogger(__name__)

TIES = {0: ShortcutRule.KEEP, 1: ShortcutRule.ANY}  # --prune of the channel strategies -> which gammas they can cut
ENOUGH = 0.5  # a push that moves a gamma less far makes none of them zero
BLOCKS = 2  # --prune of layer pruning


class RateSchedule(Protocol):
    """How long a run is and how fast it learns, as far as a penalty asks."""

    @property
    def steps(self) -> int:
        """Optimizer steps of the run."""

    @property
    def momentum(self) -> float:
        """Of the optimizer, behind the warm-up."""

    def rate(self, step: int, full: float) -> float:
        """Learning rate at a step, of a parameter whose full rate is ``full``."""


def prunable(spec: ModelSpec, prune: int) -> ShortcutRule | Mapping[int, Tensor]:
    """What ``--prune`` pushes: a tie's channels, or the last gammas of every residual block.

    Raises:
        InputError: the blocks are asked for, and the network has none.
    """
    return layer_gammas(spec) if prune == BLOCKS else TIES[prune]


def sparsity(network: Network, prune: int) -> tuple[dict[int, Tensor], dict[str, float]]:
    """The gammas that are pushed, [n] by layer, and how sparse they are by the names of results.csv."""
    if prune == BLOCKS:
        pushed = layer_gammas(network.spec)
        offered = {i: values[pushed[i]] for i, values in gammas(network).items() if i in pushed}
        sizes = torch.cat(list(offered.values()))
        scores = sorted(row.score for row in plan_layers(network, n=0).rows)
        shares = {"near_zero": float((sizes < NEAR_ZERO).float().mean()), "weakest_block": scores[0]}
        return offered, shares | _quantiles({share: float(sizes.quantile(share)) for share in QUANTILES})
    asked = judge(network, tie=TIES[prune])
    found = report(asked)
    shares = {"near_zero": found.near_zero, "safe_percent": found.safe, "survivable_percent": found.survivable}
    return asked.offered(), shares | _quantiles(found.quantiles)


def penalty_of(
    spec: ModelSpec, schedule: RateSchedule, *, prune: int, s: float, s_schedule: str, lr: float, adam: bool
) -> SparsityPenalty:
    """The L1 term of -sr; says so when it is too weak for the run's length.

    Args:
        spec: of the network that is trained.
        schedule: of its learning rate.
        prune: what is pushed, as in `prunable`.
        s: strength of the push, an optimizer step.
        s_schedule: a value of `StrengthSchedule`.
        lr: the full learning rate.
        adam: whether steps are AdamW's, whose reach is not known beforehand.
    """
    penalty = SparsityPenalty(spec, prunable(spec, prune), s, StrengthSchedule(s_schedule))
    far = reach_of(penalty, schedule, lr)
    channels = sum(int(mask.sum()) for mask in penalty.masks.values())
    log.info("sparse: %s channels under s = %g, which alone would move a gamma by %.2g", f"{channels:,}", s, far)
    if 0 < far < ENOUGH and not adam:
        more = ENOUGH / far
        log.info("sparse: too little to make a gamma zero; %.1f times the --epochs would, or s = %.2g", more, s * more)
    return penalty


def reach_of(penalty: SparsityPenalty, schedule: RateSchedule, lr: float) -> float:
    """How far a run's push alone moves a gamma."""
    strengths = [penalty.strength(step / schedule.steps) for step in range(schedule.steps)]
    return reach(1.0, [schedule.rate(i, lr) * strength for i, strength in enumerate(strengths)], schedule.momentum)


def bound(penalty: SparsityPenalty | None, model: nn.Module, schedule: RateSchedule) -> Callable[[int], None] | None:
    """The penalty as the loop calls it: with the number of the step."""
    if penalty is None:
        return None
    return lambda step: penalty(model.named_parameters(), step / schedule.steps)


def _quantiles(values: Mapping[float, float]) -> dict[str, float]:
    return {f"gamma_q{round(100 * share):02d}": value for share, value in values.items()}
