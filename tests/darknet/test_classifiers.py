"""Sections of networks that classify: read, written, run, cut and turned into integers."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from models import Darknet, build, network_of
from tests.conftest import ROOT
from tests.pruning.nets import assert_same, random_network, run
from utils.classification.metrics import probabilities
from utils.darknet import spec as s
from utils.darknet.cfg import parse_cfg, read_cfg, write_cfg
from utils.darknet.counts import count
from utils.darknet.expand import expand
from utils.darknet.fold import fold_bn
from utils.darknet.heads import class_count, head_convolutions, rehead
from utils.darknet.read_outs import written_out
from utils.darknet.weights import read_weights, write_weights
from utils.errors import InputError
from utils.pruning.plan import ShortcutRule, plan_channels
from utils.pruning.surgery import cut, silence
from utils.quantization.calibrate import calibrate
from utils.quantization.executor import IntegerExecutor
from utils.quantization.lower import lower
from utils.quantization.scheme import Scheme
from utils.spiking.layerwise import LayerwiseExecutor
from utils.spiking.spike_schedule import encode
from utils.task import task_name

NET = "[net]\nwidth=16\nheight=16\nchannels=3\n"
CONV = "[convolutional]\nfilters=4\nsize=3\npad=1\nactivation={}\n"
LAST = "[convolutional]\nfilters=5\nsize=1\nactivation={}\n"
TAILS = {
    "average first": "[avgpool]\n" + LAST.format("linear"),
    "average last": LAST.format("linear") + "[avgpool]\n",
    "connected behind an average": "[avgpool]\n[dropout]\nprobability=.5\n[connected]\noutput=5\nactivation=linear\n",
    "bent before the average": LAST.format("leaky") + "[avgpool]\n",
    "bent behind it": "[avgpool]\n" + LAST.format("leaky"),
    "connected": "[maxpool]\nsize=2\nstride=2\n[connected]\noutput=5\nactivation=linear\n",
    "no convolution last": "[maxpool]\nsize=16\nstride=16\n",
}


def network(tail: str, size: int = 16):
    text = NET.replace("16", str(size)) + CONV.format("relu") + tail + "[softmax]\ngroups=1\n"
    return random_network(parse_cfg(text))


@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS)
def test_scores_written_out_are_the_mean_of_a_convolution_that_only_the_output_reads(tail):
    given, x = network(tail), torch.rand(2, 3, 16, 16)
    made, number = expand(fold_bn(given))
    assert number[len(given.spec.layers) - 1] == len(made.spec.layers) - 1
    (head,) = made.spec.heads
    source = made.spec.layers[head].sources[0]
    assert isinstance(made.spec.layers[source], s.Conv)
    assert sum(source in layer.sources for layer in made.spec.layers) == 1
    (before,), (after,) = build(given)(x), build(made)(x)
    torch.testing.assert_close(after.mean((2, 3)), before.mean((2, 3)), rtol=1e-5, atol=1e-5)
    assert parse_cfg(write_cfg(made.spec)) == made.spec


def test_an_average_beside_the_last_convolution_is_left_to_the_output_and_any_other_is_not():
    for tail, kept in (
        ("average first", 0),
        ("average last", 0),
        ("bent before the average", 0),
        ("bent behind it", 1),
    ):
        spec, _, _ = written_out(network(TAILS[tail]).spec)
        assert sum(isinstance(layer, s.AvgPool) for layer in spec.layers) == kept, tail


def test_a_detector_is_written_out_as_it_is():
    spec = read_cfg(ROOT / "tests/cfgs/plain.cfg")
    assert written_out(spec)[0] is spec


def test_a_connected_layer_is_torchs_linear_layer_and_its_file_darknets():
    """Bias, the matrix [out, C * H * W], and with batch norm gamma, mean, variance behind it."""
    tail = "[connected]\nbatch_normalize=1\noutput=6\nactivation=relu\n[connected]\noutput=5\nactivation=linear\n"
    given, x = network(tail), torch.rand(2, 3, 16, 16)
    state = given.state
    map_ = F.relu(F.conv2d(x, state["layers.0.conv.weight"], state["layers.0.conv.bias"], padding=1)).flatten(1)
    hidden = F.linear(map_, state["layers.1.conv.weight"].flatten(1))
    norm = [state[f"layers.1.bn.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
    hidden = F.relu(F.batch_norm(hidden, *norm, eps=1e-6))
    expected = F.linear(hidden, state["layers.2.conv.weight"].flatten(1), state["layers.2.conv.bias"])
    torch.testing.assert_close(build(given)(x)[0].flatten(1), expected, rtol=1e-5, atol=1e-5)


def test_the_file_of_a_connected_layer_is_in_darknets_order(tmp_path):
    tail = "[connected]\nbatch_normalize=1\noutput=6\nactivation=relu\n[connected]\noutput=5\nactivation=linear\n"
    given = network(tail)
    path = write_weights(tmp_path / "net.weights", given)
    floats = np.frombuffer(path.read_bytes()[struct.calcsize("<3iq") :], "<f4")
    names = ["bn.bias", "conv.weight", "bn.weight", "bn.running_mean", "bn.running_var"]
    order = ["layers.0.conv.bias", "layers.0.conv.weight", *(f"layers.1.{name}" for name in names)]
    order += ["layers.2.conv.bias", "layers.2.conv.weight"]
    np.testing.assert_array_equal(floats, np.concatenate([given.state[key].numpy().ravel() for key in order]))
    again = read_weights(path, given.spec).state
    assert all(torch.equal(again[key], given.state[key]) for key in order)


def test_a_crop_is_the_middle_of_the_image_from_minus_1_to_1():
    crop = "[crop]\ncrop_height=12\ncrop_width=12\nflip=1\n"
    spec = parse_cfg(NET + crop + CONV.format("relu") + TAILS["average first"] + "[softmax]\n[cost]\ntype=sse\n")
    assert parse_cfg(write_cfg(spec)) == spec and len(spec.layers) == 5
    x = torch.rand(2, 3, 16, 16)
    model = Darknet(spec).eval()
    assert torch.equal(model.activations(x)[0], x[:, :, 2:14, 2:14] * 2 - 1)
    made, _ = expand(network_of(model))
    torch.testing.assert_close(build(made)(x)[0].mean((2, 3)), model(x)[0].flatten(1), rtol=1e-4, atol=1e-5)
    plain = parse_cfg(write_cfg(spec).replace("crop_width=12\n", "crop_width=12\nnoadjust=1\n"))
    assert torch.equal(Darknet(plain).activations(x)[0], x[:, :, 2:14, 2:14])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            CONV.format("relu") + "[softmax]\ntree=9k.tree\n",
            "tree= .a hierarchy of classes. is not supported; delete it",
        ),
        (CONV.format("relu") + "[softmax]\nspatial=1\n", "spatial=1 is not supported"),
        (CONV.format("relu") + "[softmax]\ntemperature=0\n", "temperature=0 must be above 0"),
        (CONV.format("relu") + "[softmax]\ngroups=3\n", r"parts 4 classes into groups=3"),
        (CONV.format("relu") + "[crop]\ncrop_height=8\ncrop_width=8\n", "takes the image; make it the first section"),
        ("[crop]\ncrop_height=18\ncrop_width=8\n", "keeps 18x8 px of 16x16"),
        ("[cost]\ntype=sse\n" + CONV.format("relu"), "read as the last section only; delete it"),
        ("[connected]\nactivation=linear\n", r"\[connected\] needs output="),
    ],
)
def test_what_classifiers_cannot_have_is_refused_with_its_line(text, message):
    with pytest.raises(InputError, match=message) as caught:
        parse_cfg(NET + text)
    assert "cfg line" in str(caught.value)


def test_a_connected_layer_on_a_map_that_is_not_square_is_refused():
    with pytest.raises(InputError, match=r"reads a map of 16x24 px; it takes a square one"):
        parse_cfg(NET.replace("width=16", "width=24") + "[connected]\noutput=4\nactivation=linear\n")


def test_outputs_of_two_tasks_in_one_network_are_refused():
    text = (ROOT / "tests/cfgs/plain.cfg").read_text() + "[route]\nlayers=-2\n[avgpool]\n[softmax]\n"
    with pytest.raises(InputError, match=r"\[softmax\] and \[yolo\] are no outputs of one task"):
        task_name(parse_cfg(text))


@pytest.mark.parametrize("tail", [TAILS[name] for name in ("average first", "average last", "connected")])
def test_a_network_gets_another_number_of_classes(tail):
    given = network(tail).spec
    assert (class_count(given), class_count(rehead(given, 9))) == (5, 9)


def test_weights_for_other_classes_leave_the_last_layer_out(tmp_path):
    given = network(TAILS["connected"])
    path = write_weights(tmp_path / "net.weights", given)
    found = read_weights(path, rehead(given.spec, 9), partial=True)
    assert set(found.state) == {"layers.0.conv.weight", "layers.0.conv.bias"}
    assert "heads for 5 classes: left out" in found.left_out[0]


PUBLISHED = {  # torchvision's page of each model; ResNets of CIFAR: counted out of He et al., CVPR 2016, option B
    "classes/alexnet": 61_100_840,
    "classes/vgg16": 138_357_544,
    "classes/resnet18": 11_689_512,
    "classes/resnet34": 21_797_672,
    "classes/cifar-resnet18": 11_173_962,
    **{f"classes/cifar-resnet{n}": 272_474 + (n - 20) // 6 * 97_216 for n in (32, 44, 56, 110)},
    "cifar-resnet20": 272_474,
    # of Fast-SNN's CIFAR networks, without the biases that a batch norm behind them takes away
    "classes/cifar-alexnet": 11_736_298,
    "classes/cifar-vgg11": 34_446_410,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_equal_the_published_ones_and_writing_is_the_inverse_of_reading(name):
    spec = read_cfg(ROOT / f"cfg/{name}.cfg")
    assert count(spec).params == PUBLISHED[name]
    assert parse_cfg(write_cfg(spec)) == spec
    assert task_name(spec) == "classification"


def narrow(spec: s.ModelSpec, side: int) -> s.ModelSpec:
    """An eighth of every width but the last, at another size: what is tested is the structure."""
    (last,) = head_convolutions(spec).values()
    layers = [
        replace(layer, filters=max(2, layer.filters // 8)) if isinstance(layer, s.Conv) and i != last else layer
        for i, layer in enumerate(spec.layers)
    ]
    net = tuple((key, str(side) if key in ("width", "height") else value) for key, value in spec.net)
    return parse_cfg(write_cfg(replace(spec, layers=tuple(layers), net=net)))


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("alexnet", 64),
        ("vgg16", 32),
        ("resnet18", 64),
        ("resnet34", 64),
        ("cifar-resnet18", 32),
        ("cifar-resnet32", 32),
        ("cifar-alexnet", 32),
        ("cifar-vgg11", 32),
    ],
)
def test_shipped_classifiers_are_integers_near_the_float_network_and_spikes_equal_to_them(name, side):
    spec = narrow(read_cfg(ROOT / f"cfg/classes/{name}.cfg"), side)
    given, x = random_network(spec), (torch.rand(2, 3, side, side) * 255).round() / 255
    integer = lower(calibrate(given, [x], Scheme(a_bit=8, w_bit=8)))
    with torch.no_grad():
        (exact,) = build(given)(x)
    (made,) = IntegerExecutor(integer)(x)
    assert float((made.mean((2, 3)) - exact.flatten(1)).square().mean().sqrt() / exact.std()) < 0.15
    (spikes,) = LayerwiseExecutor(encode(integer))(x)
    assert torch.equal(spikes, made)


@pytest.mark.parametrize("name", ["resnet18", "cifar-resnet32"])
def test_what_is_cut_of_a_shipped_classifier_equals_what_is_silenced(name):
    given = random_network(narrow(read_cfg(ROOT / f"cfg/classes/{name}.cfg"), 32))
    plan = plan_channels(given, percent=0.4, tie=ShortcutRule.ANY)
    small, x = cut(given, plan), torch.rand(1, 3, 32, 32)
    assert_same(run(small, x), run(silence(given, plan), x))
    assert count(small.spec).params < count(given.spec).params


BOARD = (
    "[net]\nwidth=5\nheight=5\nchannels=1\n"
    + CONV.format("relu\nbatch_normalize=1")
    + LAST.replace("filters=5", "filters=1")
)
MOVES = BOARD.format("linear") + "[reorg]\nextra=1\nstride=1\n[softmax]\n"


def test_a_score_a_point_of_the_board_and_one_for_passing_are_darknets():
    """go.cfg: the map as it lies in memory and a 0 behind it, which a softmax reads as classes."""
    given, x = random_network(parse_cfg(MOVES)), torch.rand(3, 1, 5, 5)
    assert parse_cfg(write_cfg(given.spec)) == given.spec and class_count(given.spec) == 26
    model = build(given)
    (raw,) = model(x)
    board = model.activations(x)[1]
    expected = torch.cat((board.flatten(1), torch.zeros(3, 1)), 1)
    assert torch.equal(raw, expected[:, :, None, None])
    torch.testing.assert_close(probabilities([raw], given.spec.layers[-1]), expected.softmax(1))
    x = (x * 255).round() / 255
    integer = lower(calibrate(given, [x], Scheme(a_bit=8, w_bit=8)))
    (made,) = IntegerExecutor(integer)(x)
    apart = (made.flatten(1) - expected).square().mean().sqrt() / expected.std()
    assert float(apart.detach()) < 0.15
    (spikes,) = LayerwiseExecutor(encode(integer))(x)
    assert torch.equal(spikes, made)
    plan = plan_channels(given, percent=0.5, tie=ShortcutRule.ANY)
    assert_same(run(cut(given, plan), x), run(silence(given, plan), x))


def test_moves_are_written_as_the_section_that_darknet_reads():
    """Behind a route that names a layer further on, whose number counts the one section that the two layers are."""
    text = MOVES.replace("[softmax]", "[dropout]\n[route]\nlayers=2\n[softmax]")
    spec = parse_cfg(text)
    written = write_cfg(spec)
    assert "[reorg]\nstride=1\nextra=1\n\n[dropout]" in written and "[fit]" not in written
    assert parse_cfg(written) == spec


@pytest.mark.parametrize(
    ("read", "becomes"),
    [
        ("height=5", "height=10"),  # the map is parted by half of its side
        ("filters=26", "filters=25"),  # nothing is behind the values
        ("[softmax]", "[route]\nlayers=2,3\n[softmax]"),  # the parts are read by others too
    ],
)
def test_parts_and_a_fit_that_are_no_moves_stay_two_sections(read, becomes):
    two = BOARD.format("linear") + "[reorg3d]\nstride=5\n[fit]\nfrom=-1\nfilters=26\n[softmax]\n"
    assert "extra=1" in write_cfg(parse_cfg(two))
    spec = parse_cfg(two.replace(read, becomes))
    assert "extra" not in write_cfg(spec) and parse_cfg(write_cfg(spec)) == spec


def test_values_of_several_channels_are_no_moves():
    with pytest.raises(InputError, match=r"\[reorg\] with extra= takes a square map of one channel, this one 4 of 5x5"):
        parse_cfg(MOVES.replace("filters=1", "filters=4"))
