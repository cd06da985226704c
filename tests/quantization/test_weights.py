from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from utils.quantization import weights
from utils.quantization.compiled import passes
from utils.quantization.packing import pack, packed_size, unpack
from utils.quantization.weights import round_half_up, round_weights, weight_scales


@given(bits=st.integers(2, 16), count=st.integers(1, 40), seed=st.integers(0, 999))
def test_packing_is_undone_by_unpacking_and_has_no_gaps(bits, count, seed):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-(2 ** (bits - 1)), 2 ** (bits - 1), (count, 3), generator=generator)
    values = values.to(torch.int8 if bits <= 8 else torch.int16)
    packed = pack(values, bits)
    assert packed.dtype is torch.uint8 and len(packed) == packed_size(values.numel(), bits)
    assert torch.equal(unpack(packed, bits, (count, 3)), values)


def test_the_first_value_lies_in_the_lowest_bits():
    assert pack(torch.tensor([1, -1]), 4).tolist() == [0xF1]


def test_rounding_is_half_up_never_half_to_even():
    halves = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    assert round_half_up(halves).tolist() == [-2, -1, 0, 1, 2, 3]


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_weight_grids_are_symmetric_and_hold_their_own_values(bits):
    weight = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(1))
    scale = weight_scales(weight, torch.zeros(6), 0.1, bits)
    levels = round_weights(weight, scale, bits)
    top = 2 ** (bits - 1) - 1
    assert int(levels.abs().max()) == top
    on_grid = (levels.double() * scale.view(-1, 1, 1, 1)).float()
    assert torch.equal(round_weights(on_grid, scale, bits), levels)


def test_low_bits_clip_the_tail_when_that_lowers_the_error():
    weight = torch.cat(
        [torch.randn(1, 999, 1, 1, generator=torch.Generator().manual_seed(0)), torch.full((1, 1, 1, 1), 9.0)], 1
    )
    scale = weight_scales(weight, torch.zeros(1), 1.0, 4)
    assert float(scale) < 9 / 7

    def error(s: torch.Tensor) -> float:
        return float((round_weights(weight, s, 4).double() * s - weight).square().sum())

    assert error(scale) < error(torch.tensor([9 / 7], dtype=torch.float64))


def test_a_channel_of_zeros_takes_a_scale_its_bias_fits():
    weight = torch.stack([torch.zeros(2, 3, 3), torch.ones(2, 3, 3)])
    scale = weight_scales(weight, torch.tensor([0.7, 0.1]), 0.01, 8)
    assert bool(scale.isfinite().all()) and bool((scale > 0).all())
    assert int(round_half_up(torch.tensor([0.7]) / (0.01 * scale[:1]))) < 2**31
    assert int(round_weights(weight, scale, 8)[0].abs().max()) == 0


def test_a_network_of_zeros_has_scales_too():
    assert weight_scales(torch.zeros(3, 2, 1, 1), torch.zeros(3), 1.0, 8).tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("style", ["dorefa", "pow2"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_a_scale_for_the_whole_layer_is_one_and_serves_it_best(style, bits):
    weight = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(1)) * torch.logspace(-2, 0, 6).view(
        -1, 1, 1, 1
    )
    found = weight_scales(weight, torch.zeros(6), 0.1, bits, style)
    assert len(set(found.tolist())) == 1
    best = float(weight_scales(weight.reshape(1, -1, 1, 1), torch.zeros(1), 0.1, bits))
    if style == "dorefa":
        assert float(found[0]) == best
    else:
        assert best <= float(found[0]) < 2 * best and math.frexp(float(found[0]))[0] == 0.5


def test_scales_of_a_channel_each_err_less_than_one_for_all():
    weight = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(1)) * torch.logspace(-2, 0, 6).view(
        -1, 1, 1, 1
    )

    def error(style: str) -> float:
        scale = weight_scales(weight, torch.zeros(6), 0.1, 8, style).view(-1, 1, 1, 1)
        return float(
            (
                (round_weights(weight, scale.flatten(), 8) * scale - weight).square().flatten(1).sum(1)
                / weight.square().flatten(1).sum(1)
            ).mean()
        )

    assert error("google") < 0.05 * error("dorefa") < error("pow2")


@pytest.mark.skipif(passes() is None, reason="there is no C compiler here")
@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 9),
    length=st.integers(1, 700),
    bits=st.integers(2, 8),
    kind=st.sampled_from(["normal", "of few levels", "one large", "zeros", "tiny", "equal"]),
    seed=st.integers(0, 10**6),
)
def test_compiled_passes_choose_the_very_scales_that_every_grid_in_double_would(rows, length, bits, kind, seed):
    make = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, length, generator=make, dtype=torch.float64)
    match kind:
        case "of few levels":  # many grids without an error, or with the same
            weight = (weight * 2).round() / 8
        case "one large":
            weight[:, 0] *= 100
        case "zeros":
            weight[0] = 0
        case "tiny":
            weight *= 1e-30
        case "equal":
            weight[:] = weight[0, 0]
    assert torch.equal(weights._best(weight, bits), weights._best_shares(weight, bits))


@pytest.mark.skipif(passes() is None, reason="there is no C compiler here")
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_grids_that_float32_cannot_tell_apart_are_told_in_double(bits):
    """Rows at both sides of where another grid becomes the best: one value is off by 1e-12."""
    make, rows = torch.Generator().manual_seed(bits), []
    for _ in range(20):
        ends = torch.randn(2, 30, generator=make, dtype=torch.float64)
        ends[1, 1:] = ends[0, 1:]  # one value goes from one end to the other
        low, high = (weights._best_shares(end[None], bits) for end in ends)
        for _ in range(40):
            middle = ends.mean(0)
            side = 0 if torch.equal(weights._best_shares(middle[None], bits), low) else 1
            ends[side] = middle
        rows += [*ends] if not torch.equal(low, high) else []
    assert len(rows) > 20
    both = torch.stack(rows)
    assert torch.equal(weights._best(both, bits), weights._best_shares(both, bits))
