"""Fine-tuning layer by layer: nearer to the levels, integers still, and the golden model stays where it was."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.export.unlike import unlike
from tests.quantization.random_nets import cfg_text, random_images, random_network
from tests.spiking.test_equality import CONV, spiking
from utils.darknet.network import Network
from utils.quantization.executor import IntegerExecutor
from utils.quantization.gains import PRODUCT_BITS
from utils.quantization.integer import IntConv
from utils.quantization.weights import weight_levels
from utils.spiking import finetune, mismatch
from utils.spiking.finetune import finetune_stream
from utils.spiking.finetune_rate import finetune_rate
from utils.spiking.mismatch import Mismatch
from utils.spiking.observe import observe
from utils.spiking.rate import RateNetwork, normalise
from utils.spiking.rate_executor import RateExecutor, rate_mismatches
from utils.spiking.spike_schedule import SpikingNetwork, encode
from utils.spiking.stream import StreamExecutor

CHAIN = cfg_text(*[("convolutional", CONV)] * 4)
LEAKY = cfg_text(*[("convolutional", CONV | {"activation": "leaky"})] * 3)
GRAPH = cfg_text(
    ("convolutional", CONV),
    ("convolutional", CONV | {"groups": 2}),
    ("shortcut", {"from": -2, "activation": "linear"}),
    ("maxpool", {"size": 2, "stride": 2}),
    ("convolutional", CONV),
    ("upsample", {"stride": 2}),
    ("route", {"layers": "-1,2"}),
    ("convolutional", CONV),
)


def off(network: SpikingNetwork, golden: SpikingNetwork, rule: str, x: Tensor, steps: int) -> dict[int, Mismatch]:
    return observe(StreamExecutor(network, rule=rule, steps=steps), x, golden=golden.integer).mismatches


def tuned(network: SpikingNetwork, rule: str, iterations: int = 8, steps: int | None = None) -> SpikingNetwork:
    executor = StreamExecutor(network, rule=rule, steps=steps or network.window)
    return finetune_stream(executor, random_images(12, seed=1), iterations=iterations)


@pytest.mark.parametrize(("rule", "steps"), [("unsigned", 7), ("st-bif", 4)])
@pytest.mark.parametrize("cfg", [CHAIN, GRAPH], ids=["chain", "graph"])
def test_later_layers_come_nearer_to_their_levels_on_images_never_seen(cfg, rule, steps):
    network, x = spiking(cfg, 3), random_images(6, seed=7)
    before, after = (off(each, network, rule, x, steps) for each in (network, tuned(network, rule, steps=steps)))
    assert before[0] == after[0], "a layer that reads pixels is not tuned"
    assert after[max(before)].mean < before[max(before)].mean
    assert mismatch.overall(after).mean < 0.99 * mismatch.overall(before).mean


@pytest.mark.parametrize("wide", [False, True])
def test_a_bias_that_wide_gains_would_carry_out_of_the_products_width_is_not_taken(wide, monkeypatch):
    integer, images = unlike()
    ops = dict(integer.ops)
    if not wide:
        narrow = ops[1].requantiser
        ops[1] = replace(
            ops[1],
            requantiser=replace(
                narrow,
                multiplier=narrow.multiplier >> 8,
                multiplier_neg=narrow.multiplier_neg >> 8,
                shift=narrow.shift - 8,
            ),
        )
    assert (ops[1].requantiser.gain_bits > 16) is wide

    def greedy(task, weight, bias, iterations):
        weight, bias = task.snap(weight.float(), torch.full(bias.shape, 2.0**30))  # 32 bits hold it
        return finetune.Found(weight, bias, task.fire(weight, bias))

    monkeypatch.setattr(finetune, "tune", greedy)
    network = encode(replace(integer, ops=ops))
    found = finetune_stream(StreamExecutor(network, steps=4), images).integer.ops[1]
    assert torch.equal(found.bias, ops[1].bias) is wide
    assert found.acc_bits + found.requantiser.gain_bits <= PRODUCT_BITS


@pytest.mark.parametrize("cfg", [CHAIN, GRAPH, LEAKY], ids=["chain", "graph", "leaky"])
def test_signed_neurons_whose_mistakes_have_no_direction_are_not_made_worse(cfg):
    network, x = spiking(cfg, 3), random_images(6, seed=7)
    before, after = (off(each, network, "signed", x, network.window) for each in (network, tuned(network, "signed")))
    assert mismatch.overall(after).mean < 1.05 * mismatch.overall(before).mean


def test_read_outs_lose_their_mean_error():
    network, x = spiking(CHAIN, 3), random_images(6, seed=7)
    golden = IntegerExecutor(network.integer)(x)[0]
    wrong = [StreamExecutor(n, rule="unsigned", steps=7)(x)[0] - golden for n in (network, tuned(network, "unsigned"))]
    assert wrong[1].mean((0, 2, 3)).abs().sum() < 0.5 * wrong[0].mean((0, 2, 3)).abs().sum()
    assert wrong[1].square().mean() < wrong[0].square().mean()


def test_what_comes_back_is_integers_on_the_same_grids_with_honest_accumulators():
    network = spiking(GRAPH, 3, 4)
    made = tuned(network, "unsigned")
    assert made.window == network.window and made.integer.grids == network.integer.grids
    moved = 0
    for i, op in network.integer.ops.items():
        new = made.integer.ops[i]
        if isinstance(op, IntConv):
            assert isinstance(new, IntConv) and new.requantiser is op.requantiser
            assert new.weight.dtype == op.weight.dtype and new.bias.dtype == op.bias.dtype == torch.int32
            assert int(new.weight.abs().max()) <= weight_levels(op.w_bit)
            bound = new.weight.long().abs().flatten(1).sum(1) * made.integer.reach_into(i) + new.bias.long().abs()
            assert new.acc_bits == int(bound.max()).bit_length() + 1
            moved += int((new.weight != op.weight).sum()) + int((new.bias != op.bias).sum())
        else:
            assert new is op
    assert moved > 0


def test_nothing_moves_where_nothing_is_wrong():
    network = spiking(CHAIN, 3)
    executor = StreamExecutor(network, steps=StreamExecutor(network).bound)
    made = finetune_stream(executor, random_images(6, seed=1))
    for i, op in network.integer.ops.items():
        new = made.integer.ops[i]
        assert isinstance(op, IntConv) and isinstance(new, IntConv)
        assert torch.equal(new.weight, op.weight) and torch.equal(new.bias, op.bias)


@pytest.mark.parametrize(("cfg", "rule"), [(GRAPH, "unsigned"), (LEAKY, "signed"), (GRAPH, "st-bif")])
def test_layer_after_layer_the_neurons_fire_what_they_fire_all_at_once(monkeypatch, cfg, rule):
    """With no iteration the walk is a simulation of its own, layer-major: its counts are the executor's."""
    network, x, counts = spiking(cfg, 3), random_images(3, seed=2), {}
    executor = StreamExecutor(network, rule=rule, steps=9)
    kept = finetune._tuned

    def spy(executor, i, given, levels, iterations):
        op, train = kept(executor, i, given, levels, iterations)
        counts[i] = finetune.summed(train, levels[i])
        return op, train

    monkeypatch.setattr(finetune, "_tuned", spy)
    finetune_stream(executor, x, iterations=0)
    state = executor.run(x)
    assert len(counts) >= 2
    for i, count in counts.items():
        assert torch.equal(count, state.count[i]), i


def test_a_run_repeats_itself():
    network = spiking(CHAIN, 3)
    a, b = (tuned(network, "unsigned", 3).integer.ops for _ in range(2))
    assert all(torch.equal(a[i].weight, b[i].weight) and torch.equal(a[i].bias, b[i].bias) for i in a)  # type: ignore[union-attr]


@pytest.mark.parametrize("reset", ["subtract", "zero"])
def test_rates_come_nearer_to_the_activations(reset):
    network, steps = random_network(GRAPH), 12
    rate = normalise(network, [random_images(6, seed=3)], timesteps=steps, reset=reset)
    made = finetune_rate(rate, network, random_images(12, seed=1))
    x = random_images(6, seed=7)

    def found(each: RateNetwork) -> dict[int, Mismatch]:
        return rate_mismatches(each, RateExecutor(each).run(x, ()), network, x, steps)

    before, after = found(rate), found(made)
    assert before[0] == after[0]
    assert mismatch.overall(after).mean < 0.95 * mismatch.overall(before).mean
    assert isinstance(made.network, Network) and set(made.network.state) == set(rate.network.state)
    assert made.scales is rate.scales and made.timesteps == steps
