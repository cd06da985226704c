"""QONNX models beside the integer network, run by qonnx."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.export.hand_made import hand_made
from tests.export.nets import LOW, QUICK, chance, lowered, small
from tests.export.test_onnx import POW2, POW2_LOW
from tests.quantization.random_nets import random_images, rich_cfg
from utils.errors import InputError
from utils.export import onnx_check, onnx_folder
from utils.export.onnx_check import affordable, compare_quant
from utils.export.onnx_folder import OnnxOptions, export_onnx
from utils.export.onnx_quant import level_kind, quant_model, thresholds, through_table
from utils.quantization.activation_qparams import QParams
from utils.quantization.integer import IntConv, Requantiser, look_up, requantise

OPTIONS = OnnxOptions(form="qonnx", name="test")


def differing(network, images):
    size = (images.shape[2], images.shape[3])
    found = compare_quant(network, images, quant_model(network, size), size)
    assert len(found.chained) > 4 and all(head.worst < 1e-6 for head in found.heads)
    return [each for each in found.chained if each.differing]


@pytest.mark.parametrize("scheme", [QUICK, LOW, POW2, POW2_LOW], ids=["google 8", "google 4", "pow2 8", "pow2 4"])
@pytest.mark.parametrize("seed", range(3))
def test_every_style_gives_the_same_integers_in_every_element(seed, scheme):
    assert differing(*chance(seed, scheme)) == []


@pytest.mark.parametrize("cfg", ["spp", "csp", "grouped", "depthwise", "passthrough", "transposed", "blurred"])
def test_every_layer_that_moves_or_groups_moves_integers_alike(cfg):
    network, images = small(f"tests/cfgs/{cfg}.cfg")
    assert differing(network, images[:1]) == []


@pytest.mark.parametrize("seed", range(4))
def test_every_section_and_activation_holds(seed):
    images = random_images(1, seed=seed)
    assert differing(lowered(rich_cfg(seed), images), images) == []


@pytest.mark.parametrize("seed", range(2))
def test_wild_gains_and_tables_hold(seed):
    assert differing(hand_made(seed), random_images(1, seed=seed)) == []


gain = st.integers(0, 2**16 - 1)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    m=st.lists(gain, min_size=2, max_size=2),
    slope=st.sampled_from([0.0, 0.1, 0.125, 1.0]),
    f=st.integers(-2, 24),
    bits=st.integers(2, 8),
    signed=st.booleans(),
    bias=st.integers(-(10**5), 10**5),
)
def test_the_thresholds_passed_are_the_requantised_level(m, slope, f, bits, signed, bias):
    qmin, qmax = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    gains = torch.tensor(m, dtype=torch.int32)
    by = Requantiser(
        multiplier=gains, multiplier_neg=(gains * slope + 0.5).floor().to(torch.int32), shift=f, qmin=qmin, qmax=qmax
    )
    bound = 10**6
    steps = thresholds(by, np.array([bias, -bias]), np.array([bound, bound]))
    assert (np.diff(steps, axis=1) >= 0).all() and steps.shape == (2, qmax - qmin)
    flat = steps.ravel().tolist()
    sums = [x for at in {-bound, bound, 0, -bias, bias, *flat} for x in (at - 1, at, at + 1) if abs(x) <= bound]
    acc = torch.tensor(sums, dtype=torch.int64)
    level = requantise(torch.stack([acc + bias, acc - bias])[None, :, :, None].double(), by)[0, :, :, 0]
    passed = (acc.numpy()[None, :, None] >= steps[:, None, :]).sum(2) + qmin
    assert np.array_equal(passed, level.numpy())


def test_a_table_that_never_falls_becomes_thresholds_and_one_that_falls_does_not():
    by = Requantiser(multiplier=torch.tensor([3, 9]), multiplier_neg=torch.tensor([3, 1]), shift=4, qmin=-8, qmax=7)
    steps = thresholds(by, np.zeros(1, np.int64), np.array([400]))
    table = torch.tensor([2, 2, 2, 3, 3, 6, 6, 7, 9, 9, 9, 9, 9, 12, 13, 13], dtype=torch.int32)
    folded = through_table(steps, table.numpy())
    assert folded is not None and folded.shape == (2, 11)
    acc = torch.arange(-400, 401)
    level = requantise(acc.expand(2, -1)[None, :, :, None].double(), by)
    right = look_up(level, table, -8)[0, :, :, 0].numpy()
    assert np.array_equal((acc.numpy()[None, :, None] >= folded[:, None, :]).sum(2) + 2, right)
    assert through_table(steps, table.flip(0).numpy()) is None


def test_the_file_on_disk_runs_and_names_its_integer_types(tmp_path):
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx

    network, images = chance(1, LOW)
    report = export_onnx(tmp_path / "out", network, images, OPTIONS)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.qonnx.onnx", "report.json", "README.md"}
    assert "MultiThreshold" in (tmp_path / "out/README.md").read_text() and report["rule"].startswith("no element")
    model = ModelWrapper(str(tmp_path / "out/model.qonnx.onnx"))
    kinds = {node.op_type for node in model.graph.node}
    assert {"Quant", "Conv", "MultiThreshold"} <= kinds and "QuantizeLinear" not in kinds
    assert model.get_tensor_datatype("image").name == "UINT8"
    assert model.get_tensor_datatype("layer000").name == level_kind(network.grids[0])
    assert model.get_tensor_datatype("layer000_weight").name == f"INT{network.conv(0)[1].w_bit}"
    assert model.check_all_tensor_shapes_specified()
    pixels = (images[:1] * 255).round().numpy()
    assert set(execute_onnx(model, {"image": pixels})) == {output.name for output in model.graph.output}


def test_a_model_that_differs_leaves_nothing_behind(tmp_path, monkeypatch):
    network, images = chance(1)
    first = network.ops[0]
    assert isinstance(first, IntConv)
    off = replace(network, ops=network.ops | {0: replace(first, bias=first.bias + 600)})
    monkeypatch.setattr(onnx_folder, "quant_model", lambda _, size: quant_model(off, size))
    with pytest.raises(InputError, match=r"layer 0 \(cfg line \d+\): \d+ of \d+ levels differ .* \(qonnx\)"):
        export_onnx(tmp_path / "out", network, images, OPTIONS)
    assert list(tmp_path.iterdir()) == []


def test_a_network_too_large_to_compare_whole_is_compared_on_a_crop(tmp_path, monkeypatch):
    network, images = chance(1)
    assert affordable(network, (416, 416)) == (416, 416)
    monkeypatch.setattr(onnx_check, "LARGEST_COMPARISON", 2**18)
    assert affordable(network, (16, 16)) == (8, 8)
    assert affordable(hand_made(), (16, 16)) == (16, 16)  # its average is made for this size
    report = export_onnx(tmp_path / "out", network, images, OPTIONS)
    assert report["compared_at"] == [8, 8] and report["image"] == [3, 16, 16]


def test_levels_take_the_smallest_type():
    kinds = {(0, 15): "UINT4", (0, 200): "UINT8", (-8, 7): "INT4", (-128, 127): "INT8", (-128, 255): "INT9"}
    assert {bounds: level_kind(QParams(1.0, *bounds)) for bounds in kinds} == kinds


def test_a_sum_beyond_the_float_tensors_is_refused():
    network = hand_made()
    network = replace(network, grids=network.grids | {6: QParams(0.5, -(2**15), 2**15 - 1)})
    with pytest.raises(InputError, match=r"layer 7 \(cfg line \d+\): its sum needs more than the 24 bits"):
        quant_model(network, (16, 16))
