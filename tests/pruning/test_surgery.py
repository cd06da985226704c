from __future__ import annotations

import pytest
import torch

from tests.pruning.nets import SHIPPED, TINY, assert_same, image, random_network, run
from utils.darknet.cfg import parse_cfg, write_cfg
from utils.darknet.channel_groups import trace
from utils.darknet.counts import parameters
from utils.darknet.network import Network
from utils.errors import InputError
from utils.pruning.plan import ShortcutRule, plan_channels
from utils.pruning.surgery import channels_before_after, cut, narrow, silence


def counted(net: Network) -> int:
    return sum(v.numel() for k, v in net.state.items() if "running" not in k)


@pytest.mark.parametrize("tie", ShortcutRule)
@pytest.mark.parametrize("path", TINY, ids=lambda p: p.stem)
def test_cut_network_equals_the_silenced_one(path, tie):
    net = random_network(path)
    plan = plan_channels(net, percent=0.5, tie=tie)
    small, x = cut(net, plan), image(net, 2)
    assert parameters(small.spec) < parameters(net.spec)
    assert_same(run(small, x), run(silence(net, plan), x))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_cut_network_equals_the_silenced_one_on_every_shipped_cfg(path):
    net = random_network(path)
    plan = plan_channels(net, percent=0.6, tie=ShortcutRule.ANY, floor=0.01)
    small, x = cut(net, plan), image(net)
    assert parameters(small.spec) < 0.7 * parameters(net.spec)
    assert counted(small) == parameters(narrow(net.spec, plan))
    assert_same(run(small, x), run(silence(net, plan), x))


@pytest.mark.parametrize("path", TINY, ids=lambda p: p.stem)
def test_silencing_changes_the_function(path):
    net = random_network(path)
    plan = plan_channels(net, percent=0.5, tie=ShortcutRule.ANY)
    x = image(net)
    with pytest.raises(AssertionError):
        assert_same(run(silence(net, plan), x), run(net, x))


@pytest.mark.parametrize("path", TINY, ids=lambda p: p.stem)
def test_cut_network_comes_back_from_its_cfg_text(path):
    net = random_network(path)
    small = cut(net, plan_channels(net, percent=0.5, tie=ShortcutRule.ANY))
    again = parse_cfg(write_cfg(small.spec))
    assert again == small.spec
    x = image(net)
    for a, b in zip(run(Network(again, small.state), x), run(small, x), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("path", TINY, ids=lambda p: p.stem)
def test_cut_network_can_be_cut_again(path):
    net = random_network(path)
    small = cut(net, plan_channels(net, percent=0.3, tie=ShortcutRule.ANY))
    plan = plan_channels(small, percent=0.3, tie=ShortcutRule.ANY)
    x = image(net)
    assert_same(run(cut(small, plan), x), run(silence(small, plan), x))


@pytest.mark.parametrize("path", TINY, ids=lambda p: p.stem)
def test_parameters_are_what_the_plan_predicted(path):
    net = random_network(path)
    plan = plan_channels(net, percent=0.5, tie=ShortcutRule.ANY)
    assert counted(cut(net, plan)) == parameters(narrow(net.spec, plan))


@pytest.mark.parametrize("path", TINY, ids=lambda p: p.stem)
def test_cutting_and_silencing_leave_their_input_alone(path):
    net = random_network(path)
    before = {k: v.clone() for k, v in net.state.items()}
    plan = plan_channels(net, percent=0.5, tie=ShortcutRule.ANY)
    keep = plan.keep.clone()
    cut(net, plan), silence(net, plan)
    assert torch.equal(plan.keep, keep)
    assert net.state.keys() == before.keys()
    assert all(torch.equal(v, before[k]) for k, v in net.state.items())


def test_other_entries_of_a_state_survive():
    net = random_network("plain")
    counter = torch.tensor(7)
    net = Network(net.spec, {**net.state, "layers.0.bn.num_batches_tracked": counter})
    small = cut(net, plan_channels(net, percent=0.5, tie=ShortcutRule.ANY))
    assert small.state["layers.0.bn.num_batches_tracked"] is counter


def test_channels_before_and_after_are_listed_by_layer():
    net = random_network("plain")
    small = cut(net, plan_channels(net, percent=0.5, tie=ShortcutRule.ANY))
    rows = channels_before_after(net.spec, small.spec)
    assert [i for i, _, _ in rows] == [0, 2, 4, 6, 7]
    assert sum(a - b for _, a, b in rows) == 16
    assert rows[-1] == (7, 14, 14)


def test_plan_of_another_network_is_refused():
    plan = plan_channels(random_network("plain"), percent=0.5, tie=ShortcutRule.ANY)
    with pytest.raises(InputError, match=r"another network's: it has \d+ wires, the network \d+"):
        cut(random_network("tiny"), plan)


def test_plan_that_empties_a_layer_names_its_line():
    net = random_network("plain")
    plan = plan_channels(net, percent=0.5, tie=ShortcutRule.ANY)
    plan.keep[trace(net.spec).outputs[2]] = False
    with pytest.raises(InputError, match=r"cfg line \d+: all 8 channels of layer 2 would go"):
        cut(net, plan)


def test_plan_that_cuts_a_head_is_refused():
    net = random_network("plain")
    plan = plan_channels(net, percent=0.5, tie=ShortcutRule.ANY)
    plan.keep[trace(net.spec).outputs[7][0]] = False
    with pytest.raises(InputError, match="wires of the image or of a head"):
        cut(net, plan)
