"""verify.py's executor, numpy only, gives every integer of the torch executor, on every kind of network there is."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import ROOT
from tests.export.nets import LOW, QUICK, chance, rich, shipped, small
from tests.quantization import oracle
from utils.darknet.cfg import read_cfg
from utils.export import verify
from utils.export.costs import shapes
from utils.export.layers import TensorFiles, describe_grid, describe_layer
from utils.quantization.executor import IntegerExecutor
from utils.quantization.integer import IntConv, IntegerNetwork

SMALL = sorted(path.stem for path in (ROOT / "tests/cfgs").glob("*.cfg"))
SHIPPED = sorted(path.stem for path in (ROOT / "cfg").glob("*.cfg") if not read_cfg(path).neurons)


def manifest_of(network: IntegerNetwork, images: torch.Tensor, folder: Path) -> tuple[dict, dict]:
    """The layers as the manifest has them, and the tensors as the files have them."""
    shape = shapes(network, tuple(images.shape[2:]))
    target = TensorFiles(folder, ("npy",))
    layers = [describe_layer(network, i, shape, target) for i in range(len(network.spec.layers))]
    manifest = {
        "layers": layers,
        "golden": {"tensors": [], "spikes": []},
        "image": {"grid": describe_grid(network.grids[-1])},
    }
    return manifest, verify.load_tensors(folder, manifest)


def check_equal(network: IntegerNetwork, images: torch.Tensor, folder: Path) -> None:
    manifest, tensors = manifest_of(network, images, folder)
    trace = IntegerExecutor(network).trace(images)
    for k in range(len(images)):
        levels, accumulators = verify.execute(manifest, tensors, trace.levels[-1][k].numpy().astype(np.int64))
        assert set(levels) == set(trace.levels) and set(accumulators) == set(trace.accumulators)
        for i, found in levels.items():
            np.testing.assert_array_equal(found, trace.levels[i][k].numpy(), err_msg=f"level of layer {i}")
        for i, found in accumulators.items():
            np.testing.assert_array_equal(found, trace.accumulators[i][k].numpy(), err_msg=f"sum of layer {i}")


@pytest.mark.parametrize("name", SMALL)
def test_every_element_equals_the_torch_executor_on_the_test_cfgs(name, tmp_path):
    check_equal(*small(f"tests/cfgs/{name}.cfg"), tmp_path)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_element_equals_the_torch_executor_on_the_shipped_cfgs(name, tmp_path):
    check_equal(*shipped(name), tmp_path)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10**6), scheme=st.sampled_from([QUICK, LOW]), make=st.sampled_from([chance, rich]))
def test_every_element_equals_the_torch_executor_on_random_networks(seed, scheme, make, tmp_path_factory):
    check_equal(*make(seed, scheme), tmp_path_factory.mktemp("net"))


def test_the_depthwise_layers_of_a_shipped_network_are_all_there(tmp_path):
    """The reference exported plain convolutions only."""
    network, images = shipped("yolo-fastest")
    manifest, tensors = manifest_of(network, images, tmp_path)
    depthwise = [i for i, op in network.ops.items() if isinstance(op, IntConv) and network.conv(i)[0].groups > 1]
    assert len(depthwise) > 20
    for i in depthwise:
        entry = manifest["layers"][i]
        assert entry["groups"] == entry["output"][0] == entry["weights"]["shape"][0]
        np.testing.assert_array_equal(tensors[i]["weights"], network.conv(i)[1].weight.numpy())


@given(
    f=st.integers(-4, 46),
    gain=st.integers(0, 2**16 - 1),
    slope=st.sampled_from([1.0, 0.1, 0.125]),
    acc=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=20),
)
def test_requantisation_equals_exact_arithmetic_at_every_extreme(f, gain, slope, acc):
    negative = int(gain * slope + 0.5)
    own = {"m": np.array([gain]), "m_neg": np.array([negative])}
    found = verify.requantise(np.array(acc).reshape(1, 1, -1), own, {"f": f, "lo": -128, "hi": 127})
    for value, level in zip(acc, found.ravel().tolist(), strict=True):
        product = value * (negative if value < 0 else gain)
        exact = (product * 2 + 2**f) // 2 ** (f + 1) if f > 0 else product * 2**-f
        assert level == min(max(exact, -128), 127)


def test_a_convolution_of_the_largest_integers_is_exact():
    rng = np.random.default_rng(0)
    weight, n = rng.integers(-127, 128, (4, 300, 3, 3)), rng.integers(0, 256, (300, 6, 6))
    weight[0], n[:] = 127, 255
    layer = {"stride": [1, 2], "pad": 2, "dilation": 2, "groups": 1, "acc_bits": 32}
    from utils.darknet.spec import Conv

    spec = Conv(sources=(-1,), filters=4, size=3, stride=(1, 2), pad=2, dilation=2)
    bias = np.array([2**30, -(2**30), 0, 7])
    expected = oracle.convolve(spec, weight, bias, n[None])[0]
    np.testing.assert_array_equal(verify.convolve(layer, weight, bias, n), expected)
    assert expected.max() > 2**30 + 127 * 255 * 300


def test_the_verifier_imports_nothing_but_numpy_and_the_standard_library():
    names = set()
    for node in ast.walk(ast.parse(Path(verify.__file__).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    assert {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) == {"numpy"}
