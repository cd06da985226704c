"""Networks of spikes for hardware: the integers are the trained network to the bit, and numpy computes the same ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models import Darknet
from tests.temporal.nets import HIDDEN, images, spiking, warmed
from utils.darknet.cfg import parse_cfg, write_cfg
from utils.errors import InputError
from utils.spiking.lif_integers import LifExecutor, equal_to_the_bit, lower_lif
from utils.temporal.hardware import Leak, for_hardware, rounded_weight

FOUR = HIDDEN.replace("timesteps=3", "timesteps=4")


def hardware(text: str) -> Darknet:
    return warmed(for_hardware(parse_cfg(text)))


def levels(spec, n=2):
    """Images as they are read from files: n / 255."""
    return (images(spec, n) * 255).round() / 255


@pytest.mark.parametrize("decay", [0.5, 0.25, 0.125, 0.75, 0.875, 0.9375])
@pytest.mark.parametrize("reset", ["hard", "soft"])
def test_integers_are_the_network_to_the_bit(decay, reset):
    text = FOUR.replace("timesteps=4", f"timesteps=4\nreset={reset}\nmembrane_decay={decay}").format("lif\nv_th=0.25")
    model = hardware(text)
    executor = LifExecutor(lower_lif(model))
    x = levels(model.spec, 4)
    assert equal_to_the_bit(model, executor, x)
    heads, sent = executor.run(x)
    assert all(0 < spikes.float().mean() < 1 for spikes in sent.values())
    assert torch.equal(heads[0], model(x)[0]) and heads[0].unique().numel() > 100


@pytest.mark.parametrize("name", ["plain", "csp", "spp"])
def test_routes_pools_and_several_heads_are_equal_too(name):
    model = warmed(for_hardware(spiking(name, "lif")))
    assert equal_to_the_bit(model, LifExecutor(lower_lif(model)), levels(model.spec))


def test_frames_are_equal_too():
    model = hardware(FOUR.format("lif").replace("timesteps=4", "timesteps=4\ninput=frames"))
    x = (images(model.spec, 2, frames=4) > 0.5).float()
    assert equal_to_the_bit(model, LifExecutor(lower_lif(model)), x)


def test_one_wrong_weight_is_noticed():
    model = hardware(FOUR.format("lif"))
    network = lower_lif(model)
    network.layers[2].weight[0, 0, 1, 1] += 1
    assert not equal_to_the_bit(model, LifExecutor(network), levels(model.spec))


def test_numpy_computes_the_same_spikes():
    """Loops over pixels, Python's own integers: nothing of torch, nothing of floats."""
    model = hardware(FOUR.format("lif"))
    network = lower_lif(model)
    x = levels(model.spec, 1)
    _, sent = LifExecutor(network).run(x)
    pixels = (x[0] * 255).round().numpy().astype(np.int64)
    v = np.zeros((6, 16, 16), np.int64)
    layer = network.layers[0]
    weight, bias = layer.weight.numpy().astype(np.int64), layer.bias.numpy().astype(np.int64)
    padded = np.pad(pixels, ((0, 0), (1, 1), (1, 1)))
    charge = np.array(
        [[[(weight[o] * padded[:, r : r + 3, c : c + 3]).sum() + bias[o] for c in range(16)] for r in range(16)]
         for o in range(6)]
    )  # fmt: skip
    for t in range(4):
        u = (v >> 2) + charge
        spikes = (u > layer.threshold.numpy()[:, None, None]).astype(np.int64)
        v = u * (1 - spikes)
        assert np.array_equal(spikes, sent[0][t, 0].numpy())
    assert (layer.weight.abs().amax((1, 2, 3)) > 63).all(), "each grid is the finest that 8 bits allow"


@pytest.mark.parametrize("decay", [2.0**-k for k in range(1, 8)] + [1 - 2.0**-k for k in range(1, 8)])
def test_a_leak_is_a_shift_that_rounds_down(decay):
    leak = Leak.of(decay)
    v = torch.arange(-300, 300)
    part = torch.tensor([int(each) >> leak.shift for each in v])
    expected = v - part if leak.most else part
    assert torch.equal(leak(v.float()), expected.float())
    assert leak.decay == decay


def test_thresholds_are_powers_of_two():
    network = lower_lif(hardware(FOUR.format("lif")))
    for layer in network.layers.values():
        assert layer.weight.dtype == torch.int8
    for i in network.spec.neurons:
        threshold = network.layers[i].threshold
        assert (threshold > 0).all() and (threshold & (threshold - 1) == 0).all()


def test_a_filter_that_is_much_larger_than_others_takes_nothing_from_them():
    """Batch norm makes the folded weights of a filter that sees almost nothing huge; a grid for all would end at 0."""
    model = hardware(FOUR.format("lif"))
    with torch.no_grad():
        model.layers["2"].bn.running_var[3] = 1e-9
    layer = lower_lif(model).layers[2]
    assert (layer.weight.abs().amax((1, 2, 3)) > 63).all()
    assert layer.exponent[3] > layer.exponent[:3].max() + 4


def test_training_rounds_weights_and_lets_gradients_through():
    model = hardware(FOUR.format("lif")).train()
    x = levels(model.spec)
    model(x)[0].square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert model.layers["2"].conv.weight.grad.abs().sum() > 0
    plain = Darknet(parse_cfg(FOUR.format("lif"))).train()
    plain.load_state_dict(model.state_dict())
    found, other = model(x)[0], plain(x)[0]
    assert not torch.equal(found, other)
    for i in model.spec.kernels:
        block = model.layers[str(i)]
        off = rounded_weight(block.conv, block.bn, block.levels, 0.5) - block.conv.weight
        assert (off.abs().amax((1, 2, 3)) <= block.conv.weight.abs().amax((1, 2, 3)) / 127).all(), "half of 2 / 127"


def test_what_it_is_for_is_written_as_it_is_read():
    spec = for_hardware(parse_cfg(FOUR.format("lif")))
    assert parse_cfg(write_cfg(spec)) == spec


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FOUR.format("lif\nmembrane_decay=0.3"), r"layer 2 \(cfg line 14\): membrane_decay=0.3 is no shift; use 1/2, 1/4"),
        (FOUR.format("lif\nv_th=0.3"), "layer 2 .*v_th=0.3 is no power of two"),
        (FOUR.format("ilif"), "layer 2 .*activation=ilif has no form in shifts; use --spiking lif"),
        (FOUR.format("plif"), "activation=plif has no form in shifts"),
        (FOUR.format("lif\nmembrane_bits=4"), "membrane_bits= rounds another way"),
        (FOUR.format("lif\nmembrane_start=.5"), "membrane_start=0.5: the integers' membranes start at 0"),
        (FOUR.format("lif").replace("timesteps=4", "timesteps=4\nreadout=last"), "readout=last: the integers' outputs are"),
        (FOUR.format("lif\nsigned=1"), "signed=1 sends -1 as well, the integers' spikes are 0 and 1"),
        (FOUR.format("linear"), "layer 2 .*has no neurons and is no output's convolution"),
        (FOUR.format("lif") + "[route]\nlayers=3\n" + FOUR.format("lif").partition("stride=2\n")[2],
         r"layer 3 \(cfg line 20\): is an output's convolution, and layer 5 reads it too; its values are no spikes"),
        (HIDDEN.format("lif"), r"\[net\] timesteps=3: outputs are means over the steps, a shift of 1, 2, 4"),
        (FOUR.format("lif").replace("[maxpool]\nsize=2", "[local_avgpool]\nsize=2"), "takes more than shifts and sums"),
        (FOUR.format("relu").replace("activation=lif", "activation=relu").replace("timesteps=4\n", ""),
         "weight_quant=int8 is for networks of spikes"),
    ],
)  # fmt: skip
def test_what_takes_more_than_shifts_is_refused_by_name(text, message):
    with pytest.raises(InputError, match=message):
        for_hardware(parse_cfg(text))


def test_membranes_beyond_24_bits_are_refused():
    model = hardware(FOUR.format("lif"))
    with torch.no_grad():
        model.layers["2"].bn.bias.fill_(1e6)
    with pytest.raises(InputError, match=r"layer 2 .*a membrane may grow to .* more than 24 bits"):
        lower_lif(model)
