"""Faults that the references had, each kept out by a test of its name."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from models import build
from tests.conftest import ROOT
from tests.quantization.random_nets import CONV, cfg_text, random_images, random_network
from utils.darknet import spec as s
from utils.darknet.cfg import read_cfg, write_cfg
from utils.darknet.fold import fold_bn
from utils.darknet.network import Network, load_checkpoint, save_checkpoint
from utils.quantization.calibrate import calibrate
from utils.quantization.executor import IntegerExecutor
from utils.quantization.histogram import collect_both
from utils.quantization.int_checkpoint import integer_of, to_checkpoint
from utils.quantization.integer import IntConv
from utils.quantization.lower import lower
from utils.quantization.scheme import Scheme


@pytest.mark.parametrize("name", ["depthwise", "ghost", "mobile"])
def test_depthwise_left_in_float(name):
    """The reference quantised [convolutional] only; [depthwise], [se] and what is beside them stayed float."""
    spec = read_cfg(ROOT / f"tests/cfgs/{name}.cfg")
    x = random_images(1, side=64)
    integer = lower(
        calibrate(random_network(write_cfg(spec)), [x], Scheme(w_bit=4, outer_bit=4, a_bit=4, equalise=False))
    )
    convs = [i for i, layer in enumerate(integer.spec.layers) if isinstance(layer, s.Conv)]
    depthwise = [i for i in convs if integer.conv(i)[0].groups == integer.conv(i)[0].filters > 1]
    assert depthwise
    for i in convs:
        op = integer.conv(i)[1]
        assert not op.weight.is_floating_point() and op.bias.dtype is torch.int32
    for i in depthwise:
        assert int(integer.conv(i)[1].weight.abs().max()) <= 7, "4 bits"
    for level in IntegerExecutor(integer).levels(x).values():
        assert not level.is_floating_point()


@pytest.mark.parametrize("style", ["google", "dorefa", "pow2"])
@pytest.mark.parametrize("activation", ["relu", "leaky", "mish", "logistic"])
def test_nan_on_an_all_zero_tensor(style, activation):
    """A dead layer has range 0; the reference's scale became 0 and everything behind it NaN."""
    network = random_network(cfg_text(("convolutional", CONV), ("convolutional", CONV | {"activation": activation})))
    state = {key: torch.zeros_like(value) if ".0." in key else value for key, value in network.state.items()}
    integer = lower(calibrate(Network(network.spec, state), [random_images()], Scheme(style=style)))
    for grid in integer.grids.values():
        assert 0 < grid.scale < float("inf")
    assert all(bool(head.isfinite().all()) for head in IntegerExecutor(integer)(random_images()))
    assert bool((IntegerExecutor(integer).levels(random_images())[0] == 0).all())


def test_a_black_image_is_all_zeros_too():
    network, black = random_network(3), torch.zeros(2, 3, 16, 16)
    folded = fold_bn(network)
    outputs, before = collect_both(folded, [black], [-1, 0], [0])
    assert float(outputs[-1].counts[:, 0].sum()) == black.numel(), "every zero is counted as zero"
    assert all(bool(h.values().isfinite().all()) for h in (*outputs.values(), *before.values()))
    assert all(bool(head.isfinite().all()) for head in IntegerExecutor(lower(calibrate(network, [black])))(black))


@pytest.mark.parametrize("w_bit", [2, 4])
def test_bias_quantised_at_weight_bits(w_bit):
    """The reference rounded a bias to the weights' bits; here it has the accumulator's own scale and 32 bits."""
    network = random_network(cfg_text(("convolutional", CONV), ("convolutional", CONV)))
    quantised = calibrate(network, [random_images()], Scheme(w_bit=w_bit, outer_bit=w_bit, correct_bias=False))
    integer = lower(quantised)
    for i, op in integer.ops.items():
        assert isinstance(op, IntConv)
        unit = quantised.grids[integer.spec.layers[i].sources[0]].scale * quantised.weight_scales[i]
        bias = quantised.network.state[f"layers.{i}.conv.bias"].double()
        assert bool(((op.bias.double() * unit - bias).abs() <= unit * 0.5000001).all())
        assert int(op.bias.abs().max()) > 2 ** (w_bit - 1), "more than weight bits could hold"


def test_bn_folded_twice_after_reload(tmp_path):
    """Folding a folded network again changed every weight in the reference; a reloaded file here has nothing to fold."""
    text = cfg_text(*[("convolutional", CONV | {"batch_normalize": 1})] * 2)
    network, x = random_network(text), random_images()
    once = fold_bn(network)
    twice = fold_bn(once)
    assert twice.spec == once.spec and all(torch.equal(twice.state[key], value) for key, value in once.state.items())
    integer = lower(calibrate(network, [x], Scheme(a_bit=8)))
    again = lower(calibrate(once, [x], Scheme(a_bit=8)))
    file = save_checkpoint(tmp_path / "net.int.pt", to_checkpoint(integer, "quantised"))
    reloaded = integer_of(load_checkpoint(file))
    assert not any(isinstance(layer, s.Conv) and layer.bn for layer in reloaded.spec.layers)
    heads = [IntegerExecutor(made)(x)[0] for made in (integer, again, reloaded)]
    assert torch.equal(heads[0], heads[1]) and torch.equal(heads[0], heads[2])
    with torch.no_grad():
        exact = build(network)(x)[0]
    assert float((heads[0] - exact).norm() / exact.norm()) < 0.05


def test_the_inputs_of_a_concat_are_not_requantised_in_place_for_their_other_readers():
    """The reference brought a route's inputs to one scale inside the list that other layers read later."""
    text = cfg_text(
        ("convolutional", CONV),
        ("convolutional", CONV | {"activation": "leaky"}),
        ("route", {"layers": "-1,-2"}),
        ("convolutional", CONV),
        ("route", {"layers": "0"}),
        ("convolutional", CONV),
    )
    x = random_images()
    integer = lower(calibrate(random_network(text), [x], Scheme(a_bit=8)))
    levels = IntegerExecutor(integer).levels(x)
    assert integer.grids[0].scale == integer.grids[1].scale == integer.grids[2].scale
    assert torch.equal(levels[4], levels[0]) and torch.equal(levels[2][:, 8:], levels[0])


def test_a_missing_own_scale_of_a_shortcut():
    """The reference added on the smaller of two ranges without clipping; here the sum has a calibrated scale."""
    network = random_network(
        cfg_text(("convolutional", CONV), ("convolutional", CONV), ("shortcut", {"from": -2, "activation": "linear"}))
    )
    state = {key: value * (50 if key.startswith("layers.1.") else 1) for key, value in network.state.items()}
    network, x = replace(network, state=state), random_images()
    integer = lower(calibrate(network, [x], Scheme(a_bit=8, ranges="minmax", equalise=False)))
    with torch.no_grad():
        exact = build(network).activations(x)[2]
    level = IntegerExecutor(integer).levels(x)[2]
    assert float((level * integer.grids[2].scale - exact).norm() / exact.norm()) < 0.02
    assert int(level.max()) > 200, "the range is used, not clipped"
