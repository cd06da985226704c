from __future__ import annotations

import pytest
import torch

from tests.pruning.nets import TINY, random_network, with_gammas
from utils.darknet.network import Network
from utils.errors import InputError
from utils.pruning.plan import ShortcutRule, plan_channels
from utils.pruning.preflight import SAFE_LOSS, check, preflight, safe_percent, sparse_enough
from utils.pruning.scores import gammas

SLIM = {"tie": ShortcutRule.ANY, "floor": 0.01}


def wide(draw, seed: int = 0) -> Network:
    """A yolov3-tiny whose gammas are ``draw(channels)``."""
    net = random_network("tiny")
    text = {8: 64, 12: 96, 6: 48}
    from dataclasses import replace

    from utils.darknet import spec as s

    layers = [replace(a, filters=text[a.filters]) if isinstance(a, s.Conv) and a.bn else a for a in net.spec.layers]
    net = random_network(replace(net.spec, layers=tuple(layers)))
    torch.manual_seed(seed)
    return with_gammas(net, {i: draw(len(g)) for i, g in gammas(net).items()})


def unsparse(n: int):
    return torch.rand(n) / 2 + 0.5


def trained_with_l1(n: int):
    """A fifth alive, the rest where lr·s leaves them."""
    return torch.where(torch.arange(n) % 5 == 0, torch.rand(n) / 2 + 0.2, torch.rand(n) * 1e-3)


def half_way(n: int):
    return torch.randn(n).abs() * 0.2


def test_network_that_is_not_sparse_is_refused_with_the_command_that_makes_it_so():
    net = wide(unsparse)
    assert not sparse_enough(net, 0.8, **SLIM)
    message = r"percent 0.8.*use --percent 0\.\d\d at most.*python3 train.py -sr --s 0.001 --prune 1 --weights.*--force"
    with pytest.raises(InputError, match=message):
        check(net, percent=0.8, **SLIM)


def test_network_trained_with_l1_passes_and_its_dead_channels_are_safe():
    net = wide(trained_with_l1)
    assert check(net, percent=0.8, **SLIM).safe == pytest.approx(0.8, abs=0.02)


def test_moderately_sparse_network_passes_although_it_is_not_safe():
    net = wide(half_way)
    found = check(net, percent=0.7, **SLIM)
    assert found.safe < 0.4


def test_force_reports_and_goes_on():
    assert check(wide(unsparse), percent=0.8, force=True, **SLIM).survivable < 0.8


def test_what_is_called_survivable_passes_and_the_next_percent_does_not():
    net = wide(unsparse)
    percent = preflight(net, **SLIM).survivable
    check(net, percent=percent, **SLIM)
    with pytest.raises(InputError):
        check(net, percent=percent + 0.01, **SLIM)


def test_percent_that_empties_a_layer_names_it():
    net = with_gammas(wide(trained_with_l1), {2: torch.full((64,), 1e-4)})
    with pytest.raises(InputError, match=r"would empty layer 2 \(cfg line \d+\): none of its 64 channels is above"):
        check(net, percent=0.6, **SLIM)


def test_layer_of_small_gammas_with_a_clear_leader_is_not_called_empty():
    leader = torch.full((64,), 1e-9)
    leader[3] = 1e-6
    net = with_gammas(wide(trained_with_l1), {2: leader})
    rows = plan_channels(net, percent=0.8, **SLIM).rows
    assert next(row for row in rows if row.layer == 2).above == 0
    check(net, percent=0.8, **SLIM)


@pytest.mark.parametrize("tie", ShortcutRule)
@pytest.mark.parametrize("draw", [unsparse, trained_with_l1, half_way])
def test_safe_percent_costs_no_layer_more_than_it_says(draw, tie):
    net = wide(draw)
    percent = safe_percent(net, tie=tie)
    plan = plan_channels(net, percent=percent, tie=tie)
    from utils.darknet.channel_groups import trace

    for row in plan.rows:
        energy = gammas(net)[row.layer].square()
        lost = energy[~plan.keep[trace(net.spec).outputs[row.layer]]].sum() / energy.sum()
        assert lost <= SAFE_LOSS


def test_scale_of_a_layer_does_not_count_where_nothing_is_cut_by_it():
    net = wide(trained_with_l1)
    small = with_gammas(net, {i: g * 0.01 for i, g in gammas(net).items()})
    assert safe_percent(small, **SLIM) == safe_percent(net, **SLIM)


def test_limit_is_the_largest_percent_that_leaves_every_layer_something():
    net = wide(half_way)
    found = preflight(net, **SLIM)
    below, above = (
        plan_channels(net, percent=found.limit + d, tie=ShortcutRule.ANY) for d in (0.0, 2 / found.channels)
    )
    assert min(row.above for row in below.rows) == 1
    assert min(row.above for row in above.rows) == 0


def test_report_counts_and_orders_the_gammas():
    net = wide(trained_with_l1)
    found = preflight(net, **SLIM)
    everything = torch.cat(list(gammas(net).values()))
    assert found.channels == len(everything)
    assert found.near_zero == pytest.approx(float((everything < 0.01).float().mean()))
    assert list(found.quantiles.values()) == sorted(found.quantiles.values())
    assert found.quantiles[1.0] == everything.max()
    assert sum(row.channels for row in found.layers) == found.channels


@pytest.mark.parametrize("path", TINY, ids=lambda p: p.stem)
def test_equal_or_dead_gammas_are_reported_without_crashing(path):
    net = random_network(path)
    for value in (0.0, 1.0):
        found = preflight(with_gammas(net, {i: torch.full_like(g, value) for i, g in gammas(net).items()}), **SLIM)
        assert found.safe >= 0
        assert found.limit == 0
