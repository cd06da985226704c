from __future__ import annotations

import pytest

from tests.pruning.nets import TINY, random_network
from utils.darknet.channel_groups import trace
from utils.darknet.counts import parameters
from utils.errors import InputError
from utils.pruning.layerwise import plan_layerwise
from utils.pruning.plan import ShortcutRule, offered
from utils.pruning.search import absorbed_cut
from utils.pruning.sensitivity import SensitivityRow, sensitivity


def size(net) -> float:
    return float(parameters(net.spec))


@pytest.mark.parametrize("path", TINY, ids=lambda p: p.stem)
def test_each_row_is_the_metric_of_the_network_that_lost_this_layer_only(path):
    net = random_network(path)
    rows = sensitivity(net, percents=[0.0, 0.5], measure=size, tie=ShortcutRule.ANY)
    assert [row.layer for row in rows[::2]] == list(offered(trace(net.spec), ShortcutRule.ANY))
    for row in rows:
        plan = plan_layerwise(net, {row.layer: row.percent}, tie=ShortcutRule.ANY)
        assert row.metric == size(absorbed_cut(net, plan))
        assert row.line == net.spec.layers[row.layer].line
        assert row.metric <= size(net) if row.percent else row.metric == size(net)
    assert min(row.metric for row in rows) < size(net)


def test_networks_that_are_the_same_are_measured_once():
    net, measured = random_network("plain"), []
    rows = sensitivity(
        net, percents=[0.0, 0.12, 0.13, 0.2, 0.5], measure=lambda n: measured.append(n) or size(n), tie=ShortcutRule.ANY
    )
    assert len(rows) == 20
    assert len(measured) == 1 + 4 + 4  # uncut (twice), 7 of 8 (twice), 4 of 8


def test_layers_and_order_are_those_asked_for_and_rows_are_plain_tuples():
    net = random_network("plain")
    rows = sensitivity(net, layers=[4, 0], percents=[0.5], measure=lambda n: 0.25, tie=ShortcutRule.ANY)
    assert [row.layer for row in rows] == [4, 0]
    assert rows[0] == (4, net.spec.layers[4].line, 0.5, 0.25)
    assert isinstance(rows[0], SensitivityRow)


def test_each_cut_is_recalibrated_when_asked():
    net, order = random_network("plain"), []
    sensitivity(
        net,
        layers=[0],
        percents=[0.5, 0.9],
        measure=lambda n: order.append("measure") or 0.0,
        recalibrate=lambda n: order.append("recalibrate") or n,
        tie=ShortcutRule.ANY,
    )
    assert order == ["recalibrate", "measure"] * 2


def test_layers_on_one_wire_are_judged_one_after_the_other():
    net = random_network("residual")
    rows = sensitivity(net, layers=[0, 2], percents=[0.5], measure=size, tie=ShortcutRule.ANY)
    assert rows[0].metric == rows[1].metric < size(net)  # as many go, but not the same
    keeps = [plan_layerwise(net, {i: 0.5}, tie=ShortcutRule.ANY).keep for i in (0, 2)]
    assert (keeps[0] != keeps[1]).any()


@pytest.mark.parametrize("percents", [[0.5, 1.0], [-0.1], []])
def test_percents_out_of_range_are_refused(percents):
    with pytest.raises(InputError, match=r"must be in \[0, 1\)"):
        sensitivity(random_network("plain"), percents=percents, measure=size, tie=ShortcutRule.ANY)


def test_layer_that_the_strategy_leaves_alone_is_refused():
    with pytest.raises(InputError, match="layer 0 has nothing to prune"):
        sensitivity(random_network("residual"), layers=[0], percents=[0.5], measure=size, tie=ShortcutRule.KEEP)
