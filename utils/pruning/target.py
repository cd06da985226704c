"""Percents that are found instead of given: by a budget of MACs or parameters, or by what the metric may lose."""

from __future__ import annotations

import math
from collections.abc import Callable

from tqdm import tqdm

from utils.darknet import spec as s
from utils.darknet.counts import count, parameters
from utils.darknet.network import Network
from utils.errors import InputError, UnsurvivableError
from utils.pruning.plan import Plan
from utils.pruning.surgery import narrow

GRID = 10_000  # percents of a budget are multiples of 1 / GRID


def percent_for(
    net: Network,
    *,
    plan_of: Callable[[float], Plan],
    macs: float | None = None,
    params: float | None = None,
    clocks: float | None = None,
    clocks_of: Callable[[s.ModelSpec], int] | None = None,
    size: tuple[int, int] | None = None,
) -> float:
    """The smallest percent whose cut network is within a budget, on a grid of 0.0001.

    Found by bisection, since a larger percent leaves less. Floors, multiples and leaders of ties can bend that rule a
    little: the percent returned is within the budget in any case, the one below it is not.

    Args:
        net: the network to be cut; only its cfg is looked at.
        plan_of: percent -> plan, with the strategy and score that will make the cut.
        macs: budget of MACs: up to 1 a share of the full network's, above that a number.
        params: budget of parameters, likewise; where several are given, all hold.
        clocks: budget of clocks of a frame, likewise, as ``clocks_of`` predicts them for a structure.
        clocks_of: structure -> clocks.
        size: (height, width) px that MACs are counted at; default that of [net].

    Raises:
        InputError: the budget is out of reach (what can be reached is said), not positive, or there is none.
    """
    size = size or (net.spec.height, net.spec.width)
    budgets: list[tuple[str, float, Callable[[s.ModelSpec], int]]] = []
    asked = (
        ("MACs", macs, lambda spec: count(spec, size).macs),
        ("parameters", params, parameters),
        ("clocks", clocks, clocks_of),
    )
    for name, given, cost in asked:
        if given is not None:
            assert cost is not None, "a budget of clocks comes with who counts them"
            budgets.append((name, _budget(name, given, cost(net.spec)), cost))
    if not budgets:
        raise InputError("no budget was given; name a share or a number of MACs (--target-macs) or parameters")

    tries = tqdm(desc="percents", leave=False, delay=2, disable=None)

    def within(step: int) -> bool:
        tries.update()
        small = narrow(net.spec, plan_of(step / GRID))
        return all(cost(small) <= budget for _, budget, cost in budgets)

    with tries:
        if within(0):
            return 0.0
        if not within(GRID - 1):
            raise InputError(_out_of_reach(net.spec, narrow(net.spec, plan_of((GRID - 1) / GRID)), budgets))
        return _bisect(within, GRID - 1) / GRID


def auto_percent(
    measure: Callable[[float], float], *, before: float, max_drop: float, high: float, step: float = 0.01
) -> tuple[float, list[tuple[float, float]]]:
    """A percent as large as possible whose metric, really measured, is at most ``max_drop`` under ``before``.

    First ``high`` itself is tried, then bisection on the grid of ``step``. A metric need not fall steadily with the
    percent, so a larger percent than the one returned may hold as well; but the one returned was measured and holds.

    Args:
        measure: percent -> metric of the network that is cut by it (and recalibrated), larger is better.
        before: metric of the full network.
        max_drop: what may be lost, in the metric's unit (0.01 = a point of mAP).
        high: largest percent to try, in (0, 1).
        step: grid of the percents.

    Returns:
        tuple: the percent, and every (percent, metric) that was measured, in that order.

    Raises:
        UnsurvivableError: even the smallest percent loses more, or there is none to try.
        InputError: an argument is out of range.
    """
    if not (math.isfinite(before) and max_drop >= 0):
        raise InputError(
            f"the metric before ({before}) must be a number and what it may lose ({max_drop}) not negative"
        )
    top = math.floor(high / step + 1e-9)
    if not (0 < high < 1 and top >= 1):
        raise UnsurvivableError(f"the largest percent to try must be in [{step:g}, 1), got {high:g}")
    trace: list[tuple[float, float]] = []
    tries = tqdm(total=1 + math.ceil(math.log2(top)), desc="percents", leave=False, disable=None)

    def holds(steps: int) -> bool:
        percent = round(steps * step, 10)
        trace.append((percent, measure(percent)))
        tries.update()
        return trace[-1][1] >= before - max_drop - 1e-9  # nan holds nothing

    with tries:
        best = top if holds(top) else _bisect(lambda steps: not holds(steps), top) - 1
    if best == 0:
        message = ", ".join(f"{metric:.4f} at {percent:g}" for percent, metric in sorted(trace))
        raise UnsurvivableError(
            f"no percent that was tried keeps the metric within {max_drop:g} of {before:.4f}: {message}; make the "
            "network sparser first (train.py -sr), recalibrate on more images, or allow a larger --max-drop"
        )
    return round(best * step, 10), trace


def _bisect(enough: Callable[[int], bool], high: int) -> int:
    """The smallest step in 1..high that is enough, ``high`` being known to be and 0 known not to be."""
    low = 0
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _budget(name: str, given: float, full: int) -> float:
    if not given > 0:
        raise InputError(f"the target of {name} must be positive, got {given:g}; up to 1 is a share, above it a number")
    return given * full if given <= 1 else given


def _out_of_reach(
    spec: s.ModelSpec, least: s.ModelSpec, budgets: list[tuple[str, float, Callable[[s.ModelSpec], int]]]
) -> str:
    facts = []
    for name, budget, cost in budgets:
        full, left = cost(spec), cost(least)
        if left > budget:
            facts.append(f"{name} fall from {full:,} to {left:,} at most ({left / full:.1%}), not to {budget:,.0f}")
    return f"the target is out of reach: {'; '.join(facts)}; ask for less, lower the floor of each layer, or use slim"
