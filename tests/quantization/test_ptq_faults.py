"""Faults that other tools have in calibrating, each by its name, shown absent."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.quantization.random_nets import CONV, cfg_text, random_images, random_network
from utils.darknet.fold import fold_bn
from utils.darknet.spec import Conv
from utils.quantization.activation_qparams import QParams
from utils.quantization.bias import correct_bias
from utils.quantization.calibrate import calibrate
from utils.quantization.executor import IntegerExecutor
from utils.quantization.histogram import float_edges
from utils.quantization.integer import IntConv
from utils.quantization.lower import lower
from utils.quantization.ranges import METHODS, power_of_two
from utils.quantization.scheme import STYLES, Scheme
from utils.quantization.weights import weight_scales

CHAIN = cfg_text(("convolutional", CONV), ("convolutional", CONV))


@pytest.mark.parametrize("w_bit", [2, 4, 8])
def test_a_bias_is_never_quantised_at_the_weights_bits(w_bit):
    """Theirs: the bias got a scale of its own and as many bits as a weight; at 4 bits that is 15 values."""
    network = random_network(CHAIN)
    plain = Scheme(w_bit=w_bit, outer_bit=w_bit, a_bit=8, equalise=False, correct_bias=False)
    quantised = calibrate(network, [random_images()], plain)
    for i, op in lower(quantised).ops.items():
        assert isinstance(op, IntConv)
        unit = quantised.grids[network.spec.layers[i].sources[0]].scale * quantised.weight_scales[i]
        off = op.bias.double() * unit - network.state[f"layers.{i}.conv.bias"].double()
        assert op.bias.dtype is torch.int32
        assert bool((off.abs() <= unit / 2 * (1 + 1e-6)).all())
        assert int(op.bias.abs().max()) > 2 ** (w_bit - 1)


@settings(max_examples=20, deadline=None)
@given(net=st.integers(0, 300), bits=st.integers(3, 8))
def test_a_power_of_two_never_clips_more_than_the_range_asked(net, bits):
    """Theirs: the nearer power of two, also when it lies below: a range of 1.49 lost its upper third."""
    network, images = random_network(net), random_images()
    calm = {"a_bit": bits, "ranges": "minmax", "equalise": False, "correct_bias": False}
    google = calibrate(network, [images], Scheme(**calm))
    edges = dict(float_edges(fold_bn(network), images, keep=True))
    pow2 = {i: grid for i, grid in google.grids.items() if i >= 0}
    for i, grid in pow2.items():
        rounded = power_of_two(grid.scale)
        assert float(edges[i].max()) <= (grid.qmax + 0.5) * rounded * (1 + 1e-5)
        assert float(edges[i].min()) >= (grid.qmin - 0.5) * rounded * (1 + 1e-5)
        assert rounded < 2 * grid.scale or rounded == grid.scale


@pytest.mark.parametrize("largest", [0.51, 1.0, 1.49, 1.51, 1.99, 2.0])
def test_in_a_network_of_powers_of_two_the_highest_level_reaches_the_largest_value(largest):
    network = random_network(cfg_text(("convolutional", CONV | {"size": 1})))
    weight, bias = network.state["layers.0.conv.weight"], network.state["layers.0.conv.bias"]
    weight.zero_()
    weight[:, 0] = largest
    bias.zero_()
    images = random_images()
    images[0, 0, 0, 0] = 1.0
    quantised = calibrate(network, [images], Scheme(style="pow2", a_bit=8, ranges="minmax"))
    grid = quantised.grids[0]
    assert grid.qmax * grid.scale >= largest * (1 - 1e-6) and math.frexp(grid.scale)[0] == 0.5
    scale = float(weight_scales(torch.full((1, 1, 1, 1), largest), torch.zeros(1), 1.0, 8, "pow2"))
    assert 127 * scale >= 0.99 * largest and math.frexp(scale)[0] == 0.5  # of weights, the least squared error


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("ranges", METHODS)
def test_a_tensor_of_zeros_makes_no_nan(style, ranges):
    """Theirs: a layer that never answers had scale 0, and 0 / 0 went through the network."""
    network, images = random_network(CHAIN), random_images()
    for key in ("weight", "bias"):
        network.state[f"layers.0.conv.{key}"].zero_()
    scheme = Scheme(style=style, ranges=ranges, a_bit=8, w_bit=4 if style == "apot" else 8)
    integer = lower(calibrate(network, [images], scheme))
    heads = IntegerExecutor(integer)(images)
    assert all(bool(head.isfinite().all()) for head in heads)
    assert all(0 < grid.scale < math.inf for grid in integer.grids.values())
    black = lower(calibrate(network, [torch.zeros_like(images)], scheme))
    assert all(bool(head.isfinite().all()) for head in IntegerExecutor(black)(torch.zeros_like(images)))


@given(st.floats(2.0**-60, 2.0**60))
def test_an_exponent_is_never_a_truncated_logarithm(scale):
    """Theirs: int(log2(scale)) is towards zero, one too low above 1, and log2 itself may round over a whole number."""
    found = Fraction(power_of_two(scale))
    assert found >= Fraction(scale) > found / 2
    assert found.numerator == 1 or found.denominator == 1
    assert (found.numerator * found.denominator).bit_count() == 1


@pytest.mark.parametrize("exponent", [-52, -29, -3, 0, 3, 29, 51])
def test_just_beside_a_power_of_two_the_exponent_is_right(exponent):
    exact = 2.0**exponent
    above = math.nextafter(exact, math.inf)
    assert power_of_two(exact) == exact and power_of_two(above) == 2 * exact
    assert power_of_two(math.nextafter(exact, 0)) == exact
    assert exponent < 29 or math.log2(above) == exponent, "a logarithm cannot tell them apart, which is the point"


def test_strong_answers_that_are_clipped_do_not_lift_the_rest():
    """A mean that counts what the grid cuts off would raise every quiet place for it."""
    layer = Conv(sources=(-1,), filters=1, activation="relu")
    before = torch.full((1, 1, 32, 32), 0.5)
    before[..., 0, :] = 9.0  # the grid ends at 1
    grid = QParams(1 / 255, 0, 255)
    kept = correct_bias(layer, torch.zeros(1), [before], [before], grid)
    assert abs(float(kept)) < 1 / 255
    raised = correct_bias(layer, torch.zeros(1), [before - 0.1], [before], grid)
    assert float(raised) == pytest.approx(0.1, abs=2 / 255)
