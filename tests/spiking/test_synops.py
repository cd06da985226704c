from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from tests.quantization.random_nets import cfg_text, random_images, random_network
from utils.darknet.counts import Counts, LayerCount, count
from utils.darknet.spec import Conv
from utils.quantization.calibrate import calibrate
from utils.quantization.lower import lower
from utils.quantization.scheme import Scheme
from utils.spiking.cost_words import cost_lines
from utils.spiking.energy import FP32, INT8, dense_energy, energy
from utils.spiking.layerwise import LayerwiseExecutor
from utils.spiking.spike_schedule import SpikingNetwork, encode
from utils.spiking.stepwise import StepwiseExecutor
from utils.spiking.synops import fan_out, measure, pixel_channels, weight_bytes

CONV = {"filters": 4, "size": 3, "pad": 1, "activation": "relu"}


def spiking(text: str, zeros: float = 0.0) -> SpikingNetwork:
    network = random_network(text)
    for key, value in network.state.items():
        if key.endswith("weight") and zeros:
            value *= torch.rand(value.shape, generator=torch.Generator().manual_seed(3)) > zeros
    return encode(lower(calibrate(network, [random_images()], Scheme(equalise=False, refit=False))))


def brute_fan_out(layer: Conv, weight: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Loops over every weight and every output position."""
    fan = torch.zeros(weight.shape[1] * layer.groups, height, width)
    reach = layer.dilation * (layer.size - 1) + 1
    rows = (height + 2 * layer.pad - reach) // layer.stride[0] + 1
    columns = (width + 2 * layer.pad - reach) // layer.stride[1] + 1
    for o, i, dy, dx in itertools.product(*map(range, weight.shape)):
        if weight[o, i, dy, dx] == 0:
            continue
        source = o // (layer.filters // layer.groups) * weight.shape[1] + i
        for r, c in itertools.product(range(rows), range(columns)):
            y = r * layer.stride[0] + dy * layer.dilation - layer.pad
            x = c * layer.stride[1] + dx * layer.dilation - layer.pad
            if 0 <= y < height and 0 <= x < width:
                fan[source, y, x] += 1
    return fan


@pytest.mark.parametrize(
    "options",
    [{}, {"stride": (2, 2)}, {"groups": 2}, {"groups": 4, "stride": (2, 1)}, {"dilation": 2, "pad": 2}, {"pad": 0}],
    ids=str,
)
def test_fan_out_equals_counting_every_tap(options):
    layer = Conv(sources=(-1,), filters=4, size=3, **{"pad": 1, **options})
    weight = torch.randint(-1, 2, (4, 4 // layer.groups, 3, 3), generator=torch.Generator().manual_seed(0))
    fan = fan_out(layer, weight, 6, 7)
    assert torch.equal(fan.float(), brute_fan_out(layer, weight, 6, 7))


def test_sops_equal_a_walk_over_every_spike():
    network = spiking(
        cfg_text(
            ("convolutional", CONV),
            ("maxpool", {"size": 2, "stride": 2}),
            ("convolutional", CONV | {"groups": 2, "activation": "leaky"}),
            ("shortcut", {"from": -2, "activation": "linear"}),
        ),
        zeros=0.3,
    )
    x = random_images(2, seed=4)
    cost = measure(LayerwiseExecutor(network), [x[:1], x[1:]])
    trains = StepwiseExecutor(network).simulate(x).trains
    for i in (2, 4):
        layer, op = network.integer.conv(i)
        spikes = trains[layer.sources[0]].abs().sum((0, 1))  # [C,H,W] of both images
        expected = float((spikes * brute_fan_out(layer, op.weight, *spikes.shape[1:])).sum()) / 2
        assert cost.layers[i].sops == pytest.approx(expected)
    added = trains[2].abs().sum() + trains[1].abs().sum()
    assert cost.layers[3].sops == pytest.approx(float(added) / 2)
    assert cost.spikes == pytest.approx(sum(float(trains[i].abs().sum()) for i in (0, 2, 3)) / 2)
    assert cost.neurons == 4 * 16 * 16 + 2 * 4 * 8 * 8


def test_pixels_are_multiplied_and_are_no_spikes():
    network = spiking(
        cfg_text(("convolutional", CONV), ("route", {"layers": "-1,-2"}), ("convolutional", CONV)).replace(
            "layers=-1,-2", "layers=-1,0"
        )
    )
    assert measure(LayerwiseExecutor(network), [random_images(1)]).layers[0].sops == 0
    cost = measure(LayerwiseExecutor(network), [random_images(1)])
    layer, op = network.integer.conv(0)
    assert cost.input_macs == cost.layers[0].macs == int(brute_fan_out(layer, op.weight, 16, 16).sum())


def test_zeros_that_were_put_in_are_no_work_of_the_conventional_twin():
    network = spiking(
        cfg_text(
            ("convolutional", CONV | {"stride": 2}),
            ("transposed_convolutional", CONV | {"stride": 2, "groups": 2}),
            ("upsample", {"stride": 2, "zeros": 1}),
            ("route", {"layers": "-1,-1"}),
            ("convolutional", CONV),
        )
    )
    x = random_images(1)
    cost, trains = measure(LayerwiseExecutor(network), [x]), StepwiseExecutor(network).simulate(x).trains
    for i in (2, 5):
        layer, op = network.integer.conv(i)
        height, width = trains[layer.sources[0]].shape[3:]
        fan = brute_fan_out(layer, op.weight, height, width)
        assert cost.layers[i].macs == int(fan[:, ::2, ::2].sum()) < int(fan.sum()) / 3
        assert cost.layers[i].sops == pytest.approx(float((trains[layer.sources[0]].abs().sum((0, 1)) * fan).sum()))
    pixels = spiking(cfg_text(("transposed_convolutional", CONV | {"stride": 2})))
    layer, op = pixels.integer.conv(1)
    worked = measure(LayerwiseExecutor(pixels), [x]).layers[1]
    assert worked.input_macs == worked.macs == int(brute_fan_out(layer, op.weight, 32, 32)[:, ::2, ::2].sum())


def test_pixels_stay_pixels_through_pools_and_slices():
    network = spiking(cfg_text(("maxpool", {"size": 2, "stride": 2}), ("convolutional", CONV)))
    pixels = pixel_channels(network.integer)
    assert bool(pixels[0].all()) and not bool(pixels[1].any())
    assert measure(LayerwiseExecutor(network), [random_images(1)]).layers[1].sops == 0


def test_a_black_image_costs_no_more_than_its_biases_fire():
    network = spiking(cfg_text(("convolutional", CONV), ("convolutional", CONV)))
    black = measure(LayerwiseExecutor(network), [torch.zeros(1, 3, 16, 16)])
    bright = measure(LayerwiseExecutor(network), [torch.ones(1, 3, 16, 16)])
    assert black.sops < bright.sops and black.macs == bright.macs


def counted(macs: int, adds: int = 0) -> Counts:
    return Counts((8, 8), (LayerCount(0, "Conv", 1, (8, 8), 0, macs, adds, 64),))


def test_energy_follows_the_table_and_the_verdict_is_honest():
    made = energy(counted(macs=100, adds=10), multiplications=20, sops=400)
    assert made.ann_fp32 == dense_energy(counted(100, 10), FP32) == pytest.approx(100 * 4.6 + 10 * 0.9)
    assert made.ann_int8 == dense_energy(counted(100, 10), INT8) == pytest.approx(100 * 0.3 + 10 * 0.1)
    assert made.spiking_fp32 == pytest.approx(20 * 4.6 + 400 * 0.9)
    assert made.spiking_int8 == pytest.approx(20 * 0.3 + 400 * 0.1)
    assert "int8 wins" in made.verdict
    assert "the spikes win" in energy(counted(macs=100), multiplications=0, sops=200).verdict
    assert pytest.approx(3) == INT8.mac / INT8.accumulate and FP32.mac == 4.6


@pytest.mark.parametrize("zeros", [0.0, 0.5])
def test_a_network_takes_the_same_energy_as_floats_and_beside_its_spikes(zeros):
    text = cfg_text(
        ("convolutional", CONV | {"stride": 2}),
        ("convolutional", CONV),
        ("shortcut", {"from": -2, "activation": "linear"}),
        ("upsample", {"stride": 2, "zeros": 1}),
        ("convolutional", CONV),
        ("local_avgpool", {"size": 2, "stride": 2, "padding": 0}),
    )
    counts, network = count(random_network(text).spec, (16, 16)), spiking(text, zeros)
    beside = measure(LayerwiseExecutor(network), [random_images(1)])
    assert (beside.energy.ann_fp32, beside.energy.ann_int8) == (dense_energy(counts, FP32), dense_energy(counts, INT8))
    assert counts.adds == 4 * 8 * 8 and counts.layers[5].macs == 4 * 4 * 8 * 8 and beside.macs < counts.macs
    assert f"dense fp32 {dense_energy(counts, FP32) / 1e6:.3g} and int8" in cost_lines(beside)[2]


def test_costs_do_not_depend_on_batches_and_state_is_counted():
    network = spiking(cfg_text(("convolutional", CONV), ("convolutional", CONV), ("route", {"layers": "-1,-2"})))
    x = random_images(4)
    whole, single = (measure(LayerwiseExecutor(network), x.split(n)) for n in (4, 1))
    assert whole == single and whole.frames == 4
    membranes = (4 + 4) * 256 + 6 * 256
    waiting = 4 * 256 * 4 // 8  # layer 0's counts, of 4 bits, wait at the concat for layer 1's
    assert whole.state_bytes == membranes * 4 + waiting
    assert whole.weight_bytes == weight_bytes(network.integer) == (4 * 27 + 16) + (4 * 36 + 16) + (6 * 8 + 24)


def test_measuring_no_images_is_an_error():
    with pytest.raises(ValueError, match="no images"):
        measure(LayerwiseExecutor(spiking(cfg_text(("convolutional", CONV)))), [])


@pytest.mark.parametrize("times", [0.98, 1.02])
def test_at_break_even_the_spikes_cost_what_int8_does(times):
    """What it says of spikes a synapse and of energies cannot differ: padding and pixels are in both."""
    cost = measure(
        LayerwiseExecutor(spiking(cfg_text(("convolutional", CONV), ("convolutional", CONV)))), [random_images()]
    )
    wanted = cost.break_even * (cost.macs - cost.input_macs) * times
    layers = {i: replace(each, sops=each.sops * wanted / cost.sops) for i, each in cost.layers.items()}
    cost = replace(cost, layers=layers)
    assert (cost.energy.spiking_int8 < cost.energy.ann_int8) == (times < 1)
    assert ("under the" in cost.verdict) == ("the spikes win" in cost.verdict) == (times < 1)
