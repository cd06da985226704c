"""The proof: spikes, step by step, add up to the integer network's levels, in every layer, to the last one."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.quantization.random_nets import CONV, cfg_text, random_images, random_network, rich_cfg
from utils.darknet.spec import Conv
from utils.errors import InputError
from utils.quantization.calibrate import calibrate
from utils.quantization.executor import IntegerExecutor
from utils.quantization.integer import IntConv
from utils.quantization.lower import lower
from utils.quantization.scheme import Scheme
from utils.spiking.layerwise import LayerwiseExecutor
from utils.spiking.neurons import Neuron
from utils.spiking.spike_schedule import SpikingNetwork, encode, spiking_layers
from utils.spiking.stepwise import StepwiseExecutor, _integrate

UNEVEN = {"filters": 8, "size": 4, "stride": 2, "padding": 1, "activation": "relu"}  # a transposed kernel of even size


@cache
def spiking(cfg: str | int, bits: int = 4, w_bit: int = 8) -> SpikingNetwork:
    scheme = Scheme(w_bit=w_bit, a_bit=bits, equalise=False, refit=False)
    return encode(lower(calibrate(random_network(cfg), [random_images()], scheme)))


def assert_equal_everywhere(network: SpikingNetwork, x: Tensor) -> None:
    golden = IntegerExecutor(network.integer).trace(x)
    phase = LayerwiseExecutor(network).trace(x)
    spikes = StepwiseExecutor(network).simulate(x)
    counts = spikes.counts()
    assert set(golden.levels) == set(phase.levels) == set(counts)
    for i, level in golden.levels.items():
        assert torch.equal(phase.levels[i], level), f"phase, layer {i}"
        assert torch.equal(counts[i], level), f"stepwise, layer {i}"
    for i, acc in golden.accumulators.items():
        assert torch.equal(phase.accumulators[i], acc), f"phase, accumulator {i}"
    for i, membrane in spikes.membranes.items():
        assert torch.equal(membrane, golden.accumulators[i]), f"stepwise, head {i}"


def test_a_step_whose_sum_float32_would_round_is_added_up_exactly():
    layer = Conv(line=0, sources=(-1,), filters=1, size=3, stride=(1, 1), pad=0, activation="linear", bn=False)
    op = IntConv(weight=torch.full((1, 64, 3, 3), 2**15 - 1).short(), bias=torch.ones(1).int(), w_bit=16, acc_bits=32)
    total = _integrate(layer, op, torch.ones(2, 1, 64, 3, 3))
    assert total.item() == 2 * 576 * (2**15 - 1) + 1 > 2**24


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), bits=st.sampled_from([(8, 4), (8, 2), (4, 3)]))
def test_spike_counts_equal_integer_levels_in_every_layer(seed, bits):
    assert_equal_everywhere(spiking(seed, bits[1], bits[0]), random_images(2, seed=seed))


@pytest.mark.parametrize("activation", ["relu", "leaky", "linear", "relu6"])
@pytest.mark.parametrize(
    "section",
    [
        ("maxpool", {"size": 2, "stride": 2}),
        ("maxpool", {"size": 2, "stride": 1}),
        ("maxpool", {"size": 5, "stride": 1}),
        ("upsample", {"stride": 2}),
        ("upsample", {"stride": 2, "zeros": 1}),
        ("transposed_convolutional", CONV | {"stride": 2}),
        ("transposed_convolutional", UNEVEN | {"groups": 2}),
        ("transposed_convolutional", UNEVEN | {"size": 6, "stride": 3, "padding": 2, "activation": "leaky"}),
        ("route", {"layers": "-1,-2"}),
        ("route", {"layers": -1, "groups": 2, "group_id": 1}),
        ("shortcut", {"from": -2, "activation": "linear"}),
        ("shortcut", {"from": -2, "activation": "leaky"}),
        ("shortcut", {"from": -2, "activation": "relu"}),
        ("convolutional", CONV | {"groups": 8, "stride": 2}),
        ("convolutional", CONV | {"groups": 2, "size": 5}),
        ("dropout", {"probability": 0.3}),
        ("avgpool", {}),
        ("reorg", {"stride": 2}),
        ("shortcut", {"from": -2, "weights_type": "per_feature", "weights_normalization": "relu"}),
        ("shortcut", {"from": -2, "weights_type": "per_channel", "activation": "leaky"}),
    ],
    ids=lambda section: "-".join(map(str, (section[0], *section[1].values()))),
)
def test_every_layer_and_activation_spikes_its_level(section, activation):
    conv = ("convolutional", CONV | {"activation": activation})
    network = spiking(cfg_text(conv, conv, section, conv), 3)
    assert_equal_everywhere(network, random_images(2, seed=1))


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_reorg_and_weighted_sums_of_either_sign_spike_their_levels(seed):
    assert_equal_everywhere(spiking(rich_cfg(seed, spikes=True), 3), random_images(1, seed=seed))


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (("convolutional", CONV | {"activation": "mish"}), r"activation=mish has no spiking form; .*--act relu"),
        (("shortcut", {"from": -2, "activation": "swish"}), r"activation=swish has no spiking form; .*--act relu"),
        (("se", {"squeeze": 2}), r"\[scale_channels\] has no spiking form \(nor has \[se\].*retrain .*--act relu"),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_what_no_neuron_does_is_refused_with_layer_line_and_remedy(section, message):
    conv = ("convolutional", CONV)
    with pytest.raises(InputError, match=rf"layer [25] \(cfg line 18\): {message}"):
        spiking(cfg_text(conv, conv, section))


def test_eight_bit_windows_are_exact_too():
    assert_equal_everywhere(spiking(3, 8), random_images(1, seed=2))


@pytest.mark.parametrize("seed", [2, 9])
def test_all_three_predictors_return_the_same_heads_in_any_batch(seed):
    network, x = spiking(seed), random_images(3, seed=7)
    golden = IntegerExecutor(network.integer)(x)
    for executor in (LayerwiseExecutor(network), StepwiseExecutor(network)):
        for mine, theirs in zip(executor(x), golden, strict=True):
            assert torch.equal(mine, theirs)
        for n in range(3):
            for mine, theirs in zip(executor(x[n : n + 1]), golden, strict=True):
                assert torch.equal(mine, theirs[n : n + 1])


@pytest.mark.parametrize("activation", ["relu", "leaky"])
def test_a_train_is_single_spikes_first_steps_first(activation):
    network = spiking(cfg_text(("convolutional", CONV | {"activation": activation})))
    spikes = StepwiseExecutor(network).simulate(random_images())
    train = spikes.trains[0]  # [T,N,C,H,W]
    assert len(train) == network.window
    assert set(train.unique().tolist()) <= {-1, 0, 1}
    size = train.abs()
    assert bool((size[1:] <= size[:-1]).all()), "a silent neuron fired again"
    assert bool((train.amax(0) - train.amin(0) <= 1).all()), "a neuron fired both signs"


def test_no_neuron_is_left_with_a_spike_to_fire():
    network = spiking(cfg_text(("convolutional", CONV | {"activation": "leaky"})))
    by = network.integer.ops[0].requantiser
    assert by is not None
    neuron = Neuron.of(by, torch.device("cpu"))
    total = torch.randint(-(10**6), 10**6, (2, 8, 5, 5)).double()
    potential, fired = neuron.charge(total), torch.zeros_like(total)
    for _ in range(neuron.window):
        neuron.step(potential, fired)
    assert torch.equal(neuron.step(potential, fired), torch.zeros_like(total))
    assert torch.equal(fired, neuron.count(neuron.charge(total)))


def stream_unsigned(network: SpikingNetwork, x: Tensor) -> dict[int, Tensor]:
    """All layers at once with plain unsigned IF neurons: counts of a chain of convolutions after L steps."""
    steps, potential, counts = network.window, {}, {}
    for step in range(steps):
        spikes = (x * 255).round().double() if step == 0 else torch.zeros_like(x, dtype=torch.float64)
        for i in spiking_layers(network.integer):
            layer, op = network.integer.conv(i)
            assert isinstance(op, IntConv) and op.requantiser is not None
            neuron = Neuron.of(op.requantiser, x.device)
            bias = op.bias.double().view(1, -1, 1, 1) if step == 0 else 0
            current = torch.nn.functional.conv2d(spikes, op.weight.double(), None, layer.stride, layer.pad) + bias
            start = neuron.theta / 2 if step == 0 else potential[i]
            potential[i] = start + current * neuron.gain
            spikes = (potential[i] >= neuron.theta).double()
            potential[i] -= spikes * neuron.theta
            counts[i] = counts.get(i, 0) + spikes
    return {i: count.int() for i, count in counts.items()}


def test_unsigned_neurons_that_stream_all_layers_at_once_differ():
    """The negative control: were it equal too, the equality above would prove nothing."""
    network = spiking(cfg_text(*[("convolutional", CONV)] * 4))
    x = random_images(2)
    streamed, golden = stream_unsigned(network, x), IntegerExecutor(network.integer).levels(x)
    assert torch.equal(streamed[0], golden[0]), "the first layer gets all its charge at once and must be equal"
    for i in (2, 3):
        assert (streamed[i] != golden[i]).float().mean() > 0.02


def test_crafted_ties_round_up():
    """U = (k + 1/2) theta: the membrane stands exactly on the threshold, and fires."""
    neuron = Neuron(torch.ones(1, 1, 1, 1), torch.ones(1, 1, 1, 1), theta=8.0, qmin=-8, qmax=7)
    total = torch.tensor([-12.0, -4.0, -5.0, 3.0, 4.0, 12.0, 11.0]).view(1, 1, 1, -1)
    expected = [-1.0, 0.0, -1.0, 0.0, 1.0, 2.0, 1.0]
    assert neuron.count(neuron.charge(total)).flatten().tolist() == expected
    potential, fired = neuron.charge(total), torch.zeros_like(total, dtype=torch.float64)
    for _ in range(neuron.window):
        neuron.step(potential, fired)
    assert fired.flatten().tolist() == expected


def test_latency_and_interval_are_different_things_and_both_are_said():
    network = spiking(cfg_text(*[("convolutional", CONV)] * 3, ("shortcut", {"from": -3, "activation": "linear"})))
    assert (network.window, network.depth) == (15, 4)
    assert (network.interval, network.latency) == (15, 75)
    assert "every 15 steps" in network.describe() and "takes 75 steps" in network.describe()
