from __future__ import annotations

import pytest
import torch

from tests.pruning.nets import ROOT, TINY, assert_same, image, random_network, run, with_gammas
from utils.darknet import spec as s
from utils.darknet.cfg import read_cfg
from utils.darknet.channel_groups import trace
from utils.errors import InputError
from utils.pruning.criteria import l1
from utils.pruning.layerwise import plan_layerwise
from utils.pruning.plan import ShortcutRule, plan_channels
from utils.pruning.preflight import check, judge, preflight
from utils.pruning.scope import backbone, parse_scope
from utils.pruning.surgery import cut, silence


def shipped(name: str) -> s.ModelSpec:
    return read_cfg(ROOT / "cfg" / f"{name}.cfg")


def test_all_is_every_layer_that_pruning_can_judge():
    for path in TINY:
        spec = read_cfg(path)
        assert parse_scope("all", spec) == set(trace(spec).voters)


def test_numbers_and_ranges_name_layers_of_the_cfg():
    spec = shipped("yolov3-tiny")
    assert parse_scope("0", spec) == {0}
    assert parse_scope("2-8", spec) == {2, 4, 6, 8}  # the pools between are no matter
    assert parse_scope(" 0, 8-10 ,13", spec) == {0, 8, 10, 13}
    assert parse_scope("0,2-8,4", spec) == {0, 2, 4, 6, 8}


def test_backbone_is_what_all_heads_depend_on():
    assert backbone(shipped("yolov3-tiny")) == set(range(14))
    assert backbone(shipped("yolov3")) == set(range(80))  # Darknet-53 is 0 to 74
    spec = shipped("yolov3-tiny")
    assert parse_scope("backbone", spec) == {0, 2, 4, 6, 8, 10, 12, 13}
    assert parse_scope("neck", spec) == {14, 18, 21}
    assert parse_scope("neck,13", spec) == {13, 14, 18, 21}


def test_with_one_head_everything_before_it_is_backbone_and_nothing_is_neck():
    spec = random_network("plain").spec
    assert parse_scope("backbone", spec) == parse_scope("all", spec)
    with pytest.raises(InputError, match="scope neck: no convolution with batch norm is in it"):
        parse_scope("neck", spec)


def test_network_without_heads_ends_where_nobody_reads_on():
    layers = (s.Conv(sources=(-1,), filters=4, bn=True), s.Conv(sources=(0,), filters=4, bn=True))
    fork = (*layers, s.Conv(sources=(1,), filters=4), s.Conv(sources=(0,), filters=4))
    assert backbone(s.ModelSpec(layers=fork)) == {0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("spine", "'spine' is no part of a network; use --scope all, backbone, neck, or layer numbers"),
        ("", "'' is no part"),
        ("0,,2", "'' is no part"),
        ("-3", "'-3' is no part"),
        ("0-99", "0-99 are no layers of this network, it has 0-8"),
        ("6-2", "6-2 are no layers"),
        ("1", r"layer 1 \(cfg line 17\) is a MaxPool that pruning cannot judge; name .* before it, layer 0"),
        ("7", r"layer 7 \(cfg line 53\) is a Conv"),
        ("7-8", "scope 7-8: no convolution with batch norm is in it"),
    ],
)
def test_scope_that_the_network_does_not_have_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        parse_scope(text, random_network("plain").spec)


def test_depthwise_layer_is_named_by_the_convolution_before_it():
    net = random_network("depthwise")
    with pytest.raises(InputError, match="before it, layer 5"):
        parse_scope("6", net.spec)
    plan = plan_channels(net, percent=0.5, tie=ShortcutRule.ANY, scope=parse_scope("5", net.spec))
    assert [row.layer for row in plan.rows] == [5]
    small = cut(net, plan).spec.layers
    assert small[5].filters == small[6].filters == small[6].groups < net.spec.layers[5].filters


@pytest.mark.parametrize("tie", [ShortcutRule.ANY, ShortcutRule.LEADER])
@pytest.mark.parametrize("path", TINY, ids=lambda p: p.stem)
def test_layers_out_of_scope_keep_their_channels(path, tie):
    net = random_network(path)
    wires = trace(net.spec)
    for only in wires.voters:
        inside = frozenset({only})
        try:
            plan = plan_channels(net, percent=0.8, tie=tie, scope=inside)
        except InputError:
            continue  # it shares its wires with others, or feeds a head
        small = cut(net, plan).spec.layers
        for i in set(wires.voters) - inside:
            assert small[i].filters == net.spec.layers[i].filters
        assert [row.layer for row in plan.rows] == [only]
        assert small[only].filters <= net.spec.layers[only].filters


def test_percent_counts_the_channels_in_scope():
    net = random_network("plain")
    scope = frozenset({0, 2})
    plan = plan_channels(net, percent=0.5, tie=ShortcutRule.ANY, scope=scope)
    assert sum(row.before for row in plan.rows) == 16 and sum(row.after for row in plan.rows) == 8
    x = image(net)
    assert_same(run(cut(net, plan), x), run(silence(net, plan), x))


def test_wire_shared_with_a_layer_out_of_scope_stays():
    net = random_network("residual")
    with pytest.raises(
        InputError, match=r"nothing to prune in this scope: .*other layers that are out of it share them"
    ):
        plan_channels(net, percent=0.5, tie=ShortcutRule.ANY, scope=frozenset({0}))
    whole = plan_channels(net, percent=0.5, tie=ShortcutRule.ANY, scope=frozenset({0, 2, 5}))
    assert {row.layer for row in whole.rows} == {0, 2, 5}
    with pytest.raises(InputError, match="layer 1 has nothing to prune"):
        plan_layerwise(net, {1: 0.5}, tie=ShortcutRule.ANY, scope=frozenset({0, 2, 5}))


def test_whole_scope_is_no_scope():
    for path in TINY:
        net = random_network(path)
        plans = [plan_channels(net, percent=0.6, tie=ShortcutRule.ANY, scope=scope)
                 for scope in (None, parse_scope("all", net.spec))]  # fmt: skip
        assert torch.equal(plans[0].keep, plans[1].keep)


def test_preflight_judges_the_layers_in_scope():
    net = with_gammas(random_network("plain"), {0: torch.tensor([1.0, 1, 1, 1, 1e-4, 1e-4, 1e-4, 1e-4])})
    inside = preflight(net, tie=ShortcutRule.ANY, scope=frozenset({0}))
    assert [row.layer for row in inside.layers] == [0]
    assert inside.channels == 8 and inside.safe == pytest.approx(0.62, abs=0.01)  # int(0.62 * 8) = 4
    assert preflight(net, tie=ShortcutRule.ANY).safe < 0.3
    check(net, percent=0.5, tie=ShortcutRule.ANY, scope=frozenset({0}))


def test_preflight_ranks_by_the_score_and_judges_by_gamma():
    """A score that throws the strongest gammas away is found out, whatever it says of itself."""
    net = random_network("plain")
    strong = torch.tensor([1.0, 1, 1, 1, 1e-4, 1e-4, 1e-4, 1e-4])
    net = with_gammas(net, dict.fromkeys(trace(net.spec).voters, strong))

    def upside_down(net):
        return {i: 2 - net.state[f"layers.{i}.bn.weight"] for i in trace(net.spec).voters}

    assert preflight(net, tie=ShortcutRule.ANY).safe >= 0.5
    assert preflight(net, tie=ShortcutRule.ANY, score=upside_down).safe == pytest.approx(
        0.03, abs=0.01
    )  # int(0.03 * 32) = 0
    with pytest.raises(InputError, match="not sparse enough"):
        check(net, percent=0.5, tie=ShortcutRule.ANY, score=upside_down)
    asked = judge(net, tie=ShortcutRule.ANY, score=l1)
    assert torch.equal(asked.plan(0.5).keep, plan_channels(net, percent=0.5, tie=ShortcutRule.ANY, score=l1).keep)
