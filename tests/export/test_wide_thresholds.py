"""QONNX of sums that pass 2^24: thresholds that no float32 holds still decide every sum that one holds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.export.nets import QUICK, lowered
from tests.quantization.random_nets import cfg_text, random_images
from utils.export.onnx_check import compare_quant, judge, wide_layers
from utils.export.onnx_quant import as_float32, quant_model
from utils.quantization.exact_conv import accumulator_bounds
from utils.quantization.integer import IntConv

CONV = {"filters": 8, "size": 3, "stride": 1, "pad": 1, "activation": "relu"}


@given(
    step=st.integers(-(2**31), 2**31 - 1),
    near=st.lists(st.integers(-600, 600), min_size=1, max_size=8),
)
def test_a_sum_reaches_the_float_threshold_where_it_reaches_the_integer_one(step, near):
    found = as_float32(np.array([[step]]))
    assert found.dtype == np.float32 and (abs(step) > 2**24 or int(found[0, 0]) == step)
    for off in (*near, 0, 1, -1):
        acc = np.float32(step + off)  # what a float tensor can hold there
        assert (acc >= found[0, 0]) == (int(acc) >= step)


def test_a_channel_without_gain_whose_sums_pass_a_float_is_exported_and_equal():
    """Its thresholds lie beyond anything that its sums can reach, and there no float32 is odd."""
    images, wide = random_images(1), CONV | {"filters": 64}
    network = lowered(cfg_text(("convolutional", wide), ("convolutional", CONV | {"filters": 4})), images, QUICK)
    op = network.ops[1]
    assert isinstance(op, IntConv) and op.requantiser is not None
    weight, m = op.weight.clone(), op.requantiser.multiplier.clone()
    weight[2], m[2] = 127, 0
    bound = int(accumulator_bounds(weight, op.bias * 0, network.grids[0].reach).max())
    assert bound + 1 > 2**24 and int(np.float32(bound + 1)) != bound + 1
    by = replace(op.requantiser, multiplier=m, multiplier_neg=m)
    dead = replace(op, weight=weight, acc_bits=bound.bit_length() + 2, requantiser=by)
    network = replace(network, ops=network.ops | {1: dead})
    assert wide_layers(network) == [1]
    found = compare_quant(network, images, quant_model(network, (16, 16)), (16, 16))
    judge(network, replace(found, heads=()), "qonnx", strict=True)
    assert [each.differing for each in found.chained] == [0] * len(found.chained) and len(found.chained) > 2
