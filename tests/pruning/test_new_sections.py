from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import build
from tests.darknet.opencv import opencv_outputs
from tests.pruning.nets import assert_same, image, random_network, run
from utils.darknet import spec as s
from utils.darknet.channel_groups import trace
from utils.darknet.counts import parameters
from utils.darknet.network import Network
from utils.darknet.reorder import reorg
from utils.darknet.weights import read_weights, write_weights
from utils.pruning.absorb import constants
from utils.pruning.explain import groups
from utils.pruning.plan import ShortcutRule, plan_channels
from utils.pruning.scores import gammas, strengths
from utils.pruning.surgery import cut, narrow, silence

CUTS = [(ShortcutRule.KEEP, 0.3), (ShortcutRule.LEADER, 0.5), (ShortcutRule.ANY, 0.5), (ShortcutRule.ANY, 0.9)]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(stride=st.integers(1, 3), blocks=st.integers(1, 3), height=st.integers(1, 5), width=st.integers(1, 5))
def test_wires_of_a_reorg_are_those_its_numbers_come_from(stride, blocks, height, width):
    channels = blocks * stride**2
    spec = s.ModelSpec(
        layers=(
            s.Conv(sources=(-1,), filters=channels, bn=True),
            s.Reorg(sources=(0,), stride=stride),
            s.Conv(sources=(1,), filters=3),
        )
    )
    wires = trace(spec)
    number = torch.arange(float(channels)).view(1, -1, 1, 1).expand(1, channels, height * stride, width * stride)
    for out, wire in zip(reorg(number, stride)[0], wires.outputs[1], strict=True):
        assert {int(wires.outputs[0][int(c)]) for c in out.unique()} == {int(wire)}
    assert len(wires.outputs[0].unique()) == blocks


def test_rows_of_neighbouring_channels_mix_so_that_blocks_must_go_together():
    number = torch.arange(8.0).view(1, 8, 1, 1).expand(1, 8, 6, 6)
    assert max(len(out.unique()) for out in reorg(number, 2)[0]) > 1
    message = [text for group in groups(trace(random_network("passthrough").spec)) for text in group.reasons]
    assert any("a block of channels that [reorg] mixes" in text for text in message)


def test_a_region_head_is_locked():
    wires = trace(random_network("passthrough").spec)
    assert wires.locked[wires.outputs[11]].all()
    reason = next(reason for reason in wires.reasons if reason.text.endswith("detection head"))
    assert torch.equal(reason.wires, wires.outputs[11].unique())
    assert not any("no batch norm" in reason.text for reason in wires.reasons)


@pytest.mark.parametrize("size", [64, 40, 72])  # the reorg reads maps of 16, 10 and 18 px: only 16 is a multiple of 4
@pytest.mark.parametrize(("tie", "percent"), CUTS)
def test_cut_passthrough_equals_the_silenced_one(tie, percent, size):
    net = random_network("passthrough")
    plan = plan_channels(net, percent=percent, tie=tie)
    small, x = cut(net, plan), image(net, 2, size)
    assert_same(run(small, x), run(silence(net, plan), x))


def test_opencv_agrees_on_the_cut_passthrough(tmp_path):
    net = random_network("passthrough")
    small = cut(net, plan_channels(net, percent=0.5, tie=ShortcutRule.ANY))
    x = image(net)
    assert_same(opencv_outputs(small, x, tmp_path, ["conv_11"]), run(small, x))


def test_a_block_before_a_reorg_really_goes():
    net = random_network("passthrough")
    plan = plan_channels(net, percent=0.9, tie=ShortcutRule.ANY)
    small = cut(net, plan)
    assert small.spec.layers[7].filters == 4
    assert parameters(small.spec) == sum(v.numel() for k, v in small.state.items() if "running" not in k)


@pytest.mark.parametrize("size", [40, 64])
def test_cut_equals_silenced_where_half_a_block_makes_something_of_nothing(size):
    layers = list(random_network("passthrough").spec.layers[:6])
    layers += [s.Route(sources=(3,)), s.Conv(sources=(6,), filters=6, bn=True, activation="logistic")]
    layers += [s.Route(sources=(3,)), s.Conv(sources=(8,), filters=6, bn=True, activation="relu")]
    layers += [s.Route(sources=(7, 9)), s.Reorg(sources=(10,)), s.Conv(sources=(11,), filters=6, size=3, pad=1)]
    net = random_network(s.ModelSpec(layers=tuple(layers), net=(("channels", "3"),)))
    plan = plan_channels(net, percent=0.0, tie=ShortcutRule.ANY)
    plan.keep[trace(net.spec).outputs[10][4:8]] = False  # two logistic channels and two of the ReLU
    with torch.no_grad():
        x = image(net, 1, size)
        wide, small = (build(n).activations(x)[12] for n in (silence(net, plan), cut(net, plan)))
    assert_same([small], [wide])


def test_constants_pass_a_reorg():
    net = random_network("passthrough")
    wires, keep = trace(net.spec), torch.ones(trace(net.spec).count, dtype=torch.bool)
    keep[wires.outputs[7][:4]] = False
    gamma = net.state["layers.7.bn.weight"].clone()
    gamma[:4] = 0
    with torch.no_grad():
        out = build(Network(net.spec, {**net.state, "layers.7.bn.weight": gamma})).activations(image(net))[8][0]
    message = constants(net, keep)[8].float()
    gone = ~keep[wires.outputs[8]]
    assert gone.sum() == 16 and message[gone].abs().min() > 0
    torch.testing.assert_close(out[gone], message[gone][:, None, None].expand_as(out[gone]))


def test_a_channel_is_as_strong_behind_a_reorg_as_before():
    net = random_network("passthrough")
    wires = trace(net.spec)
    found, raw = strengths(net.spec, wires, gammas(net)), gammas(net)
    blocks = raw[7].view(2, 4).square().mean(1).sqrt().repeat_interleave(4)
    torch.testing.assert_close(found[7], blocks)


@pytest.mark.parametrize(("tie", "percent"), CUTS)
def test_cut_weighted_sums_equal_the_silenced_ones(tie, percent):
    net = random_network("weighted")
    plan = plan_channels(net, percent=percent, tie=tie)
    small, x = cut(net, plan), image(net, 2)
    assert_same(run(small, x), run(silence(net, plan), x))
    assert parameters(narrow(net.spec, plan)) == sum(v.numel() for k, v in small.state.items() if "running" not in k)


def test_weights_of_a_channel_go_with_it_and_those_of_a_source_stay(tmp_path):
    net = random_network("weighted")
    plan, wires = plan_channels(net, percent=0.5, tie=ShortcutRule.ANY), trace(net.spec)
    small = cut(net, plan)
    for i, layer in enumerate(net.spec.layers):
        if not isinstance(layer, s.Shortcut):
            continue
        before, after = net.state[f"layers.{i}.weights"], small.state[f"layers.{i}.weights"]
        stay = plan.keep[wires.outputs[i]]
        assert torch.equal(after, before if layer.weights_type == "per_feature" else before[:, stay])
    assert parameters(small.spec) < parameters(net.spec)
    again = read_weights(write_weights(tmp_path / "small.weights", small), small.spec)
    assert all(torch.equal(small.state[key], value) for key, value in again.state.items())


@pytest.mark.parametrize("normalization", ["none", "relu", "softmax"])
@pytest.mark.parametrize("kind", ["per_feature", "per_channel"])
def test_constants_pass_a_weighted_sum(kind, normalization):
    net = random_network("weighted")
    layers = list(net.spec.layers)
    layers[2] = replace(layers[2], weights_type=kind, weights_normalization=normalization)
    net = random_network(replace(net.spec, layers=tuple(layers)))
    wires, keep = trace(net.spec), torch.ones(trace(net.spec).count, dtype=torch.bool)
    keep[wires.outputs[2][:3]] = False
    quiet = dict(net.state)
    for i in (0, 1):
        quiet[f"layers.{i}.bn.weight"] = quiet[f"layers.{i}.bn.weight"] * keep[wires.outputs[i]]
        quiet[f"layers.{i}.bn.bias"] = quiet[f"layers.{i}.bn.bias"] + 0.4  # all above the ReLU's bend
    net = Network(net.spec, {**net.state, **{k: v for k, v in quiet.items() if "bias" in k}})
    with torch.no_grad():
        out = build(Network(net.spec, quiet)).activations(image(net))[2][0, :3]
    message = constants(net, keep)[2][:3].float()
    assert message.abs().min() > 0
    torch.testing.assert_close(out, message[:, None, None].expand_as(out))
