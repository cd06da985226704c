"""What is computed in one compiled pass, or in one call, is what several passes and plain integers compute."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from tests.quantization.test_int8 import around_thresholds, by, needs_units
from utils.darknet import spec as s
from utils.darknet.forward import move
from utils.quantization import byte_levels, compiled, int8
from utils.quantization.byte_levels import ByteRequantiser, ByteSum, levels_of, max_pool
from utils.quantization.integer import IntConv, IntShortcut, requantise, weighted_sum
from utils.spiking import layerwise
from utils.spiking.layerwise import counts_to_levels
from utils.spiking.neurons import Neuron

LAST = torch.channels_last
GRIDS = [(0, 255), (-128, 127), (0, 15), (-8, 7)]


@pytest.fixture(params=["compiled", "in torch"])
def way(request, monkeypatch):
    """Both ways of passing over bytes."""
    if request.param == "in torch":
        monkeypatch.setattr(byte_levels, "passes", lambda: None)
    elif compiled.passes() is None:
        pytest.skip("there is no C compiler here")


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("slope", [1.0, 0.125, 0.1])
@pytest.mark.parametrize("shift", [0, 9, 23])
def test_levels_change_where_the_definition_says_both_ways(way, grid, slope, shift):
    rule, zero = by([1, 37, 4096, 65535, 0], shift, slope, *grid), 128 if grid[0] < 0 else 0
    acc = around_thresholds(rule, 2**24 - 1).float().contiguous(memory_format=LAST)
    made = ByteRequantiser(rule, zero, 2**24 - 1)(acc)
    assert torch.equal(levels_of(made, zero), requantise(acc, rule))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("sources", [2, 3])
@pytest.mark.parametrize("channels", [1, 3, 40])
def test_a_sum_of_bytes_is_the_sum_of_levels_both_ways(way, grid, sources, channels):
    make = torch.Generator().manual_seed(channels)
    gains = torch.randint(-60000, 60000, (sources, channels), generator=make, dtype=torch.int32)
    rule = replace(by([32768], 31, 0.125, *grid))
    zeros = [128, 0, 128][:sources]
    kept = [torch.randint(0, 256, (2, channels, 7, 5), generator=make, dtype=torch.uint8) for _ in zeros]
    kept = [n.contiguous(memory_format=LAST) for n in kept]
    zero = 128 if grid[0] < 0 else 0
    made = ByteSum(IntShortcut(gains=gains, requantiser=rule), zeros, zero)(kept)
    acc = weighted_sum([levels_of(n, at) for n, at in zip(kept, zeros, strict=True)], gains)
    assert torch.equal(levels_of(made, zero), requantise(acc, rule))


@pytest.mark.parametrize(("size", "stride", "pad"), [(2, 2, 0), (2, 2, 1), (2, 1, 1), (3, 2, 2), (5, 1, 4)])
def test_a_pool_of_bytes_is_the_pool_of_levels_both_ways(way, size, stride, pad):
    layer = s.MaxPool(sources=(-1,), size=size, stride=stride, pad=pad)
    for side, channels in ((9, 1), (16, 20)):
        kept = torch.randint(0, 256, (2, channels, side, side + 3), dtype=torch.uint8).contiguous(memory_format=LAST)
        assert torch.equal(max_pool(layer, kept).float(), move(layer, [kept.float()]))


@needs_units
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("gains", [[1, 4], [3, 5]])
def test_sums_beyond_float32_make_the_right_levels_in_one_convolution(grid, gains):
    """Where the last level begins early enough, rounding what lies beyond it changes nothing."""
    make = torch.Generator().manual_seed(1)
    weight = torch.randint(-128, 128, (2, 512, 3, 3), generator=make).to(torch.int8)
    zero, read = (128 if grid[0] < 0 else 0), 0
    bias = torch.tensor([-70001, 90003], dtype=torch.int32)
    op = IntConv(weight=weight, bias=bias, w_bit=8, acc_bits=32, requantiser=by(gains, 14, 1.0, *grid))
    layer = s.Conv(sources=(-1,), filters=2, size=3, pad=1)
    exact, near = int8.int8_conv(layer, op, 255, read, zero), int8.int8_levels(layer, op, 255, read, zero)
    assert not isinstance(exact, int8.Int8Conv) and near is not None and (near.fused is not None) == (gains == [1, 4])
    shapes = [torch.randint(0, 256, (1, 512, 9, 9), generator=make, dtype=torch.uint8), (weight[:1] > 0).byte() * 255]
    for kept in (shapes[0], shapes[1], (weight[:1] < 0).byte() * 255):  # at random; the largest sum, and the smallest
        kept = kept.contiguous(memory_format=LAST)
        acc = F.conv2d(kept.double(), weight.double(), bias.double(), padding=1)
        made = (
            near.levels(kept) if near.fused else ByteRequantiser(op.requantiser, zero, 2**31)(near.accumulators(kept))
        )
        assert torch.equal(levels_of(made, zero), requantise(acc, op.requantiser))
    assert float(acc.abs().max()) > 2**24


def test_without_a_compiler_there_are_no_compiled_passes(monkeypatch, tmp_path, caplog):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(compiled.shutil, "which", lambda name: None)
    with caplog.at_level("INFO"):
        assert compiled.passes.__wrapped__() is None and "no C compiler" in caplog.text
    monkeypatch.setattr(compiled.shutil, "which", lambda name: "false")
    with caplog.at_level("INFO"):
        assert compiled.passes.__wrapped__() is None and "does not compile" in caplog.text
    assert not list((tmp_path / "darkspike").iterdir())


@pytest.mark.parametrize("change", ["gain", "gain_negative", "theta", "qmax"])
def test_a_neuron_that_counts_otherwise_is_found_at_a_step(monkeypatch, change):
    rule = by([40000, 512], 22, 0.125, -128, 127)
    assert counts_to_levels(rule)
    neuron = Neuron.of(rule, torch.device("cpu"))
    wrong = replace(neuron, **{change: getattr(neuron, change) + 1})
    monkeypatch.setattr(layerwise.Neuron, "of", lambda rule, device: wrong)
    assert not counts_to_levels(rule)
