from __future__ import annotations

import itertools

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models import build
from tests.pruning.nets import assert_same, image, random_network, run, with_gammas
from tests.pruning.residual import residual_graphs, respelled, thin
from utils.darknet import spec as s
from utils.darknet.cfg import parse_cfg, read_cfg, write_cfg
from utils.darknet.counts import parameters
from utils.darknet.heads import head_convolutions
from utils.darknet.network import Checkpoint, Network, load_checkpoint, save_checkpoint
from utils.darknet.shapes import channels
from utils.darknet.weights import read_weights, write_weights
from utils.errors import InputError
from utils.pruning.blocks import blocks, shorten
from utils.pruning.layer_plan import plan_layers
from utils.pruning.layers import absorb_layers, drop, silence_layers
from utils.pruning.plan import ShortcutRule, plan_channels
from utils.pruning.recalibrate import recalibrate
from utils.pruning.surgery import cut, silence

SPECS = {"yolov3": thin("yolov3"), "yolov4": thin("yolov4")}
TINY = ["ghost", "mobile", "resnet", "residual", "depthwise"]
NAMES = [*TINY, *SPECS]


def network(name: str) -> Network:
    """Random, with gammas up to 2: under smaller ones the image is lost on the way through so many layers."""
    return livelier(random_network(SPECS.get(name, name)))


def livelier(net: Network) -> Network:
    return Network(net.spec, {k: 2 * v if k.endswith("bn.weight") else v for k, v in net.state.items()})


def some(net: Network) -> int:
    return (len(blocks(net.spec)) + 1) // 2


@pytest.mark.parametrize("name", NAMES)
def test_dropped_network_equals_the_silenced_one(name):
    net = network(name)
    x = image(net, 2)
    for n in {1, some(net), len(blocks(net.spec))}:
        plan = plan_layers(net, n=n)
        small = drop(net, plan)
        assert len(small.spec.layers) < len(net.spec.layers)
        assert_same(run(small, x), run(silence_layers(net, plan), x))


@pytest.mark.parametrize("name", NAMES)
def test_silencing_changes_the_function(name):
    net = network(name)
    x = image(net)
    with pytest.raises(AssertionError):
        assert_same(run(silence_layers(net, plan_layers(net, n=1)), x), run(net, x), 1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_layer_pruning_keeps_the_trained_weights(name):
    net = network(name)
    plan = plan_layers(net, n=some(net))
    gone = {i for block in plan.gone for i in block.layers}
    short = shorten(net.spec, plan.gone)
    carriers = tuple(f"layers.{i}." for i in short.carriers)
    stay = [value for key, value in net.state.items() if int(key.split(".")[1]) not in gone]
    found = [value for key, value in drop(net, plan).state.items() if not key.startswith(carriers or ("none",))]
    assert len(found) == len(stay) > 0
    assert all(a is b for a, b in zip(found, stay, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_channels_then_layers_equal_the_network_silenced_in_both_ways(name):
    """Layer-channel pruning: both plans are made on the full network, or the second one on the cut one."""
    net = network(name)
    thinner = plan_channels(net, percent=0.5, tie=ShortcutRule.ANY, floor=0.1)
    small = cut(net, thinner)
    x = image(net, 2)
    for plan in (plan_layers(net, n=some(net)), plan_layers(small, n=some(net))):
        both = drop(small, plan)
        assert parameters(both.spec) < parameters(small.spec)
        assert_same(run(both, x), run(silence_layers(silence(net, thinner), plan), x))


@pytest.mark.parametrize("name", NAMES)
def test_files_of_a_dropped_network_give_identical_outputs(name, tmp_path):
    net = network(name)
    small = drop(net, plan_layers(net, n=some(net)))
    loaded = load_checkpoint(save_checkpoint(tmp_path / "a.pt", Checkpoint(small))).network
    (tmp_path / "a.cfg").write_text(write_cfg(small.spec))
    spec = read_cfg(tmp_path / "a.cfg")
    reread = Network(spec, read_weights(write_weights(tmp_path / "a.weights", small), spec).state)
    assert loaded.spec == reread.spec == small.spec
    x = image(net)
    for a, b, c in zip(run(small, x), run(loaded, x), run(reread, x), strict=True):
        assert torch.equal(a, b) and torch.equal(a, c)


CARRIED = """[net]
[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=leaky
[convolutional]
batch_normalize=1
filters=8
size=3
pad=1
activation=leaky
[shortcut]
from=0
activation=leaky
[convolutional]
filters=14
activation=linear
[yolo]
anchors=4,4, 8,8
classes=2
"""


@pytest.mark.parametrize("name", ["yolov3", "yolov4", "an activation is carried"])
def test_opencv_agrees_on_a_dropped_network(name, tmp_path):
    net = network(name) if name in SPECS else livelier(random_network(parse_cfg(CARRIED)))
    small = drop(net, plan_layers(net, n=some(net)))
    (tmp_path / "a.cfg").write_text(write_cfg(small.spec))
    write_weights(tmp_path / "a.weights", small)
    oracle = cv2.dnn.readNetFromDarknet(str(tmp_path / "a.cfg"), str(tmp_path / "a.weights"))
    x = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    oracle.setInput(x.numpy())
    expected = oracle.forward([f"conv_{j}" for j in head_convolutions(small.spec).values()])
    for theirs, ours in zip(expected, run(small, x), strict=True):
        assert np.abs(theirs - ours.numpy()).max() <= 1e-4 * np.abs(theirs).max()


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    spec=residual_graphs().filter(lambda spec: any(block.voice for block in blocks(spec))),
    share=st.floats(0, 1),
    seed=st.integers(0, 9),
    coins=st.lists(st.booleans(), min_size=1, max_size=9),
)
def test_random_residual_graphs_survive_whatever_their_references_look_like(spec, share, seed, coins):
    assert parse_cfg(respelled(write_cfg(spec), itertools.cycle(coins))) == spec
    net = random_network(spec, seed)
    judged = sum(bool(block.voice) for block in blocks(spec))
    plan = plan_layers(net, n=max(1, round(share * judged)))
    small, x = drop(net, plan), image(net, 2, 6)
    assert parse_cfg(respelled(write_cfg(small.spec), itertools.cycle(coins))) == small.spec
    assert sum(v.numel() for k, v in small.state.items() if "running" not in k) == plan.params[1]
    assert len(small.spec.heads) == len(spec.heads)
    assert set(blocks(small.spec)).isdisjoint(plan.gone) or len(small.spec.layers) < len(spec.layers)
    assert_same(run(small, x), run(silence_layers(net, plan), x))


def test_dropping_leaves_its_input_alone():
    net = network("resnet")
    spec, before = net.spec, {k: v.clone() for k, v in net.state.items()}
    plan = plan_layers(net, n=4)
    drop(net, plan), silence_layers(net, plan), absorb_layers(net, plan)
    assert net.spec is spec and net.state.keys() == before.keys()
    assert all(torch.equal(v, before[k]) for k, v in net.state.items())


def test_a_dropped_network_can_be_pruned_again():
    net = network("yolov3")
    small = drop(net, plan_layers(net, n=10))
    assert len(blocks(small.spec)) == 13
    plan, x = plan_layers(small, n=13), image(net)
    assert_same(run(drop(small, plan), x), run(silence_layers(small, plan), x))
    thinner = plan_channels(small, percent=0.5, tie=ShortcutRule.ANY)
    assert_same(run(cut(small, thinner), x), run(silence(small, thinner), x))


def test_other_entries_of_a_state_move_with_their_layer():
    net = network("mobile")
    last = max(i for i, layer in enumerate(net.spec.layers) if isinstance(layer, s.Conv) and layer.bn)
    counter = torch.tensor(7)
    net = Network(net.spec, {**net.state, f"layers.{last}.bn.num_batches_tracked": counter, "anchor": counter})
    small = drop(net, plan_layers(net, n=3))
    assert small.state[f"layers.{last - 17}.bn.num_batches_tracked"] is counter
    assert small.state["anchor"] is counter


def test_half_precision_stays_half_precision():
    net = network("resnet")
    half = Network(net.spec, {k: v.bfloat16() for k, v in net.state.items()})
    plan = plan_layers(half, n=7)
    assert {v.dtype for v in drop(half, plan).state.values()} == {torch.bfloat16}
    assert {v.dtype for v in absorb_layers(half, plan).state.values()} == {torch.bfloat16}


def test_a_plan_of_another_network_names_the_shortcut_that_is_not_there():
    plan = plan_layers(network("mobile"), n=1)
    for step in (drop, silence_layers, absorb_layers):
        with pytest.raises(
            InputError, match="another network's: it takes out the branch that layer 5 adds from layer 4"
        ):
            step(network("ghost"), plan)


def pointwise(net: Network) -> Network:
    """The network with every kernel but those of the first layer 1x1, and the state that goes with it."""
    text = write_cfg(net.spec).replace("size=3", "size=1").replace("size=5", "size=1").replace("padding=2", "padding=0")
    return livelier(random_network(parse_cfg(text)))


def hushed(net: Network, plan) -> Network:
    """Gammas of the branches that go at 0: what sparse training leaves. They still send act(beta)."""
    return with_gammas(net, {i: torch.zeros(channels(net.spec)[i]) for b in plan.gone for i in b.voice})


@pytest.mark.parametrize("name", ["ghost", "mobile", "depthwise", "yolov3", "yolov4"])
def test_absorbing_is_exact_for_pointwise_readers_of_branches_without_gamma(name):
    net = pointwise(network(name))
    plan = plan_layers(net, n=some(net))
    net, x = hushed(net, plan), image(net)
    assert_same(run(drop(absorb_layers(net, plan), plan), x), run(net, x))
    with pytest.raises(AssertionError):
        assert_same(run(drop(net, plan), x), run(net, x), 1e-4)


@pytest.mark.parametrize("name", ["ghost", "mobile", "yolov3", "yolov4"])
def test_absorbing_brings_larger_kernels_closer(name):
    net = network(name)
    plan, x = plan_layers(net, n=some(net)), image(net, 2, 160)  # at 64 px there is little but borders
    net = hushed(net, plan)
    errors = [
        sum(float((a - b).square().mean()) for a, b in zip(run(drop(way, plan), x), run(net, x), strict=True))
        for way in (absorb_layers(net, plan), net)
    ]
    assert errors[0] < 0.1 * errors[1]


@pytest.mark.parametrize(("activation", "most"), [("linear", 1e-3), ("relu", 0.2), ("mish", 0.2)])
def test_absorbing_keeps_the_mean_of_what_readers_of_a_living_branch_see(activation, most):
    """Statistics measured on the images themselves, so that a batch norm's output has mean beta and deviation gamma."""
    layers = (
        s.Conv(sources=(-1,), filters=8, size=3, pad=1, bn=True, activation="relu"),
        s.Conv(sources=(0,), filters=8, size=3, pad=1, bn=True, activation=activation),
        s.Shortcut(sources=(1, 0)),
        s.Conv(sources=(2,), filters=7),
        s.Yolo(sources=(3,), mask=(0,), anchors=((4.0, 4.0),), classes=2),
    )
    net = livelier(random_network(s.ModelSpec(layers=layers)))
    x = image(net, 8)
    net = recalibrate(net, build, [x])
    plan = plan_layers(net, n=1)
    whole, absorbed, dropped = (
        run(way, x)[0].mean((0, 2, 3)) for way in (net, drop(absorb_layers(net, plan), plan), drop(net, plan))
    )
    assert (absorbed - whole).norm() <= most * (dropped - whole).norm() > 0.01 * most
