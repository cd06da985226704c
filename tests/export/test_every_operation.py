"""What the integer network can hold reaches the hand-off: tables, averages, gates, reorg, weighted sums, 16 bits, shifts."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.export.hand_made import hand_made
from tests.export.nets import QUICK, chance, export, lowered, small
from tests.export.test_c99 import check as check_c
from tests.export.test_folder import reseal
from tests.export.test_numpy_executor import check_equal
from tests.export.test_rtl import check as check_rtl
from tests.quantization.random_nets import cfg_text, random_images
from utils.darknet.cfg import parse_cfg
from utils.errors import InputError
from utils.export import verify
from utils.export.layers import acc_bits
from utils.quantization.executor import IntegerExecutor
from utils.quantization.integer import IntConv, IntegerNetwork, IntGate, IntPool, IntShortcut

WIDE_LEVELS = replace(QUICK, a_bit=16)
WIDE_WEIGHTS = replace(QUICK, w_bit=16, outer_bit=16)
SHIFTS = replace(QUICK, style="pow2")
TOOLS = bool(shutil.which("cc") and shutil.which("make"))
SIMULATOR = bool(shutil.which("iverilog") and shutil.which("make"))


@pytest.mark.parametrize("seed", range(3))
def test_operations_of_wild_numbers_are_equal_in_numpy_and_in_c(seed, tmp_path):
    network, images = hand_made(seed), random_images(2, seed=seed)
    check_equal(network, images, tmp_path / "numpy")
    if TOOLS:
        check_c(tmp_path / "c", network, images)


def test_the_hand_made_levels_are_neither_all_clipped_nor_all_the_same():
    """Otherwise the test above would say little."""
    levels = IntegerExecutor(hand_made()).levels(random_images(2))
    for i, found in levels.items():
        assert len(found.unique()) > 5, f"layer {i}"


@pytest.mark.parametrize("scheme", [WIDE_LEVELS, WIDE_WEIGHTS], ids=["levels", "weights"])
@pytest.mark.parametrize("name", ["residual", "slices"])
def test_sixteen_bits_are_equal_in_numpy_and_in_c(name, scheme, tmp_path):
    network, images = small(f"tests/cfgs/{name}.cfg", scheme)
    assert max(grid.reach for grid in network.grids.values()) > 2**14 or scheme.w_bit == 16
    check_equal(network, images, tmp_path / "numpy")
    if TOOLS:
        check_c(tmp_path / "c", network, images)


@pytest.mark.skipif(not SIMULATOR, reason="needs iverilog")
@pytest.mark.parametrize("scheme", [WIDE_LEVELS, WIDE_WEIGHTS, SHIFTS], ids=["levels", "weights", "shifts"])
def test_sixteen_bits_and_shifts_are_equal_in_the_simulator(scheme, tmp_path):
    conv = {"filters": 8, "size": 3, "stride": 2, "pad": 1, "activation": "leaky"}
    images = random_images(1, seed=3)
    cfg = cfg_text(("convolutional", conv | {"filters": 4}), ("convolutional", conv))
    message = check_rtl(tmp_path, lowered(cfg, images, scheme), images)
    outputs, spikes = map(int, re.search(r"(\d+) outputs equal .*, (\d+) of them", message).groups())
    assert spikes == outputs if scheme.a_bit == 8 else 0 < spikes < outputs


@pytest.mark.skipif(not SIMULATOR, reason="needs iverilog")
def test_a_layer_whose_activation_is_a_table_is_equal_in_the_simulator(tmp_path):
    network = hand_made()
    convs = [op for i, op in network.ops.items() if isinstance(op, IntConv) and i in network.grids]
    message = check_rtl(tmp_path, network, random_images(1))
    assert message.startswith("RTL: layer 2,") and "512 of them" in message, (
        "the one without a table has a neuron to show"
    )
    ops = {i: op for i, op in network.ops.items() if i in (0, 8)}
    assert any(op.table is not None for op in convs) and len(ops) == 2
    first = cfg_text(("convolutional", {"filters": 8, "size": 3, "stride": 1, "pad": 1, "activation": "mish"}))
    alone = IntegerNetwork(
        parse_cfg(first), network.scheme, {0: ops[0], 1: ops[8]}, {i: network.grids[i] for i in (-1, 0)}
    )
    message = check_rtl(tmp_path / "alone", alone, random_images(1))
    assert message == "RTL: layer 0, 2048 outputs equal in every element, 0 of them as spikes too"


@pytest.mark.parametrize("activation", ["relu", "leaky_pow2", "linear"])
def test_with_scales_of_powers_of_two_every_layer_is_its_shift_alone(activation, tmp_path):
    """The shifts in the manifest, without m and f, give every golden level."""
    conv = {"filters": 8, "size": 3, "stride": 1, "pad": 1, "activation": activation}
    cfg = cfg_text(
        ("convolutional", conv), ("convolutional", conv), ("shortcut", {"from": -2, "activation": activation})
    )
    images = random_images(2, seed=5)
    network = lowered(cfg, images, SHIFTS)
    manifest = export(tmp_path / "net", network, images, forms=("npy",))
    trace = IntegerExecutor(network).trace(images)
    seen = 0
    for layer in manifest["layers"]:
        i, by = layer["layer"], layer.get("requantise")
        if by is None:
            continue
        assert by["shift"] is not None and by.get("shift_neg", 0) is not None
        assert ("shift_neg" in by) == (activation == "leaky_pow2")
        gains = network.ops[i].gains.flatten().tolist() if layer["kind"] == "shortcut" else []
        assert all(gain & (gain - 1) == 0 for gain in gains)
        sources = [trace.levels[j].to(torch.int64) for j in layer["inputs"]]
        acc = sum(n * gain for n, gain in zip(sources, gains, strict=True)) if gains else trace.accumulators[i]
        level = np.vectorize(shifted)(acc.numpy(), by["shift"], by.get("shift_neg", by["shift"]))
        np.testing.assert_array_equal(level.clip(by["lo"], by["hi"]), trace.levels[i].numpy())
        seen += 1
    assert seen == 3


def shifted(acc: int, shift: int, shift_neg: int) -> int:
    shift = shift_neg if acc < 0 else shift
    return (int(acc) + (1 << (shift - 1))) >> shift if shift > 0 else int(acc) << -shift


def test_a_slope_that_is_no_power_of_two_has_a_shift_above_zero_and_gains_below(tmp_path):
    conv = {"filters": 8, "size": 3, "stride": 1, "pad": 1, "activation": "leaky"}
    images = random_images(1)
    manifest = export(
        tmp_path / "net", lowered(cfg_text(("convolutional", conv)), images, SHIFTS), images, forms=("npy",)
    )
    by = manifest["layers"][0]["requantise"]
    assert by["shift"] is not None and by["shift_neg"] is None and "m_neg" in manifest["layers"][0]


def test_the_manifest_has_tables_gains_and_counts_as_the_network_has_them(tmp_path):
    network = hand_made()
    manifest = export(tmp_path / "net", network, random_images(1), forms=("npy", "bin", "coe"))
    kinds = {}
    for layer in manifest["layers"]:
        op = network.ops.get(layer["layer"])
        kinds[layer["kind"]] = type(op)
        table = getattr(op, "table", None)
        assert ("table" in layer) == (table is not None)
        for name, values in (("table", table), ("gains", getattr(op, "gains", None))):
            if values is not None:
                for form, path in layer[name]["files"].items():
                    found = verify.decode((tmp_path / "net" / path).read_bytes(), form, layer[name])
                    np.testing.assert_array_equal(found, values.flatten().numpy())
        if isinstance(op, IntPool):
            assert layer["count"] == op.count == 64
    assert kinds["avgpool"] is IntPool and kinds["gate"] is IntGate and kinds["shortcut"] is IntShortcut
    assert {"reorg", "conv", "head"} <= set(kinds)


def test_an_average_of_another_count_is_named(tmp_path):
    network = hand_made()
    manifest = export(tmp_path / "net", network, random_images(1), forms=("npy",))
    manifest = json.loads(json.dumps(manifest))
    next(layer for layer in manifest["layers"] if layer["kind"] == "avgpool")["count"] = 63
    tensors = verify.load_tensors(tmp_path / "net", manifest)
    image = np.load(tmp_path / "net/golden/0/image.npy").astype(np.int64)
    with pytest.raises(verify.MismatchError, match="layer 3 averages 64 values as 63"):
        verify.execute(manifest, tensors, image)


@pytest.mark.parametrize("name", ["table", "gains"])
def test_one_number_off_in_a_table_or_a_gain_is_named_by_recomputation(name, tmp_path):
    """Stamped right: only computing can find it."""
    network = hand_made()
    manifest = export(tmp_path / "net", network, random_images(1), forms=("npy",))
    layer = next(layer for layer in manifest["layers"] if name in layer)
    path = tmp_path / "net" / layer[name]["files"]["npy"]
    values = np.load(path)
    middle = tuple(size // 2 for size in values.shape)
    values[middle] ^= 1 if name == "table" else 2**14
    np.save(path, values)
    reseal(tmp_path / "net", lambda manifest: None)
    with pytest.raises(verify.MismatchError, match=f"_out.npy: element .* but layer {layer['layer']} gives"):
        verify.check(tmp_path / "net")


def test_accumulators_of_sums_averages_and_gates_hold_what_any_input_can_cause():
    network = hand_made()
    for i, op in network.ops.items():
        given = [network.grids[j] for j in network.spec.layers[i].sources]
        if isinstance(op, IntShortcut):
            gains = op.gains.numpy().astype(object)
            ends = [max(g * n for g in row for n in (s.qmin, s.qmax)) for row, s in zip(gains, given, strict=True)]
            largest = sum(ends)
        elif isinstance(op, IntPool):
            largest = op.count * given[0].reach
        elif isinstance(op, IntGate):
            largest = given[0].reach * given[1].reach
        else:
            continue
        assert largest < 2 ** (acc_bits(network, i) - 1) <= 4 * largest


def test_an_image_of_another_size_than_the_average_was_made_for_leaves_nothing(tmp_path):
    with pytest.raises(InputError, match=r"layer 3 .*averages a map of 16x16"):
        export(tmp_path / "net", hand_made(), random_images(1, side=32))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", range(4))
def test_a_whole_export_of_random_networks_of_shifts_verifies(seed, tmp_path):
    export(tmp_path / "net", *chance(seed, SHIFTS), forms=("npy",))
