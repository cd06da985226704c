from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import build
from tests.quantization import oracle
from tests.quantization.random_nets import cfg_text, random_images, random_network
from utils.darknet.spec import Conv
from utils.quantization.calibrate import calibrate
from utils.quantization.exact_conv import FLOAT32_EXACT, ExactConv, accumulator_bounds
from utils.quantization.executor import IntegerExecutor, image_levels
from utils.quantization.integer import IntConv, IntegerNetwork, Requantiser, requantise
from utils.quantization.lower import lower
from utils.quantization.scheme import Scheme

PLAIN = Scheme(a_bit=8, equalise=False, refit=False)


@cache
def integer(seed: int, scheme: Scheme = PLAIN) -> IntegerNetwork:
    return lower(calibrate(random_network(seed), [random_images()], scheme))


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), bits=st.sampled_from([(8, 8), (8, 4), (4, 3), (2, 2)]))
def test_every_level_and_accumulator_equals_plain_numpy(seed, bits):
    network = integer(seed, Scheme(w_bit=bits[0], a_bit=bits[1], equalise=False, refit=False))
    x = random_images(2, seed=seed)
    pixels = np.rint(x.numpy() * 255).astype(np.int64)
    levels, accumulators = oracle.run(network, pixels)
    trace = IntegerExecutor(network).trace(x)
    assert set(trace.levels) == set(levels) and set(trace.accumulators) == set(accumulators)
    for i, expected in levels.items():
        np.testing.assert_array_equal(trace.levels[i].numpy(), expected, err_msg=f"layer {i}")
    for i, expected in accumulators.items():
        np.testing.assert_array_equal(trace.accumulators[i].numpy(), expected, err_msg=f"layer {i}")


@pytest.mark.parametrize("seed", range(6))
def test_eight_bits_are_close_to_the_float_network(seed):
    network, x = random_network(seed), random_images()  # the calibration images: no range is a surprise
    with torch.no_grad():
        exact = build(network)(x)
    for mine, theirs in zip(IntegerExecutor(integer(seed))(x), exact, strict=True):
        assert (mine - theirs).square().mean().sqrt() < 0.03 * theirs.std()


@pytest.mark.parametrize("seed", [1, 5])
def test_an_image_comes_out_the_same_in_any_batch(seed):
    executor, x = IntegerExecutor(integer(seed)), random_images(5)
    together = executor(x)
    for n in range(5):
        for whole, single in zip(together, executor(x[n : n + 1]), strict=True):
            assert torch.equal(whole[n : n + 1], single)


def test_no_level_leaves_its_grid_and_no_accumulator_its_bits():
    for seed in range(8):
        network = integer(seed)
        trace = IntegerExecutor(network).trace(random_images(seed=3))
        for i, n in trace.levels.items():
            assert network.grids[i].qmin <= int(n.min()) and int(n.max()) <= network.grids[i].qmax
        for i, acc in trace.accumulators.items():
            _, op = network.conv(i)
            assert int(acc.abs().max()) < 2 ** (op.acc_bits - 1)


def test_every_pixel_value_is_recovered_from_the_float_image():
    n = torch.arange(256)
    assert torch.equal(image_levels((n / 255).view(1, 1, 16, 16)).flatten(), n.float())


@given(
    f=st.integers(-3, 46),
    gain=st.integers(1, 2**16 - 1),
    slope=st.sampled_from([1.0, 0.1, 0.125]),
    acc=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=20),
)
def test_requantisation_in_float64_equals_int64_at_every_extreme(f, gain, slope, acc):
    m, m_neg = torch.tensor([gain]), torch.tensor([int(gain * slope + 0.5)])
    by = Requantiser(multiplier=m, multiplier_neg=m_neg, shift=f, qmin=-128, qmax=127)
    total = torch.tensor(acc).view(1, 1, 1, -1)
    product = total * torch.where(total < 0, m_neg, m)
    expected = (product + (1 << (f - 1))) >> f if f > 0 else product << -f
    assert torch.equal(requantise(total, by).long(), expected.clamp(-128, 127))


def test_ties_go_up_on_both_sides_of_zero():
    by = Requantiser(multiplier=torch.tensor([1]), multiplier_neg=torch.tensor([1]), shift=1, qmin=-8, qmax=7)
    acc = torch.tensor([-5, -3, -1, 1, 3, 5]).view(1, 1, 1, 6)  # -2.5, -1.5, -0.5, 0.5, 1.5, 2.5
    assert requantise(acc, by).flatten().tolist() == [-2, -1, 0, 1, 2, 3]


def test_a_negative_shift_multiplies():
    by = Requantiser(multiplier=torch.tensor([1]), multiplier_neg=torch.tensor([1]), shift=-2, qmin=-128, qmax=127)
    assert requantise(torch.tensor([-3, 5]).view(1, 1, 1, 2), by).flatten().tolist() == [-12, 20]


def test_leaky_is_a_monotone_staircase():
    by = Requantiser(
        multiplier=torch.tensor([40000]), multiplier_neg=torch.tensor([4000]), shift=20, qmin=-128, qmax=127
    )
    acc = torch.arange(-30000, 30000).view(1, 1, 1, -1)
    levels = requantise(acc, by).flatten()
    assert bool((levels.diff() >= 0).all()) and int(levels.diff().max()) == 1
    assert int(levels[0]) == (-30000 * 4000 + 2**19) // 2**20


@pytest.mark.parametrize("width", [16, 100, 300, 700], ids=["float32", "two slices", "five", "float64"])
def test_the_largest_sums_are_exact(width):
    layer = Conv(sources=(-1,), filters=3, size=3, pad=1)
    weight = torch.randint(100, 128, (3, width, 3, 3), dtype=torch.int8)
    bias = torch.tensor([-12345, 1, 99999], dtype=torch.int32)
    unit = ExactConv(layer, weight, bias, 255)
    n = torch.randint(200, 256, (1, width, 4, 4))
    bound = int(accumulator_bounds(weight, bias, 255).max())
    assert unit.fits == (bound < FLOAT32_EXACT) and bool(unit.slices) == (width < 700)
    expected = oracle.convolve(layer, weight.numpy(), bias.numpy(), n.numpy())
    np.testing.assert_array_equal(unit(n.float()).numpy().astype(np.int64), expected)


def test_the_accumulator_bound_is_reached_by_the_worst_input():
    weight = torch.tensor([[[[3]], [[-2]]]], dtype=torch.int8)
    bias = torch.tensor([7], dtype=torch.int32)
    layer = Conv(sources=(-1,), filters=1)
    worst = torch.tensor([15.0, -15.0]).view(1, 2, 1, 1)
    assert int(ExactConv(layer, weight, bias, 15)(worst)) == int(accumulator_bounds(weight, bias, 15)) == 82


def test_a_dead_channel_and_a_black_image_give_no_nan():
    network = random_network(cfg_text(("convolutional", {"filters": 4, "size": 3, "pad": 1, "activation": "relu"})))
    network.state["layers.0.conv.weight"].zero_()
    network.state["layers.0.conv.bias"].zero_()
    executor = IntegerExecutor(lower(calibrate(network, [torch.zeros(1, 3, 16, 16)])))
    out = executor(random_images(1))[0]
    assert bool(out.isfinite().all())
    assert torch.allclose(out, network.state["layers.1.conv.bias"].view(1, -1, 1, 1).expand_as(out), atol=1e-3)


def test_the_bias_is_int32_not_quantised_at_the_weights_bits():
    network = integer(0)
    biases = [int(op.bias.abs().max()) for op in network.ops.values() if isinstance(op, IntConv)]
    assert max(biases) > 127 and all(
        op.bias.dtype is torch.int32 for op in network.ops.values() if isinstance(op, IntConv)
    )


def test_a_head_stays_an_accumulator_and_a_logistic_head_is_finished_in_float():
    text = cfg_text(("convolutional", {"filters": 4, "size": 3, "pad": 1, "activation": "relu"}))
    plain = random_network(text)
    bent = random_network(text.replace("activation=linear", "activation=logistic"))
    x = random_images()
    raw, squashed = (IntegerExecutor(lower(calibrate(net, [x], PLAIN)))(x)[0] for net in (plain, bent))
    assert torch.equal(raw.sigmoid(), squashed)


def test_relu6_never_passes_six_even_on_a_coarser_shared_scale():
    section = {"filters": 4, "size": 3, "pad": 1}
    network = random_network(
        cfg_text(
            ("convolutional", section | {"activation": "relu6"}),
            ("convolutional", section | {"activation": "relu"}),
            ("route", {"layers": "-1,-2"}),
        )
    )
    for name in ("weight", "bias"):
        network.state[f"layers.0.conv.{name}"] *= 30
    low = lower(calibrate(network, [random_images()], PLAIN))
    level = IntegerExecutor(low).levels(random_images(seed=5))[0]
    assert low.grids[0].scale == low.grids[1].scale == low.grids[2].scale
    assert low.grids[0].qmax < low.grids[1].qmax
    assert int(level.max()) == low.grids[0].qmax == int(6 / low.grids[0].scale + 0.5)
