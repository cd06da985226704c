from __future__ import annotations

import pytest
import torch

from tests.pruning.nets import SHIPPED, TINY, random_network, with_gammas
from utils.darknet import spec as s
from utils.darknet.cfg import read_cfg
from utils.darknet.channel_groups import trace
from utils.darknet.fold import fold_bn
from utils.errors import InputError
from utils.pruning.plan import ShortcutRule, decide, plan_channels
from utils.pruning.scores import gammas
from utils.pruning.surgery import cut

STRATEGIES = {
    "normal": {"tie": ShortcutRule.KEEP},
    "regular": {"tie": ShortcutRule.KEEP, "multiple": 4},
    "shortcut": {"tie": ShortcutRule.LEADER},
    "slim": {"tie": ShortcutRule.ANY, "floor": 0.25},
}


def equal_gammas(net, value: float):
    return with_gammas(net, {i: torch.full_like(g, value) for i, g in gammas(net).items()})


@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize("percent", [0.0, 0.3, 0.99])
@pytest.mark.parametrize("path", TINY, ids=lambda p: p.stem)
def test_no_layer_falls_under_its_floor_and_no_plan_takes_too_much(path, percent, name):
    net = random_network(path)
    flags = STRATEGIES[name]
    plan = plan_channels(net, percent=percent, **flags)
    for row in plan.rows:
        assert row.after >= max(1, round(row.before * flags.get("floor", 0)))
        assert row.after % flags.get("multiple", 1) == 0 or row.after == row.before
    if flags["tie"] is not ShortcutRule.LEADER:  # a leader also takes the channels of those that follow it
        assert plan.removed <= percent + 1e-9
    cut(net, plan)


def test_percent_is_exact_where_nothing_is_tied_or_floored():
    net = random_network("plain")
    plan = plan_channels(net, percent=0.5, tie=ShortcutRule.ANY)
    assert sum(row.after for row in plan.rows) == 16
    kept = torch.cat([gammas(net)[r.layer][plan.keep[trace(net.spec).outputs[r.layer]]] for r in plan.rows])
    everything = torch.cat([gammas(net)[r.layer] for r in plan.rows])
    assert torch.equal(kept.sort().values, everything.sort().values[16:])
    assert plan.threshold == kept.min()


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("name", STRATEGIES)
def test_threshold_tie_neither_crashes_nor_empties_a_layer(name, value):
    for path in TINY:
        net = equal_gammas(random_network(path), value)
        plan = plan_channels(net, percent=0.7, **STRATEGIES[name])
        assert all(row.after >= 1 for row in plan.rows)


def test_dead_channels_can_go_although_the_threshold_is_zero():
    net = equal_gammas(random_network("plain"), 0.0)
    net = with_gammas(net, {0: torch.tensor([1.0, 1, 1, 1, 0, 0, 0, 0])})
    plan = plan_channels(net, percent=0.5, tie=ShortcutRule.ANY)
    assert [row.after for row in plan.rows] == [4, 1, 4, 8]
    assert plan.keep[trace(net.spec).outputs[0][:4]].all()


def test_rounding_up_never_exceeds_the_width():
    """The reference loses more than asked where the rounded number is above the width: 40 channels, 36 kept -> 24."""
    layers = (s.Conv(sources=(-1,), filters=40, bn=True), s.Conv(sources=(0,), filters=5))
    net = random_network(s.ModelSpec(layers=layers))
    for percent, kept in ((0.1, 40), (0.2, 32), (0.19, 40), (0.3, 32), (0.65, 16)):
        assert plan_channels(net, percent=percent, tie=ShortcutRule.KEEP, multiple=16).rows[0].after == kept


def test_rounding_holds_on_tied_widths_too():
    net = random_network("residual")
    plan = plan_channels(net, percent=0.6, tie=ShortcutRule.ANY, multiple=4)
    assert {row.after % 4 for row in plan.rows} == {0}


def test_shortcut_wires_are_left_alone_by_normal_pruning():
    net = random_network("residual")
    plan = plan_channels(net, percent=0.9, tie=ShortcutRule.KEEP)
    wires = trace(net.spec)
    assert plan.keep[wires.tied].all()
    assert {row.layer for row in plan.rows} == {1, 4, 11}


def test_first_layer_on_the_wire_decides_for_those_that_follow():
    net = with_gammas(random_network("residual"), {0: torch.tensor([1.0, 1, 1, 1, 0, 0, 0, 0])})
    plan = plan_channels(net, percent=0.3, tie=ShortcutRule.LEADER)
    expected = torch.tensor([True] * 4 + [False] * 4)
    assert torch.equal(plan.keep[trace(net.spec).outputs[2]], expected)


def test_channel_stays_if_any_layer_on_the_wire_wants_it():
    gone = {0: torch.tensor([1.0, 1, 0, 0, 0, 0, 0, 0]), 2: torch.tensor([0.0, 0, 0, 0, 0, 0, 1, 1])}
    net = with_gammas(random_network("residual"), {**gone, 5: torch.zeros(8)})
    plan = plan_channels(net, percent=0.4, tie=ShortcutRule.ANY)
    keep = plan.keep[trace(net.spec).outputs[3]]
    assert keep[[0, 1, 6, 7]].all()
    assert not keep[[3, 4, 5]].any()


def test_floor_of_each_layer_on_a_wire_is_its_own_choice():
    """What the first layer wants fills the floor of the others in number, but not with the channels they live on."""
    net = with_gammas(
        random_network("residual"), {0: torch.tensor([2.0, 2, 2, 2, 0, 0, 0, 0]), 2: torch.tensor([0.0] * 7 + [1e-6])}
    )
    net = with_gammas(net, {5: torch.zeros(8)})
    plan = plan_channels(net, percent=0.4, tie=ShortcutRule.ANY)
    assert plan.keep[trace(net.spec).outputs[2][7]]


def test_grouped_convolution_loses_whole_groups():
    net = with_gammas(random_network("grouped"), {1: torch.ones(12), 2: torch.tensor([1.0, 1, 0, 0, 0, 0, 1, 1])})
    net = with_gammas(net, {1: torch.tensor([1.0] * 3 + [0] * 6 + [1] * 3)})
    small = cut(net, plan_channels(net, percent=0.2, tie=ShortcutRule.ANY))
    layer = small.spec.layers[2]
    assert isinstance(layer, s.Conv)
    assert (layer.filters, layer.groups) == (4, 2)


def test_another_score_is_another_function():
    net = random_network("plain")

    def against_gamma(net):
        return {i: 1 - g for i, g in gammas(net).items()}

    usual, other = (plan_channels(net, percent=0.5, tie=ShortcutRule.ANY, score=f) for f in (gammas, against_gamma))
    free = ~trace(net.spec).locked
    assert (usual.keep[free] ^ other.keep[free]).float().mean() > 0.8


def test_plan_can_be_printed():
    text = str(plan_channels(random_network("plain"), percent=0.5, tie=ShortcutRule.ANY))
    assert text.startswith("percent 0.5, threshold 0.")
    assert "layer 0 (cfg line 9): 8 -> " in text


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"percent": 1.0}, r"percent must be in \[0, 1\), got 1.0"),
        ({"floor": 1.2}, "got 1.2"),
        ({"multiple": 0}, "at least 1, got 0"),
    ],
)
def test_arguments_out_of_range_are_refused(flags, message):
    with pytest.raises(InputError, match=message):
        plan_channels(random_network("plain"), **{"percent": 0.5, "tie": ShortcutRule.ANY, **flags})


def test_folded_network_has_nothing_to_prune():
    with pytest.raises(InputError, match="pruned before folding"):
        plan_channels(fold_bn(random_network("plain")), percent=0.5, tie=ShortcutRule.ANY)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_slim_offers_every_convolution_with_batch_norm_of_the_shipped_cfgs(path):
    spec = read_cfg(path)
    wires = trace(spec)
    plan = decide(
        wires, {i: torch.ones(len(wires.outputs[i])) for i in wires.voters}, percent=0.0, tie=ShortcutRule.ANY
    )
    convolutions = [layer for layer in spec.layers if isinstance(layer, s.Conv) and layer.bn]
    assert len(plan.rows) == sum(not 1 < layer.groups == layer.filters for layer in convolutions)  # depthwise follow
    assert plan.removed == 0
