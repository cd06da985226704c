from __future__ import annotations

import math

import pytest
import torch

from tests.pruning.nets import SHIPPED, TINY, assert_same, image, random_network, run
from utils.darknet.cfg import read_cfg
from utils.darknet.channel_groups import trace
from utils.darknet.counts import count, parameters
from utils.errors import InputError
from utils.pruning.criteria import l1
from utils.pruning.layerwise import plan_layerwise
from utils.pruning.plan import ShortcutRule, offered, plan_channels
from utils.pruning.scores import gammas, strengths
from utils.pruning.search import search
from utils.pruning.surgery import cut, narrow, silence

SIZE = (64, 64)


def macs(spec) -> int:
    return count(spec, SIZE).macs


def found(net, **flags):
    asked = {
        "candidates": 6,
        "remain": 0.5,
        "delta": 0.05,
        "measure": lambda small: -abs(parameters(small.spec) - 1000),
        "recalibrate": lambda small: small,
        "macs": macs,
        "seed": 0,
        "tie": ShortcutRule.ANY,
    }
    return search(net, **{**asked, **flags})


@pytest.mark.parametrize("tie", ShortcutRule)
@pytest.mark.parametrize("path", TINY, ids=lambda p: p.stem)
def test_rates_become_a_plan_that_the_engine_cuts(path, tie):
    net = random_network(path)
    wires = trace(net.spec)
    if tie is ShortcutRule.KEEP and (wires.locked | wires.tied).all():
        pytest.skip("all its wires are tied")
    layers = offered(wires, tie)
    plan = plan_layerwise(net, dict.fromkeys(layers, 0.6), tie=tie, multiple=2)
    assert 0 < plan.removed <= 0.75
    assert all(row.after % 2 == 0 or row.after == row.before for row in plan.rows)
    x = image(net, 1, 64)
    assert_same(run(cut(net, plan), x), run(silence(net, plan), x))


@pytest.mark.parametrize(
    ("rate", "kept"), [(0.0, 8), (0.1, 8), (0.125, 7), (0.5, 4), (0.7, 3), (0.75, 2), (0.99, 1), (1.0, 1)]
)
def test_layer_loses_its_weakest_and_never_more_than_asked(rate, kept):
    net = random_network("plain")
    plan = plan_layerwise(net, {0: rate}, tie=ShortcutRule.ANY)
    keep = plan.keep[trace(net.spec).outputs[0]]
    assert int(keep.sum()) == kept
    strongest = gammas(net)[0].argsort(descending=True)[:kept]
    assert keep[strongest].all()
    assert [row.after for row in plan.rows] == [kept, 8, 8, 8]


def test_ties_follow_the_table_when_every_layer_has_its_rate():
    net = random_network("residual")
    wires = trace(net.spec)
    scores = strengths(net.spec, wires, gammas(net))
    rates = {0: 0.5, 2: 0.5, 5: 0.5}
    best = {i: set(wires.outputs[i][scores[i].argsort(descending=True)[:4]].tolist()) for i in rates}
    tied = set(wires.outputs[0].tolist())
    kept = {
        tie: set(plan_layerwise(net, rates, tie=tie).keep.nonzero().flatten().tolist()) & tied
        for tie in (ShortcutRule.ANY, ShortcutRule.LEADER)
    }
    assert kept[ShortcutRule.ANY] == best[0] | best[2] | best[5]
    assert kept[ShortcutRule.LEADER] == best[0]
    with pytest.raises(InputError, match="layer 0 has nothing to prune"):
        plan_layerwise(net, rates, tie=ShortcutRule.KEEP)


def test_layer_without_a_rate_has_no_say_about_wires_it_shares():
    net = random_network("residual")
    plan = plan_layerwise(net, {2: 0.5}, tie=ShortcutRule.ANY)
    wires = trace(net.spec)
    assert int(plan.keep[wires.outputs[2]].sum()) == 4
    alone = [i for i in wires.voters if not set(wires.outputs[i].tolist()) & set(wires.outputs[2].tolist())]
    assert all(plan.keep[wires.outputs[i]].all() for i in alone)
    assert alone


def test_plan_of_rates_has_no_threshold_and_says_so():
    text = str(plan_layerwise(random_network("plain"), {0: 0.5}, tie=ShortcutRule.ANY))
    assert text.startswith("percent 0.125, a threshold a layer: 12.5% of the channels go")


@pytest.mark.parametrize(
    ("rates", "message"), [({0: 1.5}, "got 1.5"), ({0: math.nan}, "got nan"), ({1: 0.5}, "layer 1")]
)
def test_rates_out_of_range_or_of_no_layer_are_refused(rates, message):
    with pytest.raises(InputError, match=message):
        plan_layerwise(random_network("plain"), rates, tie=ShortcutRule.ANY)


@pytest.mark.parametrize("share", [0.9, 0.5, 0.2])
@pytest.mark.parametrize("path", TINY, ids=lambda p: p.stem)
def test_every_candidate_is_within_the_budget_and_differs(path, share):
    net = random_network(path)
    full, layers = macs(net.spec), offered(trace(net.spec), ShortcutRule.ANY)
    least = macs(narrow(net.spec, plan_layerwise(net, dict.fromkeys(layers, 1.0), tie=ShortcutRule.ANY))) / full
    remain = least + share * (1 - least)
    result = found(net, remain=remain, delta=0.08, candidates=4)
    assert len(result.trace) == 4
    assert all(abs(each.macs / full - remain) <= 0.08 for each in result.trace)
    assert len({each.rates for each in result.trace}) == 4
    assert macs(narrow(net.spec, result.plan)) == result.trace[result.best].macs


def test_best_metric_wins_and_its_plan_is_the_one_returned():
    net = random_network("tiny")
    seen = []

    def measure(small):
        seen.append(parameters(small.spec))
        return float(seen[-1])

    result = found(net, measure=measure)
    assert [each.metric for each in result.trace] == seen
    assert result.best == seen.index(max(seen)) and len(set(seen)) > 1
    assert parameters(narrow(net.spec, result.plan)) == max(seen)
    rates = dict(result.trace[result.best].rates)
    assert torch.equal(plan_layerwise(net, rates, tie=ShortcutRule.ANY, score=l1).keep, result.plan.keep)


def test_same_seed_finds_the_same_and_another_does_not():
    net = random_network("csp")
    first, again, other = found(net), found(net), found(net, seed=1)
    assert first.trace == again.trace and torch.equal(first.plan.keep, again.plan.keep)
    assert first.trace != other.trace


def test_candidates_are_recalibrated_before_they_are_measured():
    order = []

    def note(what):
        return lambda small: order.append(what) or small if what == "recalibrate" else order.append(what) or 0.0

    found(random_network("plain"), candidates=2, recalibrate=note("recalibrate"), measure=note("measure"))
    assert order == ["recalibrate", "measure"] * 2


@pytest.mark.parametrize("metric", [0.0, math.nan])
def test_search_winner_is_defined_when_every_metric_is_zero(metric):
    """The reference copies a best network that was never set."""
    result = found(random_network("plain"), measure=lambda small: metric)
    assert result.best == 0
    assert macs(narrow(random_network("plain").spec, result.plan)) == result.trace[0].macs


def test_metric_that_is_no_number_loses():
    values = iter([math.nan, 0.1, math.nan, 0.1, 0.0, math.nan])
    assert found(random_network("plain"), measure=lambda small: next(values)).best == 1


def test_search_with_an_unreachable_budget_ends_with_an_error():
    """The reference draws forever."""
    with pytest.raises(InputError, match=r"no network of 5% ± 1.0% of the MACs can be cut: .* 6\d\.\d% are left"):
        found(random_network("plain"), remain=0.05, delta=0.01, floor=0.8)


def test_search_between_two_steps_of_the_rounding_ends_with_an_error():
    net = random_network("plain")
    with pytest.raises(InputError, match=r"in 20 draws: they reached \d+\.\d% to \d+\.\d%, \d\d\.\d+% at the nearest"):
        found(net, remain=0.9, delta=0.0005, multiple=4)


@pytest.mark.parametrize("wrong", [{"candidates": 0}, {"remain": 0.0}, {"remain": 1.2}, {"delta": -0.1}])
def test_arguments_of_the_search_out_of_range_are_refused(wrong):
    with pytest.raises(InputError):
        found(random_network("plain"), **wrong)


def test_small_budgets_are_met_without_losing_a_draw():
    """Independent draws of U(0, 1) miss 20 % ± 2 % of yolov3-tiny nearly always; shapes with a strength do not."""
    net = random_network(read_cfg(next(path for path in SHIPPED if path.stem == "yolov3-tiny")))
    calls = []
    result = found(
        net,
        candidates=3,
        remain=0.2,
        delta=0.02,
        recalibrate=lambda small: calls.append(1) or small,
        make=lambda full, plan: full,
    )
    assert len(calls) == 3 == len(result.trace)


def test_rounding_above_the_width_never_prunes_more():
    """The reference rounds 20 of 24 up to 32 and, that being too many, prunes to something else."""
    from utils.darknet import spec as s

    for width, kept, multiple, after in ((24, 20, 32, 24), (40, 36, 16, 40), (120, 119, 32, 120), (40, 30, 16, 32)):
        net = random_network(s.ModelSpec(layers=(
            s.Conv(sources=(-1,), filters=width, bn=True),
            s.Conv(sources=(0,), filters=width, bn=True),
            s.Shortcut(sources=(1, 0)),
            s.Conv(sources=(2,), filters=5),
        )))  # fmt: skip
        rate = 1 - kept / width
        for tie in (ShortcutRule.ANY, ShortcutRule.LEADER):
            layerwise = plan_layerwise(net, {0: rate}, tie=tie, multiple=multiple)
            assert [row.after for row in layerwise.rows] == [after, after]
            usual = plan_channels(net, percent=rate, tie=tie, multiple=multiple)
            assert all(row.after >= min(row.above, width) and row.after in (width, row.after // multiple * multiple)
                       for row in usual.rows)  # fmt: skip


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_ties_at_the_threshold_do_not_crash(value):
    """The reference indexes an empty list when all gammas are equal; here every score may be, at every rate."""
    for path in TINY:
        net = random_network(path)
        layers = offered(trace(net.spec), ShortcutRule.ANY)

        def equal(net):
            return {i: torch.full_like(g, value) for i, g in gammas(net).items()}

        for rate in (0.0, 0.5, 1.0):
            plan = plan_layerwise(net, dict.fromkeys(layers, rate), tie=ShortcutRule.ANY, score=equal)
            assert all(row.after >= 1 for row in plan.rows)


def test_percent_next_to_one_is_refused_not_an_index_error():
    net = random_network("plain")
    with pytest.raises(InputError, match=r"leaves none of the 32 channels; use 0.9688 at most"):
        plan_channels(net, percent=1 - 1e-12, tie=ShortcutRule.ANY)
    plan = plan_channels(net, percent=31 / 32, tie=ShortcutRule.ANY)
    assert [row.after for row in plan.rows] == [1, 1, 1, 1]
