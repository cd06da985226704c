"""Scales that are powers of two: what is left of requantising is a shift."""

from __future__ import annotations

import pytest
import torch

from tests.quantization.random_nets import random_images, random_network
from utils.errors import InputError
from utils.quantization.calibrate import calibrate
from utils.quantization.executor import IntegerExecutor
from utils.quantization.integer import IntConv
from utils.quantization.lower import lower
from utils.quantization.ranges import power_of_two
from utils.quantization.scheme import Scheme


@pytest.mark.parametrize("exponent", range(-40, 12))
def test_a_power_of_two_stays_itself_and_the_next_above_is_taken_for_anything_else(exponent):
    exact = 2.0**exponent
    assert power_of_two(exact) == exact
    assert power_of_two(exact * (1 + 2**-40)) == 2 * exact
    assert power_of_two(exact * (2 - 2**-40)) == 2 * exact


@pytest.mark.parametrize("seed", range(12))
def test_every_gain_of_a_network_of_powers_of_two_is_a_shift(seed):
    images = random_images(2, seed=seed)
    try:
        integer = lower(calibrate(random_network(seed), [images], Scheme(style="pow2", a_bit=8)))
    except InputError as error:
        assert "joins the image" in str(error)
        return
    for i, op in integer.ops.items():
        if isinstance(op, IntConv):
            assert op.requantiser is None or (op.requantiser.multiplier == op.requantiser.multiplier[0]).all(), i
            assert op.scale is None or all(power_of_two(float(value)) == value for value in op.scale), i
        if op.requantiser is not None:
            gain = int(op.requantiser.multiplier[0])
            assert gain & (gain - 1) == 0, i
    for grid in integer.grids.values():
        assert power_of_two(grid.scale) == grid.scale
    assert IntegerExecutor(integer)(images)


def test_powers_of_two_change_the_function_little():
    found = []
    for style in ("google", "pow2"):
        network, images = random_network(3), random_images(2, seed=3)
        integer = lower(calibrate(network, [images], Scheme(style=style, a_bit=8)))
        found.append(torch.cat([head.flatten() for head in IntegerExecutor(integer)(images)]))
    assert not torch.equal(*found)
    assert float((found[0] - found[1]).norm() / found[0].norm()) < 0.1


def test_a_layers_own_bits_are_what_its_grid_and_weights_get():
    network, images = random_network(3), random_images(2, seed=3)
    plain = lower(calibrate(network, [images], Scheme(w_bit=8, a_bit=4)))
    conv = next(i for i, op in plain.ops.items() if isinstance(op, IntConv) and op.requantiser is not None and i)
    own = lower(calibrate(network, [images], Scheme(w_bit=8, a_bit=4, layer_bits=((conv, 3, 6),))))
    _, op = own.conv(conv)
    assert op.w_bit == 3 and int(op.weight.abs().max()) <= 3
    assert own.grids[conv].qmax - own.grids[conv].qmin == 63
    assert all(own.conv(i)[1].w_bit == 8 for i, o in own.ops.items() if isinstance(o, IntConv) and i != conv)
