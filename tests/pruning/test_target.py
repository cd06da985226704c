from __future__ import annotations

import math

import pytest

from tests.pruning.nets import TINY, random_network
from utils.darknet.counts import count, parameters
from utils.errors import InputError
from utils.pruning.plan import ShortcutRule, plan_channels
from utils.pruning.surgery import narrow
from utils.pruning.target import GRID, auto_percent, percent_for


def slim(net, **flags):
    return lambda percent: plan_channels(net, percent=percent, tie=ShortcutRule.ANY, **flags)


@pytest.mark.parametrize("kind", ["macs", "params"])
@pytest.mark.parametrize("share", [0.8, 0.4])
@pytest.mark.parametrize("path", TINY, ids=lambda p: p.stem)
def test_percent_for_a_budget_meets_it_and_the_next_smaller_one_does_not(path, share, kind):
    net = random_network(path)
    count_ = parameters if kind == "params" else lambda spec: count(spec, (64, 64)).macs

    def left(percent: float) -> int:
        return count_(narrow(net.spec, slim(net)(percent)))

    least = left(1 - 1 / GRID)
    budget = least + share * (left(0.0) - least)  # a group of a grouped convolution is much of a network
    percent = percent_for(net, plan_of=slim(net), **{kind: budget}, size=(64, 64))
    assert left(percent) <= budget < left(percent - 1 / GRID)


def test_number_and_share_are_the_same_budget():
    net = random_network("tiny")
    full = parameters(net.spec)
    found = [percent_for(net, plan_of=slim(net), params=budget) for budget in (0.5, full // 2)]
    assert found[0] == found[1] > 0


def test_both_budgets_hold():
    net = random_network("tiny")
    one, other = (percent_for(net, plan_of=slim(net), **budget) for budget in ({"macs": 0.3}, {"params": 0.6}))
    assert percent_for(net, plan_of=slim(net), macs=0.3, params=0.6) == max(one, other)


def test_clocks_are_a_budget_as_parameters_are():
    """Whoever counts clocks is handed in: counting parameters, it gives the percent of parameters."""
    net = random_network("tiny")
    by_clocks = percent_for(net, plan_of=slim(net), clocks=0.5, clocks_of=parameters)
    assert by_clocks == percent_for(net, plan_of=slim(net), params=0.5) > 0
    with pytest.raises(InputError, match=r"out of reach: clocks fall from [\d,]+ to [\d,]+ at most"):
        percent_for(net, plan_of=slim(net), clocks=1.5, clocks_of=parameters)


def test_budget_that_the_full_network_meets_cuts_nothing():
    net = random_network("tiny")
    assert percent_for(net, plan_of=slim(net), params=1.0) == 0
    assert percent_for(net, plan_of=slim(net), macs=1e12) == 0


def test_target_out_of_reach_says_what_can_be_reached():
    net = random_network("tiny")
    left = parameters(narrow(net.spec, slim(net, floor=0.5)(1 - 1 / GRID)))
    message = (
        rf"out of reach: parameters fall from {parameters(net.spec):,} to {left:,} at most \(\d\d\.\d%\), not to 10;"
    )
    with pytest.raises(InputError, match=message):
        percent_for(net, plan_of=slim(net, floor=0.5), params=10, macs=0.9)


@pytest.mark.parametrize("budget", [{"macs": 0}, {"params": -3.0}, {"params": math.nan}])
def test_target_that_is_not_positive_is_refused(budget):
    net = random_network("plain")
    with pytest.raises(InputError, match="must be positive"):
        percent_for(net, plan_of=slim(net), **budget)


def test_no_target_at_all_is_refused():
    net = random_network("plain")
    with pytest.raises(InputError, match="no budget"):
        percent_for(net, plan_of=slim(net))


@pytest.mark.parametrize("edge", [0.01, 0.02, 0.37, 0.74, 0.89])
def test_auto_percent_is_the_largest_that_holds_where_the_metric_falls_steadily(edge):
    percent, trace = auto_percent(lambda p: 0.9 if p <= edge + 1e-9 else 0.5, before=0.9, max_drop=0.01, high=0.9)
    assert percent == edge
    assert len(trace) <= 8
    assert trace[0] == (0.9, 0.5)


def test_highest_percent_is_tried_first_and_taken_when_it_holds():
    assert auto_percent(lambda p: 0.95, before=0.9, max_drop=0.0, high=0.85) == (0.85, [(0.85, 0.95)])


def test_metric_that_rises_and_falls_still_ends_with_one_that_holds():
    def measure(percent: float) -> float:
        return 0.9 - 0.1 * math.sin(20 * percent) ** 2 - 0.1 * percent

    for drop in (0.01, 0.05, 0.15):
        percent, trace = auto_percent(measure, before=0.9, max_drop=drop, high=0.95)
        assert (percent, measure(percent)) in trace
        assert measure(percent) >= 0.9 - drop


def test_drop_of_exactly_what_is_allowed_holds():
    assert auto_percent(lambda p: 0.3 - 0.1, before=0.3, max_drop=0.1, high=0.5)[0] == 0.5


@pytest.mark.parametrize("after", [0.1, math.nan])
def test_not_even_the_smallest_percent_is_an_error_with_the_numbers(after):
    with pytest.raises(
        InputError, match=rf"no percent that was tried keeps the metric within 0.01 of 0.9000: {after:.4f} at 0.01, "
    ):
        auto_percent(lambda p: after, before=0.9, max_drop=0.01, high=0.9)


@pytest.mark.parametrize(
    "wrong", [{"before": math.nan}, {"max_drop": -0.1}, {"high": 0.004}, {"high": 1.0}, {"high": 0.0}]
)
def test_arguments_of_auto_percent_out_of_range_are_refused(wrong):
    with pytest.raises(InputError):
        auto_percent(lambda p: 1.0, **{"before": 0.9, "max_drop": 0.01, "high": 0.9, **wrong})
