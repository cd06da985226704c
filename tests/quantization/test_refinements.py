from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models import build
from tests.quantization.random_nets import CONV, cfg_text, random_images, random_network
from utils.darknet.expand import expand
from utils.darknet.fold import fold_bn
from utils.darknet.network import Network
from utils.darknet.spec import Conv
from utils.quantization.activation_qparams import edge_bits, trace_edges
from utils.quantization.bias import correct_bias
from utils.quantization.calibrate import calibrate
from utils.quantization.equalise import equalise, trace_wires
from utils.quantization.executor import IntegerExecutor
from utils.quantization.histogram import collect
from utils.quantization.lower import lower
from utils.quantization.scheme import Scheme
from utils.quantization.weight_reconstruction import refit, sample_positions

BARE = Scheme(equalise=False, refit=False, correct_bias=False)


def equalised(network: Network) -> Network:
    folded = fold_bn(network)
    edges = trace_edges(folded.spec)
    return equalise(
        folded, edges, collect(folded, [random_images()], edges.producers), edge_bits(edges, Scheme(a_bit=4))
    )[0]


def uneven(cfg: str) -> Network:
    """A network whose channels differ a hundredfold, as folded batch norms make them."""
    network = random_network(cfg)
    for i, layer in enumerate(network.spec.layers[:-2]):
        if isinstance(layer, Conv):
            gain = torch.logspace(-1, 1, layer.filters)
            network.state[f"layers.{i}.conv.weight"] *= gain[:, None, None, None]
            network.state[f"layers.{i}.conv.bias"] *= gain
    return network


def error(network: Network, scheme: Scheme, seed: int = 5) -> float:
    """Relative root mean squared error of the integer heads on images that calibration has not seen."""
    calibration, x = random_images(16), random_images(8, seed=seed)
    with torch.no_grad():
        exact = build(network)(x)
    made = IntegerExecutor(lower(calibrate(network, [calibration], scheme)))(x)
    return float(sum((a - b).square().mean() / b.var() for a, b in zip(made, exact, strict=True)) ** 0.5)


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_equalising_changes_no_output(seed):
    network, x = random_network(seed), random_images(2, seed=1)
    with torch.no_grad():
        for before, after in zip(build(fold_bn(network))(x), build(equalised(network))(x), strict=True):
            torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "sections",
    [
        (("reorg", {"stride": 2}), ("convolutional", CONV)),
        (
            ("avgpool", {}),
            ("convolutional", CONV | {"size": 1, "pad": 0}),
            ("scale_channels", {"from": -3, "activation": "leaky"}),
        ),
        (("se", {"squeeze": 3}), ("convolutional", CONV)),
        (("convolutional", CONV | {"activation": "leaky"}), ("shortcut", {"from": -2, "weights_type": "per_channel"})),
    ],
    ids=lambda sections: sections[0][0],
)
def test_equalising_changes_nothing_where_channels_mix_or_multiply(sections):
    """A map of 6 px, whose rows a reorg does not part at channels' ends; a gate that is homogeneous itself."""
    network, x = expand(uneven(cfg_text(("convolutional", CONV), *sections)))[0], random_images(2, side=24)[..., :6, :6]
    folded, edges = fold_bn(network), trace_edges(network.spec)
    found = collect(folded, [x], edges.producers)
    even, _ = equalise(folded, edges, found, edge_bits(edges, Scheme(a_bit=4)))
    assert any(not torch.equal(even.state[key], value) for key, value in folded.state.items())
    with torch.no_grad():
        for before, after in zip(build(folded)(x), build(even)(x), strict=True):
            torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-3 * float(before.abs().max()))


def test_equalised_channels_have_even_ranges():
    text = cfg_text(("convolutional", CONV), ("maxpool", {"size": 2, "stride": 2}), ("convolutional", CONV))
    x = random_images(8, seed=3)
    spread = []
    for network in (uneven(text), equalised(uneven(text))):
        with torch.no_grad():
            top = build(network).activations(x)[0].amax((0, 2, 3))
        spread.append(float(top.max() / top[top > 0].min()))
    assert spread[0] > 50 and spread[1] < 4


def test_relu6_the_image_and_the_heads_are_left_alone():
    network = uneven(cfg_text(("convolutional", CONV | {"activation": "relu6"}), ("convolutional", CONV)))
    wires, locked = trace_wires(network.spec)
    assert bool(locked[wires[-1]].all()) and bool(locked[wires[0]].all()) and bool(locked[wires[2]].all())
    assert not bool(locked[wires[1]].any())
    even = equalised(network)
    assert torch.equal(even.state["layers.0.conv.bias"], network.state["layers.0.conv.bias"])
    assert torch.equal(even.state["layers.2.conv.bias"], network.state["layers.2.conv.bias"])


@pytest.mark.parametrize("tail", [(), (("shortcut", {"from": -2, "activation": "linear"}), ("convolutional", CONV))])
def test_the_refinements_lower_the_error_of_four_bits(tail):
    network = uneven(cfg_text(*[("convolutional", CONV)] * 4, *tail))
    bare = error(network, BARE)
    assert error(network, replace(BARE, equalise=True)) < 0.8 * bare
    assert error(network, Scheme()) < 0.8 * bare


def test_refit_beats_the_true_weights_when_the_inputs_are_coarse():
    """Rounded inputs are noisy inputs: the best weights on them are not those of the float network."""
    layer = Conv(sources=(-1,), filters=8, size=3, pad=1)
    weight, bias, taps, target = regression(layer, 1)
    coarse = (taps * 2 + 0.5).floor() / 2
    found, offset = refit(layer, weight, bias, coarse[:3000], target[:3000])

    def miss(w: Tensor, b: Tensor) -> float:
        made = coarse[3000:].flatten(1) @ w.flatten(1).T + b
        return float((made - target[3000:]).square().mean())

    assert miss(found, offset) < 0.9 * miss(weight, bias)


def regression(layer: Conv, groups: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(layer.filters, 8 // groups, 3, 3, generator=generator)
    bias = torch.randn(layer.filters, generator=generator)
    taps = torch.rand(4000, 8, 9, generator=generator)
    grouped = taps.view(4000, groups, -1)
    made = torch.einsum("pgk,gok->pgo", grouped, weight.view(groups, -1, grouped.shape[2])).reshape(4000, -1)
    return weight, bias, taps, made + bias


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_refit_finds_the_weights_that_made_the_target(groups):
    layer = Conv(sources=(-1,), filters=8, size=3, pad=1, groups=groups)
    weight, bias, taps, target = regression(layer, groups)
    start = weight + 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    found, offset = refit(layer, start, bias + 0.5, taps, target)
    assert (found - weight).norm() < 0.4 * (start - weight).norm()
    assert float((offset - bias).abs().mean()) < 0.4


def test_refit_leaves_weights_that_are_right_already():
    layer = Conv(sources=(-1,), filters=8, size=3, pad=1, activation="relu")
    weight, bias, taps, target = regression(layer, 1)
    found, offset = refit(layer, weight, bias, taps, target)
    torch.testing.assert_close(found, weight, rtol=0, atol=1e-3)
    torch.testing.assert_close(offset, bias, rtol=0, atol=1e-3)


def test_sampled_taps_times_the_weights_are_the_outputs():
    layer = Conv(sources=(-1,), filters=5, size=3, stride=(2, 1), pad=2, dilation=2)
    x = torch.randn(3, 4, 11, 9)
    weight = torch.randn(5, 4, 3, 3)
    y = torch.nn.functional.conv2d(x, weight, None, layer.stride, layer.pad, layer.dilation)
    taps, wanted = sample_positions(layer, [x[:2], x[2:]], [y[:2], y[2:]], 60, torch.Generator().manual_seed(0))
    torch.testing.assert_close(torch.einsum("pik,oik->po", taps, weight.flatten(2)), wanted, rtol=1e-4, atol=1e-4)


def test_a_corrected_bias_gives_every_channel_its_float_mean():
    layer = Conv(sources=(-1,), filters=3)
    before = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)) + 1
    off = torch.tensor([0.3, -0.2, 0.05])
    bias = correct_bias(layer, torch.zeros(3), [before - off.view(-1, 1, 1)], [before], None)
    torch.testing.assert_close(bias, off, rtol=1e-4, atol=1e-5)
