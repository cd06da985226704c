"""A quantised network as the start of an ilif: its floats again, and its thresholds."""

from __future__ import annotations

import math
import re

import pytest
import torch

from models import Darknet, build, network_of
from tests.temporal.nets import CFGS, images, warmed
from utils.darknet.cfg import parse_cfg, read_cfg
from utils.darknet.network import Network
from utils.darknet.neuron_cfg import with_neurons, with_rates
from utils.darknet.writer import write_cfg
from utils.quantization.calibrate import calibrate
from utils.quantization.dequantise import dequantise
from utils.quantization.executor import IntegerExecutor
from utils.quantization.lower import lower
from utils.quantization.neuron_start import fitted, fitted_rates, fitted_steps, rated
from utils.quantization.scheme import Scheme


def quantised(name, bits, style):
    spec = read_cfg(CFGS / f"{name}.cfg")
    layers = tuple(
        layer
        if not hasattr(layer, "activation") or layer.activation == "linear"
        else type(layer)(**{**vars(layer), "activation": "relu"})
        for layer in spec.layers
    )
    spec = type(spec)(layers=layers, net=spec.net)
    torch.manual_seed(0)
    x = torch.randint(0, 256, (4, 3, spec.height, spec.width)).float() / 255
    model = Darknet(spec)
    model.train()(x)
    made = calibrate(network_of(model), [x], Scheme(style=style, w_bit=8, a_bit=bits))
    return lower(made), x


@pytest.mark.parametrize("style", ["google", "pow2"])
def test_one_step_of_as_many_levels_is_the_quantised_network(style):
    """T = 1 and D = the highest level: rounding, clipping and all, at float precision."""
    integer, x = quantised("plain", 4, style)
    floats = dequantise(integer)
    (most,) = {grid.qmax for grid in floats.grids.values()}
    thresholds = {i: grid.scale for i, grid in floats.grids.items()}
    spec = with_neurons(floats.network.spec, "ilif", 1, levels=most, thresholds=thresholds)
    model = build(Network(spec, floats.network.state))
    wanted = IntegerExecutor(integer)(x)
    with torch.no_grad():
        for found, expected in zip(model(x), wanted, strict=True):
            off = (found - expected).abs() / expected.abs().max()
            assert float(off.mean()) < 2e-3, "a level at a tie may fall to either side"
            assert float((off < 1e-4).float().mean()) > 0.9


def missed(values, step, levels):
    """Mean squared error of rounding to 0, 1 ... levels steps."""
    return float((((values / step).round().clamp(0, levels)) * step - values).square().mean())


@pytest.mark.parametrize("levels", [1, 4])
def test_no_other_step_loses_less_of_what_a_layer_sends(levels):
    model = warmed(read_cfg(CFGS / "plain.cfg"))
    x = images(model.spec, 8)
    layers = [i for i, layer in model.spec.activated.items() if layer.activation != "linear"]
    found = fitted_steps(network_of(model), [x[:4], x[4:]], dict.fromkeys(layers, levels))
    assert set(found) == set(layers)
    with torch.no_grad():
        sent = model.activations(x)
    for i, step in found.items():
        others = [missed(sent[i], step * factor, levels) for factor in (0.25, 0.5, 0.7, 0.85, 1.2, 1.5, 2.0, 4.0)]
        assert missed(sent[i], step, levels) < min(others)


def test_a_layer_that_sends_nothing_has_no_step():
    model = warmed(read_cfg(CFGS / "plain.cfg"))
    block = model.layers["0"]
    with torch.no_grad():
        block.bn.weight.zero_()
        block.bn.bias.fill_(-1.0)
    assert fitted_steps(network_of(model), [images(model.spec)], {0: 4}) == {}


def test_a_network_that_sends_nothing_keeps_its_thresholds():
    model = warmed(read_cfg(CFGS / "plain.cfg"))
    for i in model.spec.normed:
        torch.nn.init.zeros_(model.layers[str(i)].bn.weight)
        torch.nn.init.constant_(model.layers[str(i)].bn.bias, -1.0)
    network = Network(with_neurons(model.spec, "ilif", 1), network_of(model).state)
    assert fitted(network, lambda twin: [images(twin.spec)]) == (network, "")


def started(name, timesteps):
    """A float network, a lif that starts from it and forgets nothing, and images."""
    text = (CFGS / f"{name}.cfg").read_text().replace("leaky", "relu").replace("[maxpool]", "[avgpool]")
    text = re.sub(r"(\[shortcut]\nfrom=.*\nactivation=)relu", r"\1linear", text)  # and a maximum of spikes is no rate's
    floats = warmed(parse_cfg(text))
    x = images(floats.spec, 4)
    spec = with_rates(with_neurons(floats.spec, "lif", timesteps))
    spec = parse_cfg(write_cfg(spec).replace("membrane_decay=0.875", "membrane_decay=1"))
    made, words = fitted(Network(spec, network_of(floats).state), lambda twin: [x])
    assert words.startswith("fitted to 4 training images: a spike at every step stands for")
    return floats, build(made), x


def off_by(name, timesteps):
    """How far the outputs of a lif that starts from floats are from theirs, as a share of their deviation."""
    floats, made, x = started(name, timesteps)
    with torch.no_grad():
        pairs = zip(made(x), floats(x), strict=True)
        return max(float((found - wanted).std() / wanted.std()) for found, wanted in pairs)


@pytest.mark.parametrize("name", ["plain", "residual"])
def test_rates_over_more_steps_come_nearer_to_the_floats(name):
    few, many = off_by(name, 4), off_by(name, 64)
    assert many < few / 3 and many < 0.2


def test_what_a_layer_fires_is_on_the_whole_what_it_sent():
    """Rounded down it would be half a spike of four too little wherever it fires at all."""
    floats, made, x = started("plain", 4)
    with torch.no_grad():
        sent, fired = floats.activations(x)[0], made.activations(x)[0].unflatten(0, (4, -1)).mean(0)
    reach = fitted_rates(network_of(floats), [x], [[0]], 4)[0]
    few = sent < reach  # above, no rate reaches
    assert float(reach * fired[few].mean()) == pytest.approx(float(sent[few].mean()), rel=0.05)


SUM = (
    "[net]\ntimesteps=2\nreset={reset}\n[convolutional]\nbatch_normalize=1\nfilters=3\nactivation=lif\n"
    "[convolutional]\nbatch_normalize=1\nfilters=3\nactivation={branch}\n[shortcut]\nfrom=-2\nactivation={behind}\n"
    "[convolutional]\nbatch_normalize=1\nfilters=4\nactivation=lif\n"
    "[convolutional]\nfilters=8\nactivation=linear\n[yolo]\nmask=0\nanchors=4,4\nclasses=3\n"
)


@pytest.mark.parametrize(
    ("branch", "behind", "reset", "wanted"),
    [
        ("lif", "linear", "soft", [[0, 1], [3]]),
        ("linear", "linear", "soft", [[3]]),  # a sum of spikes and membranes
        ("lif", "lif", "soft", [[3]]),  # a neuron without a kernel that takes what its spikes are worth
        ("lif", "linear", "hard", []),
    ],
)
def test_rates_stand_for_floats_where_all_that_meets_are_rates(branch, behind, reset, wanted):
    assert rated(parse_cfg(SUM.format(branch=branch, behind=behind, reset=reset))) == wanted


def test_kernels_under_batch_norm_stay_as_they_are_and_thresholds_are_next_to_what_a_spike_stands_for():
    """What a spike stands for is in the statistics, so that kernels and gammas learn at the rates of floats."""
    floats, made, x = started("plain", 4)
    reach = fitted_rates(network_of(floats), [x], rated(made.spec), 4)
    before, after = floats.state_dict(), made.state_dict()
    for i, layer in made.spec.kernels.items():
        key = f"layers.{i}.conv.weight"
        assert torch.equal(before[key], after[key]) == layer.bn
    for i, each in made.spec.neurons.items():
        assert 2**-0.5 <= each.v_th / reach[i] <= 2**0.5 and each.surrogate_width == 2 * each.v_th
        assert math.log2(each.v_th).is_integer(), "hardware compares with shifts"
