"""Convolutions by conv.c are the definition: sums by float64, levels by its requantisation, whatever lies where."""

from __future__ import annotations

import copy
import ctypes
import shutil
import subprocess

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from tests.quantization.random_nets import random_images, random_network, rich_cfg
from tests.quantization.test_int8 import around_thresholds, by
from utils.darknet import spec as s
from utils.quantization import byte_conv as module
from utils.quantization import compiled, executor
from utils.quantization.byte_conv import ByteConv, byte_conv
from utils.quantization.byte_levels import levels_of
from utils.quantization.calibrate import calibrate
from utils.quantization.executor import IntegerExecutor
from utils.quantization.int8 import has_int8_units
from utils.quantization.integer import IntConv, Requantiser, requantise
from utils.quantization.lower import lower
from utils.quantization.scheme import Scheme

MADE = compiled.passes()
needs_vectors = pytest.mark.skipif(
    MADE is None or not MADE.multiplies_bytes, reason="no C compiler, or no vectors that multiply bytes"
)
LAST = torch.channels_last
GRIDS = [(0, 255), (-128, 127), (0, 15), (-8, 7)]


def zero_of(grid: tuple[int, int]) -> int:
    return 128 if grid[0] < 0 else 0


def some_bytes(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    make = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=make, dtype=torch.uint8).contiguous(memory_format=LAST)


@needs_vectors
@settings(max_examples=80, deadline=None)
@given(
    images=st.integers(1, 2),
    channels=st.integers(1, 37),
    filters=st.integers(1, 70),
    size=st.sampled_from([1, 2, 3, 5]),
    stride=st.sampled_from([(1, 1), (2, 2), (2, 1), (3, 2)]),
    dilation=st.integers(1, 2),
    depthwise=st.booleans(),
    read=st.sampled_from([0, 128]),
    grid=st.sampled_from(GRIDS),
    slope=st.sampled_from([1.0, 0.1, 0.125]),
    threads=st.integers(1, 2),
    seed=st.integers(0, 10**6),
)
def test_whatever_its_geometry_it_is_convolution_then_requantisation(
    images, channels, filters, size, stride, dilation, depthwise, read, grid, slope, threads, seed
):
    make = torch.Generator().manual_seed(seed)
    groups = channels if depthwise else 1
    filters = channels if depthwise else filters
    layer = s.Conv(
        sources=(-1,), filters=filters, size=size, pad=seed % 3, groups=groups, stride=stride, dilation=dilation
    )
    weight = torch.randint(-128, 128, (filters, channels // groups, size, size), generator=make).to(torch.int8)
    gains = torch.randint(0, 2**16, (filters,), generator=make).tolist()
    bias = torch.randint(-(2**15), 2**15, (filters,), generator=make).to(torch.int32)
    op = IntConv(weight=weight, bias=bias, w_bit=8, acc_bits=32, requantiser=by(gains, 28, slope, *grid))
    kept = some_bytes((images, channels, 13, 11), seed)
    acc = F.conv2d(levels_of(kept, read).double(), weight.double(), bias.double(), stride, layer.pad, dilation, groups)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        made = byte_conv(layer, op, 255, read, zero_of(grid))
        assert made is not None
        assert torch.equal(levels_of(made(kept), zero_of(grid)), requantise(acc, op.requantiser))
    finally:
        torch.set_num_threads(before)


@needs_vectors
@settings(max_examples=60, deadline=None)
@given(
    shift=st.integers(0, 44),
    gain=st.one_of(st.integers(0, 2**16 - 1), st.sampled_from([2**e for e in range(16)])),
    slope=st.sampled_from([1.0, 0.1, 0.125]),
    grid=st.sampled_from(GRIDS),
)
def test_levels_change_at_the_very_sums_where_the_definition_says(shift, gain, slope, grid):
    """Each sum is the bias of a filter of its own, over a black pixel; the largest ones are beyond float32."""
    values = around_thresholds(by([gain], shift, slope, *grid), 2**30)[0, 0, 0].to(torch.int32)
    rule = by([gain] * len(values), shift, slope, *grid)
    layer = s.Conv(sources=(-1,), filters=len(values), size=1)
    weight = torch.zeros(len(values), 1, 1, 1, dtype=torch.int8)
    op = IntConv(weight=weight, bias=values, w_bit=8, acc_bits=32, requantiser=rule)
    made = byte_conv(layer, op, 255, 0, zero_of(grid))
    black = torch.zeros(1, 1, 1, 1, dtype=torch.uint8)
    assert made is not None
    assert torch.equal(levels_of(made(black), zero_of(grid)), requantise(values.view(1, -1, 1, 1), rule))


@needs_vectors
@pytest.mark.parametrize("grid", [(0, 255), (-128, 127)])
@pytest.mark.parametrize("bits", [25, 28])
def test_gains_that_float32_rounds_make_the_same_levels(grid, bits):
    """Of 200 gains every sum at a step: float32 alone, even with each whole number made in doubles, is wrong here."""
    make, wrong = torch.Generator().manual_seed(bits), 0
    for gain in torch.randint(2 ** (bits - 1), 2**bits, (200,), generator=make).tolist():
        rule = by([gain], bits + 10, 1.0, *grid)  # about a thousandth of a level a unit
        values = around_thresholds(rule, 2 ** (47 - bits))[0, 0, 0].to(torch.int32)
        rule = by([gain] * len(values), bits + 10, 1.0, *grid)
        weight = torch.zeros(len(values), 1, 1, 1, dtype=torch.int8)
        op = IntConv(weight=weight, bias=values, w_bit=8, acc_bits=32, requantiser=rule)
        made = byte_conv(s.Conv(sources=(-1,), filters=len(values), size=1), op, 255, 0, zero_of(grid))
        assert made is not None
        found = levels_of(made(torch.zeros(1, 1, 1, 1, dtype=torch.uint8)), zero_of(grid))
        wanted = requantise(values.view(1, -1, 1, 1), rule)
        assert torch.equal(found, wanted)
        single = values.float() * torch.tensor(gain * 2.0 ** -(bits + 10)) + zero_of(grid) + 0.5
        unsure = single == single.round()
        wrong += int(((single.floor() - zero_of(grid)).clamp(*grid) != wanted.flatten())[~unsure].sum())
    assert wrong, "a test of what float32 gets right anyway"


@needs_vectors
@pytest.mark.parametrize("read", [0, 128])
def test_sums_that_float32_cannot_hold_need_no_slices(read):
    layer = s.Conv(sources=(-1,), filters=20, size=3, pad=1)
    make = torch.Generator().manual_seed(0)
    weight = torch.randint(100, 128, (20, 512, 3, 3), generator=make).to(torch.int8)
    rule = by(list(range(1, 21)), 24, 1.0, 0, 255)
    op = IntConv(weight=weight, bias=torch.full((20,), -7, dtype=torch.int32), w_bit=8, acc_bits=32, requantiser=rule)
    kept = some_bytes((1, 512, 5, 5), 3)
    acc = F.conv2d(levels_of(kept, read).double(), weight.double(), op.bias.double(), padding=1)
    made = byte_conv(layer, op, 255, read, 0)
    assert float(acc.abs().max()) > 2**24 or read
    assert made is not None and torch.equal(made(kept).float(), requantise(acc, rule))


@needs_vectors
@pytest.mark.parametrize("depthwise", [False, True])
def test_a_read_out_is_its_sums(depthwise):
    layer = s.Conv(sources=(-1,), filters=21, size=3, pad=1, groups=21 if depthwise else 1)
    make = torch.Generator().manual_seed(1)
    weight = torch.randint(-128, 128, (21, 1 if depthwise else 21, 3, 3), generator=make).to(torch.int8)
    op = IntConv(weight=weight, bias=torch.arange(21, dtype=torch.int32), w_bit=8, acc_bits=32)
    kept = some_bytes((2, 21, 6, 7), 1)
    acc = F.conv2d(levels_of(kept, 128).double(), weight.double(), op.bias.double(), padding=1, groups=layer.groups)
    made = byte_conv(layer, op, 255, 128, None)
    assert made is not None and torch.equal(made(kept).double(), acc)
    assert copy.deepcopy(made) is made


@needs_vectors
def test_what_conv_c_is_not_exact_for_is_left_to_others():
    layer, weight = s.Conv(sources=(-1,), filters=4, size=1), torch.ones(4, 4, 1, 1, dtype=torch.int8)
    rule, bias = by([3] * 4, 8, 1.0, 0, 255), torch.zeros(4, dtype=torch.int32)

    def asked(
        layer: s.Conv, rule: Requantiser | None, zero: int | None = 0, out: int | None = 0, most: int = 0
    ) -> object:
        wide = bias + most
        op = IntConv(weight=weight[:, : 4 // layer.groups], bias=wide, w_bit=8, acc_bits=32, requantiser=rule)
        return byte_conv(layer, op, 255, zero, out)

    assert isinstance(asked(layer, rule), ByteConv)
    assert asked(layer, rule, zero=None) is None  # it reads no bytes
    assert asked(layer, rule, out=None) is None  # it makes none
    assert asked(layer, None, most=2**24) is None  # sums that float32 does not hold
    assert asked(layer, by([3] * 4, 45, 1.0, 0, 255)) is None  # bits that float64 does not hold
    assert asked(s.Conv(sources=(-1,), filters=4, size=1, groups=2), rule) is None
    assert asked(s.Conv(sources=(-1,), filters=4, size=9), rule) is None


@needs_vectors
@pytest.mark.parametrize("style", ["google", "pow2"])
@pytest.mark.parametrize("how", ["all by conv.c", "none by conv.c", "by their size"])
def test_a_network_is_the_same_integers_whoever_computes_its_layers(how, style, monkeypatch):
    if how == "none by conv.c":
        monkeypatch.setattr(executor, "byte_conv", lambda *layer: None)
    elif how == "all by conv.c":
        monkeypatch.setattr(module.ByteConv, "is_sooner", lambda *given: True)
    elif not has_int8_units():
        pytest.skip("oneDNN has no exact convolution here")
    scheme = Scheme(style=style, equalise=False, refit=False)
    network = lower(calibrate(random_network(rich_cfg(5), seed=5), [random_images()], scheme))
    exact, fast, x = IntegerExecutor(network, int8=False), IntegerExecutor(network), random_images(2, seed=5)
    wanted, found = exact.levels(x), fast.levels(x)
    assert wanted.keys() == found.keys() and all(torch.equal(wanted[i], found[i]) for i in wanted)
    assert all(torch.equal(a, b) for a, b in zip(fast(x), exact(x), strict=True))


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler here")
def test_a_processor_without_such_vectors_is_told_so(tmp_path):
    library = tmp_path / "passes.so"
    flags = [flag for flag in compiled.FLAGS if flag != "-march=native"]
    subprocess.run(["cc", *flags, *map(str, compiled.SOURCES), "-o", str(library)], check=True)
    assert not compiled.Passes(ctypes.CDLL(str(library))).multiplies_bytes
