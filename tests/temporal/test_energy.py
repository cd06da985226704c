"""Spikes, accumulates and multiplications of a network that was trained as spikes, counted by hand as well."""

from __future__ import annotations

import pytest
import torch

from tests.temporal.nets import HIDDEN, images, small, spiking, warmed
from utils.darknet.cfg import parse_cfg
from utils.errors import InputError
from utils.spiking.direct import measure_direct
from utils.spiking.energy import FP32


def by_hand(model, x):
    """(spikes, accumulates) of the second convolution and the head, a mean an image; loops over what fires."""
    out = model.activations(x)
    weight, fired = model.layers["2"].conv.weight, out[1]
    sops = 0
    for _, channel, row, column in fired.nonzero().tolist():
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                inside = 0 <= row + down < fired.shape[2] and 0 <= column + right < fired.shape[3]
                sops += int((weight[:, channel, 1 - down, 1 - right] != 0).sum()) if inside else 0
    return out[0].sum().item() / len(x), sops / len(x), out[2].sum().item() * 8 / len(x)


def test_totals_are_those_counted_by_hand():
    model = warmed(small())
    x = images(model.spec)
    spikes, inner, outer = by_hand(model, x)
    cost = measure_direct(model, [x])
    assert cost.layers[0].spikes == pytest.approx(spikes)
    assert cost.layers[2].sops == pytest.approx(inner) and inner > 0
    assert cost.layers[3].sops == pytest.approx(outer) and outer > 0
    assert cost.layers[0].sops == 0
    taps = 16 * 16 * 9 - 4 * 16 * 3 + 4  # of a 3x3 kernel over 16x16 px, without those on the padding
    assert cost.layers[0].input_macs == cost.input_macs == taps * 3 * 6
    assert cost.layers[0].neurons == 6 * 16 * 16 and cost.layers[3].neurons == 0
    assert cost.energy.spiking_fp32 == pytest.approx(cost.input_macs * FP32.mac + (inner + outer) * FP32.accumulate)
    assert cost.state_bytes == 4 * (6 * 16 * 16 + 8 * 8 * 8)


def test_a_spike_of_minus_one_costs_as_much_as_one():
    model = warmed(small("lif\nsigned=1"))
    x = images(model.spec)
    sent = model.activations(x)[2]
    assert (sent < 0).any() and (sent > 0).any()
    cost = measure_direct(model, [x])
    assert cost.layers[2].spikes == pytest.approx(float((sent != 0).sum()) / len(x))
    assert cost.layers[3].sops == pytest.approx(8 * cost.layers[2].spikes)


def test_frames_are_multiplied_at_every_step():
    model = warmed(parse_cfg(HIDDEN.format("lif").replace("timesteps=3", "timesteps=3\ninput=frames")))
    once, often = (measure_direct(model, [x]) for x in (images(model.spec), images(model.spec, 2, frames=3)))
    still = measure_direct(warmed(small()), [images(small())])
    assert once.multiplications == often.multiplications == 3 * still.multiplications
    assert once.input_macs == still.input_macs


def test_an_output_that_reads_the_last_step_adds_its_spikes_alone():
    model = warmed(parse_cfg(HIDDEN.format("lif").replace("timesteps=3", "timesteps=3\nreadout=last")))
    x = images(model.spec)
    sent = model.activations(x)[2].unflatten(0, (3, -1))
    cost = measure_direct(model, [x[:1], x[1:]])
    assert cost.layers[2].spikes == pytest.approx(float(sent.sum()) / len(x))
    assert cost.layers[3].sops == pytest.approx(8 * float(sent[-1].sum()) / len(x))


def test_a_silent_network_costs_its_first_layer():
    model = warmed(small())
    for i in ("0", "2"):
        torch.nn.init.zeros_(model.layers[i].bn.weight)
        torch.nn.init.zeros_(model.layers[i].bn.bias)
    cost = measure_direct(model, [images(model.spec)])
    assert cost.spikes == cost.sops == 0
    assert cost.energy.spiking_fp32 == cost.input_macs * FP32.mac


def test_a_layer_that_reads_no_spikes_multiplies():
    """The recipe without neurons: what looks like a spiking head is all multiplications."""
    cost = measure_direct(warmed(small("linear")), [images(small())])
    assert cost.layers[3].sops == 0
    assert (cost.layers[3].input_macs, cost.layers[3].steps) == (8 * 8 * 8 * 8, 1), "it reads the mean over the steps"
    assert cost.multiplications == cost.layers[0].input_macs + cost.layers[3].input_macs


def test_whole_numbers_of_spikes_count_as_many():
    model = warmed(spiking("residual", "ilif", 1))
    x = images(model.spec)
    cost, out = measure_direct(model, [x]), model.activations(x)
    for i, neuron in model.spec.neurons.items():
        assert cost.layers[i].spikes == pytest.approx(out[i].sum().item() / neuron.v_th / len(x), rel=1e-5)
    assert max(value.max().item() for value in out.values()) > 1


def test_gates_multiply_at_every_step():
    lif, ltc = (measure_direct(warmed(small(kind)), [images(small())]) for kind in ("lif", "ltc"))
    gates = 2 * 9 * 8 * 8 * 8 * 3  # two depthwise 3x3 over 8 channels of 8x8 px, three steps
    assert (ltc.layers[2].gate_macs, lif.layers[2].gate_macs) == (gates, 0)
    assert ltc.multiplications == lif.multiplications + gates


def test_transposed_convolutions_are_refused():
    model = warmed(spiking("transposed", "lif"))
    with pytest.raises(InputError, match="a transposed one, are not counted"):
        measure_direct(model, [images(model.spec)])
