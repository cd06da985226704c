"""Gains of channels that are unlike each other: none is so coarse that it moves a level."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.export.costs import constant_bytes
from utils.quantization.activation_qparams import QParams, level_bounds
from utils.quantization.gains import PRODUCT_BITS, make_requantiser
from utils.quantization.integer import IntGate, Requantiser


def grid_of(bits: int, signed: bool) -> QParams:
    return QParams(1.0, *level_bounds(bits, signed=signed))


@settings(max_examples=200, deadline=None)
@given(
    bits=st.integers(2, 8),
    signed=st.booleans(),
    acc_bits=st.integers(14, 23),  # beyond, products of 48 bits leave a spread of 2^12 less than it wants
    spread=st.integers(0, 12),
    typical=st.floats(1e-7, 1e-2),
    seed=st.integers(0, 2**31),
)
def test_no_gain_moves_a_level_by_more_than_a_32nd(bits, signed, acc_bits, spread, typical, seed):
    draw = torch.Generator().manual_seed(seed)
    ratio = typical * 2.0 ** (torch.rand(16, generator=draw, dtype=torch.float64) * spread)
    ratio[0], ratio[1] = typical, typical * 2.0**spread
    bounds = torch.randint(2 ** (acc_bits - 3), 2 ** (acc_bits - 1), (16,), generator=draw)
    grid = grid_of(bits, signed)
    by = make_requantiser(ratio, 0.1, grid, bounds)
    real = by.multiplier.double() * 2.0**-by.shift
    farthest = torch.minimum(bounds * ratio, torch.tensor(2.0**bits, dtype=torch.float64))  # levels; beyond, all clip
    heard = bounds * ratio >= 0.5
    assert bool(((real / ratio - 1).abs() * farthest <= 1 / 32)[heard].all())
    assert int((by.multiplier.long() * bounds).max()) + 2 ** max(by.shift - 1, 0) < 2**PRODUCT_BITS
    assert int(by.multiplier.max()) < 2**31


@settings(max_examples=200, deadline=None)
@given(acc_bits=st.integers(14, 31), spread=st.integers(0, 30), largest=st.floats(1e-6, 1.0))
def test_no_product_passes_48_bits_however_wide_the_accumulators(acc_bits, spread, largest):
    bounds = torch.tensor([2 ** (acc_bits - 1) - 1] * 2)
    by = make_requantiser(
        torch.tensor([largest, largest / 2**spread], dtype=torch.float64), 0.1, grid_of(8, True), bounds
    )
    assert int((by.multiplier.long() * bounds).max()) + 2 ** max(by.shift - 1, 0) < 2**PRODUCT_BITS
    assert int(by.multiplier.max()) < 2**31


def test_channels_that_are_alike_keep_gains_of_16_bits():
    ratio, bounds = torch.tensor([0.003, 0.002], dtype=torch.float64), torch.tensor([2**15, 2**15])
    by = make_requantiser(ratio, 1.0, grid_of(8, signed=False), bounds)
    assert 2**14 <= int(by.multiplier.max()) < 2**16


def test_a_channel_that_never_speaks_widens_nothing():
    bounds = torch.tensor([2**15, 2**15])
    grid = grid_of(4, signed=False)
    silent = make_requantiser(torch.tensor([0.003, 1e-30], dtype=torch.float64), 1.0, grid, bounds)
    heard = make_requantiser(torch.tensor([0.003, 3e-5], dtype=torch.float64), 1.0, grid, bounds)
    assert int(silent.multiplier.max()) < 2**16 and int(heard.multiplier.max()) >= 2**15


@pytest.mark.parametrize("wide", [False, True])
def test_wide_gains_cost_four_bytes_each(wide):
    m = torch.tensor([2**20 if wide else 2**15, 3], dtype=torch.int32)
    by = Requantiser(multiplier=m, multiplier_neg=m, shift=20, qmin=0, qmax=15)
    assert constant_bytes(IntGate(requantiser=by), 4) == (8 if wide else 4)
