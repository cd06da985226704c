"""Rate mode: nearer to the float network the longer it runs, never equal; right where older converters were wrong."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models import build
from tests.quantization.random_nets import cfg_text, random_images, random_network
from utils.darknet import spec as s
from utils.darknet.fold import fold_bn
from utils.darknet.network import Network
from utils.errors import InputError
from utils.quantization.calibrate import calibrate
from utils.quantization.executor import IntegerExecutor
from utils.quantization.histogram import float_edges
from utils.quantization.lower import lower
from utils.quantization.scheme import Scheme
from utils.spiking.choices import RESETS
from utils.spiking.rate import RateNetwork, normalise
from utils.spiking.rate_executor import RateExecutor, rate_mismatches

CONV = {"filters": 8, "size": 3, "pad": 1, "activation": "relu", "batch_normalize": 1}
CHAIN = cfg_text(*[("convolutional", CONV)] * 3)
BRANCHES = cfg_text(
    ("convolutional", CONV),
    ("maxpool", {"size": 2, "stride": 2}),
    ("convolutional", CONV),
    ("upsample", {"stride": 2}),
    ("route", {"layers": "-1,0"}),
    ("convolutional", CONV | {"groups": 2}),
    ("shortcut", {"from": -6, "activation": "linear"}),
)

UPWARD = cfg_text(
    ("convolutional", CONV | {"stride": 2}),
    ("transposed_convolutional", CONV | {"filters": 6, "stride": 2}),
    ("convolutional", CONV | {"stride": 2}),
    ("transposed_convolutional", CONV | {"filters": 12, "size": 4, "stride": 2, "pad": 0, "padding": 1, "groups": 2}),
    ("convolutional", CONV),
)

MEAN = cfg_text(
    ("convolutional", CONV | {"activation": "linear"}),
    ("avgpool", {}),
    ("convolutional", CONV | {"size": 1, "pad": 0, "activation": "leaky"}),
)


def heads(network: Network, x: Tensor) -> Tensor:
    with torch.no_grad():
        return build(network)(x)[0]


def rate(cfg: str, x: Tensor, **options) -> tuple[Network, RateNetwork]:
    network = random_network(cfg)
    return network, normalise(network, [x], **{"timesteps": 64, "percentile": 100.0, **options})


def error(network: Network, made: RateNetwork, x: Tensor) -> float:
    wanted = heads(network, x)
    return float((RateExecutor(made)(x)[0] - wanted).abs().mean() / wanted.abs().mean())


@pytest.mark.parametrize("channel_wise", [False, True])
@pytest.mark.parametrize(
    "cfg", [CHAIN, BRANCHES, UPWARD, MEAN], ids=["chain", "concat, groups, shortcut", "transposed", "mean"]
)
def test_rates_approach_the_float_network(cfg, channel_wise):
    x = random_images(2)
    errors = [error(*rate(cfg, x, timesteps=t, channel_wise=channel_wise), x) for t in (8, 64, 512)]
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.12


@pytest.mark.parametrize("channel_wise", [False, True])
def test_a_concat_of_branches_of_different_strength_stays_right(channel_wise):
    """One scale for the whole concat would weigh the weaker branch wrongly by their ratio."""
    network, x = random_network(BRANCHES), random_images(2)
    network.state["layers.2.bn.weight"] *= 50
    network.state["layers.2.bn.bias"] *= 50
    made = normalise(network, [x], timesteps=512, percentile=100.0, channel_wise=channel_wise)
    assert float(made.scales[4][:8].max() / made.scales[4][8:].max()) > 10
    assert error(network, made, x) < 0.1


def test_transposed_convolutions_are_folded_on_the_right_axis_and_report_their_mismatches():
    """Of PyTorch-Spiking-YOLOv3: batch norm, and the scales of channels, on axis 0 of [in, out / groups, k, k]."""
    network, x = random_network(UPWARD), random_images(2)
    made = normalise(network, [x], timesteps=512, percentile=100.0, channel_wise=True)
    assert not any(isinstance(layer, s.TransposedConv) for layer in made.spec.layers)
    run = RateExecutor(made).run(x, ())
    found = rate_mismatches(made, run, network, x, 512)
    assert set(found) == set(run.counts) and len(found) == 5
    assert all(layer.mean < 30 for layer in found.values()), found


def test_the_mean_of_a_map_is_a_neuron_a_channel_and_before_the_scores_a_part_of_what_is_read():
    x = random_images(2)
    made = rate(MEAN, x)[1]
    assert RateExecutor(made).run(x, ()).counts[1].shape == (2, 8, 1, 1)
    layers = cfg_text(("convolutional", CONV)).split("[convolutional]")[:2]
    end = "[avgpool]\n[connected]\noutput=5\nactivation=linear\n[softmax]\n"
    text = "[convolutional]".join(layers) + end
    network, made = rate(text, x, timesteps=512)
    wanted, found = heads(network, x).mean((2, 3)), RateExecutor(made)(x)[0].mean((2, 3))
    assert not any(isinstance(layer, s.AvgPool) for layer in made.spec.layers)
    assert torch.allclose(found, wanted, atol=0.02 * float(wanted.abs().max()))


def test_it_is_the_negative_control_and_fails_equality():
    network, x = random_network(CHAIN), random_images(2)
    made = normalise(network, [x], timesteps=15)
    integer = lower(calibrate(network, [x], Scheme(equalise=False)))
    run = RateExecutor(made).run(x, ())
    levels = IntegerExecutor(integer).levels(x)
    assert all(not torch.equal(count.int(), levels[i]) for i, count in run.counts.items())
    assert not torch.equal(run.heads[15][0], IntegerExecutor(integer)(x)[0])
    found = rate_mismatches(made, run, network, x, 15)
    assert found[0].wrong == 0 and found[2].share > 0.02


def test_a_constant_current_is_rounded_half_up_by_the_half_threshold():
    network = random_network(cfg_text(("convolutional", CONV | {"batch_normalize": 0})))
    x = random_images(1)
    made = normalise(network, [x], timesteps=20, percentile=100.0)
    run = RateExecutor(made).run(x, ())
    current = next(y for i, y in float_edges(network, x) if i == 0) / made.scales[0].view(1, -1, 1, 1)
    sure = ((current * 20) % 1 - 0.5).abs() > 1e-3
    assert torch.equal(run.counts[0][sure], (current * 20 + 0.5).floor().clamp(0, 20)[sure])


def test_reset_to_zero_forgets_and_is_worse():
    x = random_images(2)
    found = {reset: error(*rate(CHAIN, x, timesteps=256, reset=reset), x) for reset in RESETS}
    assert found["zero"] > 2 * found["subtract"]


def test_one_scale_an_edge():
    network, made = rate(BRANCHES, random_images(2))
    folded = fold_bn(network)
    for i, j in ((2, 1), (5, 4)):
        weight, own = folded.state[f"layers.{i}.conv.weight"], made.scales[i].view(-1, 1, 1, 1)
        given = made.scales[j]
        groups = 2 if i == 5 else 1
        for o in range(8):
            part = given.view(groups, -1)[o // (8 // groups)][:, None, None]
            expected = weight[o] * part / own[o]
            assert torch.allclose(made.network.state[f"layers.{i}.conv.weight"][o], expected)


def test_the_percentile_is_the_share_that_is_not_passed():
    x = random_images(4)
    network, full = rate(CHAIN, x)
    _, half = rate(CHAIN, x, percentile=90.0)
    y = next(y for i, y in float_edges(fold_bn(network), x) if i == 0)
    assert float(full.scales[0].max()) == pytest.approx(float(y.max()))
    assert float((y <= half.scales[0].view(1, -1, 1, 1)).float().mean()) == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize("channel_wise", [False, True])
@pytest.mark.parametrize("percentile", [60.0, 99.5, 100.0])
def test_the_percentile_is_that_of_all_values_of_all_batches(percentile: float, channel_wise: bool):
    x = random_images(5)
    network = random_network(CHAIN)
    made = normalise(network, [x[:2], x[2:]], timesteps=4, percentile=percentile, channel_wise=channel_wise)
    y = next(y for i, y in float_edges(fold_bn(network), x) if i == 0)
    rows = y.transpose(0, 1).flatten(1) if channel_wise else y.reshape(1, -1)
    expected = rows.kthvalue(round(rows.shape[1] * percentile / 100)).values.expand(8)
    assert torch.allclose(made.scales[0], torch.where(expected > 1e-8, expected, torch.ones(())))


def test_leaky_rates_are_signed():
    text = cfg_text(*[("convolutional", CONV | {"activation": "leaky"})] * 2)
    x = random_images(2)
    network, made = rate(text, x, timesteps=256)
    run = RateExecutor(made).run(x, ())
    assert float(run.counts[0].min()) < 0 < float(run.counts[0].max())
    assert error(network, made, x) < 0.05


def test_read_outs_on_the_way_are_those_of_a_shorter_run():
    x = random_images(2)
    _, made = rate(CHAIN, x)
    run = RateExecutor(made).run(x, (5, 16))
    assert set(run.heads) == {5, 16, 64}
    assert torch.equal(run.heads[16][0], RateExecutor(made, 16)(x)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"percentile": 20.0}, r"--percentile: 20\.0 is not in \(50, 100\]"),
        ({"timesteps": 0}, "--timesteps: 0; use 1 or more"),
        ({"reset": "never"}, "--reset: 'never' is unknown"),
    ],
)
def test_impossible_choices_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        rate(CHAIN, random_images(1), **options)


def test_what_cannot_spike_is_refused_by_layer_and_line():
    with pytest.raises(InputError, match=r"layer 1 \(cfg line \d+\): activation=mish cannot spike; .*retrain"):
        rate(cfg_text(("convolutional", CONV), ("convolutional", CONV | {"activation": "mish"})), random_images(1))
