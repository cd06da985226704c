"""Accumulators of a declared width: the weights give way until no input whatever can overflow them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import build
from tests.quantization.random_nets import CONV, cfg_text, random_images, random_network, rich_cfg
from utils.errors import InputError
from utils.quantization.calibrate import calibrate
from utils.quantization.exact_conv import accumulator_bounds
from utils.quantization.executor import IntegerExecutor
from utils.quantization.integer import IntConv, IntegerNetwork
from utils.quantization.lower import lower
from utils.quantization.scheme import Scheme
from utils.quantization.weights import fit_accumulator, round_half_up, round_weights, weight_scales

TEXT = cfg_text(*[("convolutional", CONV)] * 3)


def widest(network: IntegerNetwork) -> int:
    """Bits that the worst input can ask for, sign included, from the integers themselves."""
    bounds = [
        int(accumulator_bounds(op.weight, op.bias, network.reach_into(i)).max())
        for i, op in network.ops.items()
        if isinstance(op, IntConv)
    ]
    return max(bounds).bit_length() + 1


@pytest.mark.parametrize("style", ["google", "dorefa", "pow2"])
@pytest.mark.parametrize("seed", [0, 3, 4])
def test_a_network_fits_the_accumulators_it_declares_in_every_style(style, seed):
    network, x = random_network(rich_cfg(seed)), random_images(2, seed=seed)
    free = widest(lower(calibrate(network, [x], Scheme(a_bit=8, style=style))))
    held = lower(calibrate(network, [x], Scheme(a_bit=8, style=style, acc_bits=free - 2)))
    assert free - 2 >= widest(held)
    assert max(op.acc_bits for op in held.ops.values() if isinstance(op, IntConv)) == widest(held)


def test_one_bit_less_costs_little_and_a_wide_accumulator_nothing():
    network, x = random_network(TEXT), random_images()
    with torch.no_grad():
        exact = build(network)(x)[0]

    def error(acc_bits: int | None) -> float:
        made = IntegerExecutor(lower(calibrate(network, [x], Scheme(a_bit=8, acc_bits=acc_bits))))(x)[0]
        return float((made - exact).norm() / exact.norm())

    needed = widest(lower(calibrate(network, [x], Scheme(a_bit=8))))
    assert error(32) == error(None)
    assert error(needed - 1) < 3 * error(None) + 0.01
    assert error(13) > error(needed - 1)


def test_an_accumulator_too_narrow_for_any_weight_is_refused_by_name():
    wide = cfg_text(("convolutional", CONV | {"filters": 64}), ("convolutional", CONV | {"filters": 64}))
    with pytest.raises(
        InputError, match=r"layer 1 \(cfg line \d+\): accumulators of 12 bits leave weights in only \d+ of 64"
    ):
        calibrate(random_network(wide), [random_images()], Scheme(a_bit=8, acc_bits=12))


def test_a_quantised_network_that_overflows_what_it_declares_is_refused():
    """As a trained one may: its scales come from the training, not from the fit."""
    quantised = calibrate(random_network(TEXT), [random_images()], Scheme(a_bit=8))
    narrow = replace(quantised, scheme=replace(quantised.scheme, acc_bits=14))
    with pytest.raises(
        InputError, match=r"layer 0 \(cfg line 6\): its accumulator needs \d+ bits of 14; .* --acc-bits"
    ):
        lower(narrow)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 999),
    acc_bits=st.integers(14, 24),
    bits=st.sampled_from([2, 4, 8]),
    style=st.sampled_from(["google", "dorefa", "pow2"]),
)
def test_raised_scales_fit_and_scales_that_fitted_are_left_alone(seed, acc_bits, bits, style):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(5, 8, 3, 3, generator=generator) * torch.logspace(-2, 1, 5)[:, None, None, None]
    bias = torch.randn(5, generator=generator)
    start = weight_scales(weight, bias, 0.02, bits, style)
    found = fit_accumulator(weight, bias, start, s_in=0.02, reach=255, bits=bits, acc_bits=acc_bits, style=style)

    def bounds(scale: torch.Tensor) -> torch.Tensor:
        b = round_half_up(bias.double() / (0.02 * scale))
        return accumulator_bounds(round_weights(weight, scale, bits), b, 255)

    room = 2 ** (acc_bits - 1)
    assert bool((bounds(found) < room).all()) and bool((found >= start).all())
    easily = bounds(start) < room * 0.9
    if style == "google":
        assert torch.equal(found[easily], start[easily])
    else:
        assert len(found.unique()) == 1
        assert not bool(easily.all()) or torch.equal(found, start)
    if style == "pow2":
        assert bool((found.log2() % 1 == 0).all())
