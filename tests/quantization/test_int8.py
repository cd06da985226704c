"""Integers on int8 units are the integers of the definition: every threshold, every layer, every layout."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.quantization.random_nets import cfg_text, random_images, random_network, rich_cfg
from utils.darknet import spec as s
from utils.darknet.forward import move
from utils.quantization.byte_levels import ByteRequantiser, levels_of, move_bytes, stored, zero_of
from utils.quantization.calibrate import calibrate
from utils.quantization.executor import IntegerExecutor
from utils.quantization.int8 import Int8Conv, SlicedInt8Conv, has_int8_units, int8_conv
from utils.quantization.integer import IntConv, IntegerNetwork, Requantiser, requantise
from utils.quantization.lower import lower
from utils.quantization.scheme import Scheme
from utils.spiking.layerwise import LayerwiseExecutor
from utils.spiking.spike_schedule import encode

needs_units = pytest.mark.skipif(not has_int8_units(), reason="this processor's int8 convolution is not exact")
LAST = torch.channels_last


def by(gains: list[int], shift: int, slope: float, qmin: int, qmax: int) -> Requantiser:
    m = torch.tensor(gains, dtype=torch.int32)
    m_neg = torch.tensor([int(gain * slope + 0.5) for gain in gains], dtype=torch.int32)
    return Requantiser(multiplier=m, multiplier_neg=m_neg, shift=shift, qmin=qmin, qmax=qmax)


def around_thresholds(rule: Requantiser, bound: int) -> torch.Tensor:
    """[1, O, 1, P] accumulators: one below, at and one above every place where a level changes, and both ends."""
    rows = []
    for m, m_neg in zip(rule.multiplier.tolist(), rule.multiplier_neg.tolist(), strict=True):
        at = {-bound, bound, -1, 0, 1}
        for level in range(rule.qmin, rule.qmax + 2):
            gain = m if level > 0 else m_neg
            if gain:
                first = -(((1 - 2 * level) * 2**rule.shift // 2) // gain) if rule.shift > 0 else level
                at |= {first - 1, first, first + 1}
        rows.append(sorted(max(-bound, min(bound, a)) for a in at))
    longest = max(map(len, rows))
    return torch.tensor([row + [0] * (longest - len(row)) for row in rows])[None, :, None, :]


@settings(max_examples=60, deadline=None)
@given(
    shift=st.integers(-2, 30),
    gains=st.lists(
        st.one_of(st.integers(0, 2**16 - 1), st.sampled_from([2**e for e in range(16)])), min_size=1, max_size=4
    ),
    slope=st.sampled_from([1.0, 0.1, 0.125]),
    grid=st.sampled_from([(0, 255), (0, 15), (0, 6), (-128, 127), (-8, 7)]),
)
def test_bytes_change_at_the_very_accumulators_where_levels_do(shift, gains, slope, grid):
    rule, bound = by(gains, shift, slope, *grid), 2**23 - 1
    acc = around_thresholds(rule, bound).float().contiguous(memory_format=LAST)
    zero = 128 if grid[0] < 0 else 0
    made = ByteRequantiser(rule, zero, bound)(acc)
    assert torch.equal(levels_of(made, zero), requantise(acc, rule))


@needs_units
@settings(max_examples=60, deadline=None)
@given(
    shift=st.integers(-2, 24),
    exponents=st.lists(st.integers(0, 8), min_size=8, max_size=8),
    grid=st.sampled_from([(0, 255), (0, 15), (-128, 127), (-8, 7)]),
    read=st.sampled_from([0, 128]),
    groups=st.sampled_from([1, 2, 8]),
    seed=st.integers(0, 10**6),
)
def test_a_fused_convolution_is_convolution_then_requantisation(shift, exponents, grid, read, groups, seed):
    make = torch.Generator().manual_seed(seed)
    layer = s.Conv(sources=(-1,), filters=8, size=3, pad=1, groups=groups, stride=(2, 1))
    weight = torch.randint(-128, 128, (8, 8 // groups, 3, 3), generator=make).to(torch.int8)
    rule = by([2**e for e in exponents[:-1]] + [0], shift, 1.0, *grid)
    bias = torch.randint(-(2**15), 2**15, (8,), generator=make).to(torch.int32)
    op = IntConv(weight=weight, bias=bias, w_bit=8, acc_bits=32, requantiser=rule)
    zero = 128 if grid[0] < 0 else 0
    fast = int8_conv(layer, op, 255, read, zero)
    kept = torch.randint(0, 256, (2, 8, 9, 9), generator=make, dtype=torch.uint8).contiguous(memory_format=LAST)
    acc = F.conv2d(levels_of(kept, read).double(), weight.double(), bias.double(), (2, 1), 1, 1, groups)
    assert fast is not None and torch.equal(fast.accumulators(kept).double(), acc)
    if fast.fused is None:  # a zero leaves no room for so many bits behind the point
        assert zero and shift - min(exponents[:-1]) > 14
    else:
        assert torch.equal(levels_of(fast.levels(kept), zero), requantise(acc, rule))


@pytest.mark.parametrize("shift", [1, 8, 14, 15, 16, 17, 20, 22])
@pytest.mark.parametrize("slope", [1.0, 0.125])
@pytest.mark.parametrize("grid", [(0, 255), (-128, 127)])
def test_bits_far_behind_the_point_are_never_rounded_away(shift, slope, grid):
    """Gains that are powers of two take the narrow path, unless a byte and so many bits do not fit float32."""
    rule, bound, zero = by([8, 16], shift + 3, slope, *grid), 2**23 - 1, 128 if grid[0] < 0 else 0
    acc = around_thresholds(rule, bound)
    made = ByteRequantiser(rule, zero, bound)(acc.float().contiguous(memory_format=LAST))
    assert torch.equal(levels_of(made, zero), requantise(acc, rule))
    if slope != 1 or not has_int8_units():
        return
    values = acc[0, 0, 0].to(torch.int32)  # each the bias of a channel of its own, over a black pixel
    layer = s.Conv(sources=(-1,), filters=len(values), size=1)
    weight = torch.ones(len(values), 1, 1, 1, dtype=torch.int8)
    rule = by([8] * len(values), shift + 3, 1.0, *grid)
    op = IntConv(weight=weight, bias=values - 128 * (zero > 0), w_bit=8, acc_bits=32, requantiser=rule)
    black = torch.full((1, 1, 1, 1), 128 if zero else 0, dtype=torch.uint8).contiguous(memory_format=LAST)
    fast = int8_conv(layer, op, 0, 0, zero)
    if fast is not None and fast.fused is not None:
        assert torch.equal(levels_of(fast.levels(black), zero), requantise(fast.accumulators(black), rule))


@needs_units
@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    bits=st.sampled_from([(8, 8), (8, 4), (4, 3), (8, 7)]),
    style=st.sampled_from(["google", "dorefa", "pow2"]),
)
def test_a_network_on_int8_units_equals_itself_in_floating_point(seed, bits, style):
    scheme = Scheme(w_bit=bits[0], a_bit=bits[1], style=style, equalise=False, refit=False)
    network = lower(calibrate(random_network(rich_cfg(seed), seed=seed), [random_images()], scheme))
    exact, fast, x = IntegerExecutor(network, int8=False), IntegerExecutor(network), random_images(2, seed=seed)
    assert fast._fast and not all(conv is None for conv in fast._fast.values())
    wanted, found = exact.trace(x), fast.trace(x)
    for what in ("levels", "accumulators"):
        mine, theirs = getattr(found, what), getattr(wanted, what)
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[i], theirs[i]) for i in mine)
    assert all(torch.equal(a, b) for a, b in zip(fast(x), exact(x), strict=True))


@needs_units
@pytest.mark.parametrize("style", ["pow2", "google"])
def test_spikes_on_int8_units_equal_the_integers_in_floating_point(style):
    scheme = Scheme(a_bit=4, style=style, equalise=False, refit=False)
    network = lower(calibrate(random_network(3), [random_images()], scheme))
    spikes, x = LayerwiseExecutor(encode(network)), random_images(2)
    levels = IntegerExecutor(network, int8=False).levels(x)
    assert spikes._fast and all(torch.equal(n, levels[i]) for i, n in spikes.counts(x).items())


@needs_units
@pytest.mark.parametrize("width", [50, 100, 300])
@pytest.mark.parametrize("zero", [0, 128])
def test_the_largest_sums_are_exact_in_as_many_slices_as_float32_needs(width, zero):
    layer = s.Conv(sources=(-1,), filters=2, size=3, pad=1)
    weight = torch.full((2, width, 3, 3), 127, dtype=torch.int8)
    op = IntConv(weight=weight, bias=torch.tensor([-12345, 99999], dtype=torch.int32), w_bit=8, acc_bits=32)
    fast = int8_conv(layer, op, 255, zero, None)
    assert isinstance(fast, Int8Conv if width == 50 else SlicedInt8Conv)
    kept = torch.randint(200, 256, (1, width, 5, 5), dtype=torch.uint8).contiguous(memory_format=LAST)
    acc = F.conv2d(levels_of(kept, zero).double(), weight.double(), op.bias.double(), padding=1)
    assert torch.equal(fast.accumulators(kept).double(), acc)


def test_sums_of_too_many_slices_and_levels_that_are_no_bytes_stay_in_floating_point():
    layer = s.Conv(sources=(-1,), filters=2, size=3, pad=1)
    weight = torch.full((2, 700, 3, 3), 127, dtype=torch.int8)
    op = IntConv(weight=weight, bias=torch.zeros(2, dtype=torch.int32), w_bit=8, acc_bits=32)
    assert int8_conv(layer, op, 255, 0, None) is None
    narrow = IntConv(weight=weight[:, :50], bias=op.bias, w_bit=8, acc_bits=32)
    assert int8_conv(layer, narrow, 255, None, None) is None


@pytest.mark.parametrize("side", [9, 300])
@pytest.mark.parametrize(
    ("size", "stride", "pad"), [(2, 2, 0), (2, 2, 1), (2, 1, 1), (3, 2, 2), (5, 1, 4), (13, 1, 12)]
)
@pytest.mark.parametrize("zero", [0, 128])
def test_a_pool_of_bytes_is_the_pool_of_levels(size, stride, pad, side, zero):
    layer = s.MaxPool(sources=(-1,), size=size, stride=stride, pad=pad)
    kept = torch.randint(0, 256, (1, 2, side, side), dtype=torch.uint8).contiguous(memory_format=LAST)
    expected = move(layer, [levels_of(kept, zero)])
    assert torch.equal(levels_of(move_bytes(layer, [kept], [zero], zero), zero), expected)


def test_bytes_of_unlike_zeros_meet_in_a_route_as_levels():
    layer = s.Route(sources=(0, 1))
    signed, plain = torch.tensor([-5.0, 7.0]).view(1, 1, 1, 2), torch.tensor([3.0, 100.0]).view(1, 1, 1, 2)
    joined = move_bytes(layer, [stored(signed, 128), stored(plain, 0)], [128, 0], 128)
    assert torch.equal(levels_of(joined, 128), torch.cat((signed, plain), 1))
    back = move_bytes(layer, [stored(plain, 128), stored(plain, 0)], [128, 0], 0)
    assert torch.equal(levels_of(back, 0), torch.cat((plain, plain), 1))


def test_zeros_between_values_are_levels_of_zero():
    layer = s.Upsample(sources=(-1,), stride=2, zeros=True)
    level = torch.tensor([-5.0, 7.0]).view(1, 1, 1, 2)
    assert torch.equal(levels_of(move_bytes(layer, [stored(level, 128)], [128], 128), 128), move(layer, [level]))


def test_what_does_not_fit_a_byte_has_no_zero():
    network: IntegerNetwork = lower(
        calibrate(
            random_network(cfg_text(("convolutional", {"filters": 4, "size": 3, "pad": 1, "activation": "relu"}))),
            [random_images()],
            Scheme(a_bit=8, equalise=False, refit=False),
        )
    )
    grid = network.grids[0]
    assert zero_of(grid) == 0 and zero_of(None) is None
    assert zero_of(type(grid)(1.0, -128, 127)) == 128
    assert zero_of(type(grid)(1.0, 0, 256)) is None and zero_of(type(grid)(1.0, -1, 128)) is None
