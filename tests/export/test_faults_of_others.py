"""Faults that the references' exports had, each kept out by a test of its name."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.export.nets import QUICK, export, lowered, small
from tests.quantization.random_nets import CONV, cfg_text, random_images, random_network
from utils.export import verify
from utils.export.layers import shift_of
from utils.quantization.calibrate import calibrate
from utils.quantization.histogram import float_edges
from utils.quantization.integer import IntConv
from utils.quantization.lower import lower

SHIFTS = replace(QUICK, style="pow2")


@pytest.mark.parametrize("tile", [(5, 3), (64, 64), (1, 7), (7, 1)])
def test_weights_missing_from_partial_tiles(tile, tmp_path):
    """Theirs: whole tiles alone were written; a layer of 255 outputs lost the last of them, one of 3 inputs all."""
    network, images = small("tests/cfgs/depthwise.cfg")
    manifest = export(tmp_path / "net", network, images[:1], tile=tile, forms=("npy", "bin", "mem"))
    seen = 0
    for layer in (each for each in manifest["layers"] if each["kind"] == "conv"):
        ref, op = layer["weights"], network.ops[layer["layer"]]
        assert isinstance(op, IntConv)
        outputs, inputs, size, _ = ref["shape"]
        whole = np.zeros(ref["shape"], np.int64)
        for path, form in ((ref["tiled"]["files"][form], form) for form in ("bin", "mem")):
            values = verify.decode((tmp_path / "net" / path).read_bytes(), form, ref).tolist()
            assert len(values) == whole.size, "as many as the layer has"
            at = iter(values)
            for o in range(0, outputs, tile[0]):  # put together again as the README says
                for i in range(0, inputs, tile[1]):
                    rows, columns = range(o, min(o + tile[0], outputs)), range(i, min(i + tile[1], inputs))
                    for ky, kx in np.ndindex(size, size):
                        for row in rows:
                            for column in columns:
                                whole[row, column, ky, kx] = next(at)
            np.testing.assert_array_equal(whole, op.weight.numpy())
            seen += outputs % tile[0] > 0 or inputs % tile[1] > 0
    assert seen >= 4 or tile == (1, 7)


def test_log2_truncated_by_int():
    """Theirs: int(log2(scale)) rounds towards zero, so a scale under 1 gets a shift that is one too small."""
    for exponent in range(-30, 31):
        scale = 2.0**exponent * (1 + 1e-9)
        truncated = int(math.log2(scale))
        assert truncated != math.ceil(math.log2(scale)) or exponent < 0, "what they did is wrong somewhere"
    for f in range(1, 40):
        for k in range(16):
            assert shift_of(torch.tensor([2**k]), f) == f - k
            assert shift_of(torch.tensor([2**k + 1]), f) is None or k == 0


@pytest.mark.parametrize("largest", [1.01, 1.2, 1.49, 1.51, 1.9])
def test_range_that_clips_a_third(largest, tmp_path):
    """Theirs: the nearest power of two, also the lower one; a range of 1.49 ended at 1."""
    network, images = random_network(cfg_text(("convolutional", CONV))), random_images()
    edges = dict(float_edges(network, images, keep=True))
    for key in ("weight", "bias"):
        network.state[f"layers.0.conv.{key}"] *= largest / float(edges[0].max())
    manifest = export(tmp_path / "net", lower(calibrate(network, [images], SHIFTS)), images[:1], forms=("npy",))
    grid = manifest["layers"][0]["grid"]
    assert grid["hi"] * grid["scale"] >= largest * 0.999 and math.frexp(grid["scale"])[0] == 0.5
    assert grid["hi"] * grid["scale"] < 2 * largest * 1.01, "and not twice what is needed"


def test_depthwise_left_in_float(tmp_path):
    """Theirs: only plain convolutions reached the files."""
    network, images = small("tests/cfgs/depthwise.cfg")
    manifest = export(tmp_path / "net", network, images[:1], forms=("npy",))
    depthwise = [layer for layer in manifest["layers"] if layer.get("groups", 1) > 1 and layer["kind"] == "conv"]
    assert depthwise
    for layer in depthwise:
        values = np.load(tmp_path / "net" / layer["weights"]["files"]["npy"])
        assert np.issubdtype(values.dtype, np.integer) and values.any()
        assert layer["requantise"] is not None and layer["bias"]["bits"] == 32


def test_bias_quantised_at_weight_bits(tmp_path):
    images = random_images()
    low = replace(QUICK, w_bit=2, outer_bit=2)
    manifest = export(tmp_path / "net", lowered(cfg_text(("convolutional", CONV)), images, low), images[:1])
    for layer in (each for each in manifest["layers"] if each["kind"] == "conv"):
        assert (layer["weights"]["bits"], layer["bias"]["bits"]) == (2, 32)
        assert np.abs(np.load(tmp_path / "net" / layer["bias"]["files"]["npy"])).max() > 2
