"""The SystemVerilog layer, simulated: levels and spikes of every output."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.export.nets import LOW, lowered, small
from tests.quantization.random_nets import cfg_text, random_images
from utils.errors import InputError
from utils.export import verify
from utils.export.costs import shapes
from utils.export.formats import FORMS, encode, encode_bits, word_of
from utils.export.golden import write_golden
from utils.export.layers import TensorFiles, describe_grid, describe_layer
from utils.export.rtl import replay, write_rtl
from utils.export.spikes import describe_spikes
from utils.quantization.integer import IntegerNetwork
from utils.spiking.spike_schedule import encode as spiking_of

pytestmark = pytest.mark.skipif(not (shutil.which("iverilog") and shutil.which("make")), reason="needs iverilog")


def write(folder: Path, network: IntegerNetwork, images, *, spikes: bool = False) -> tuple[dict, int]:
    spiking = spiking_of(network) if spikes else None
    shape, target = shapes(network, tuple(images.shape[2:])), TensorFiles(folder, FORMS)
    manifest = {
        "name": "test",
        "layers": [describe_layer(network, i, shape, target) for i in range(len(network.spec.layers))],
        "image": {"shape": list(shape[-1]), "grid": describe_grid(network.grids[-1])},
        "spiking": None if spiking is None else describe_spikes(spiking),
        "golden": write_golden(folder, network, images[:1], ["npy", "mem"], spiking),
    }
    clocks = write_rtl(folder / "rtl", manifest)
    assert clocks is not None
    return manifest, clocks


def check(folder: Path, network: IntegerNetwork, images) -> str:
    _, clocks = write(folder, network, images)
    message = replay(folder / "rtl", clocks)
    assert re.fullmatch(r"RTL: layer \d+, \d+ outputs equal in every element, \d+ of them as spikes too", message)
    return message


@pytest.mark.parametrize("name", ["grey", "grouped", "plain", "tiny"])
def test_a_layer_of_the_test_cfgs_is_equal_in_the_simulator(name, tmp_path):
    message = check(tmp_path, *small(f"tests/cfgs/{name}.cfg", LOW))
    assert re.search(r", (\d+) outputs equal in every element, \1 of them as spikes", message)


@pytest.mark.parametrize("activation", ["relu", "leaky", "linear", "relu6"])
@pytest.mark.parametrize("groups", [1, 8], ids=["dense", "depthwise"])
def test_every_activation_is_equal_in_the_simulator(activation, groups, tmp_path):
    first = {"filters": 8, "size": 3, "stride": 2, "pad": 1, "activation": "leaky"}
    second = first | {"groups": groups, "activation": activation}
    images = random_images(1, seed=3)
    check(tmp_path, lowered(cfg_text(("convolutional", first), ("convolutional", second)), images), images)


def test_a_transposed_convolution_is_equal_in_the_simulator(tmp_path):
    upward = {"filters": 8, "size": 4, "stride": 2, "padding": 1, "groups": 1, "activation": "leaky"}
    images = random_images(1, side=8, seed=3)
    message = check(tmp_path, lowered(cfg_text(("transposed_convolutional", upward), side=8), images), images)
    assert message.startswith("RTL: layer 1, 2048 outputs")


def test_a_wrong_golden_output_is_named(tmp_path):
    network, images = small("tests/cfgs/plain.cfg", LOW)
    _, clocks = write(tmp_path, network, images)
    i = int(re.search(r"LAYER = (\d+);", (tmp_path / "rtl/layer.svh").read_text())[1])
    levels = np.load(tmp_path / f"golden/0/{i:03d}_out.npy").astype(int)
    levels.flat[5] ^= 1
    grid = network.grids[i]
    (tmp_path / f"golden/0/{i:03d}_out.mem").write_bytes(encode(levels, word_of(grid.qmin, grid.qmax), "mem"))
    with pytest.raises(
        InputError, match=rf"{i:03d}_out\.mem: element 5 is {levels.flat[5]}, but the layer gives level"
    ):
        replay(tmp_path / "rtl", clocks)


@pytest.mark.parametrize("step", [0, 7])
def test_a_step_in_which_the_neuron_fires_otherwise_than_the_golden_train_is_named(step, tmp_path):
    network, images = small("tests/cfgs/plain.cfg", LOW)
    manifest, clocks = write(tmp_path, network, images, spikes=True)
    assert replay(tmp_path / "rtl", clocks).startswith("RTL: layer")
    i = re.search(r"LAYER = (\d+);", (tmp_path / "rtl/layer.svh").read_text())[1]
    ref = manifest["golden"]["spikes"][0][i]["train"]
    bits = verify.load(tmp_path, ref).copy()
    bits[step, 0, 0, 5] ^= 1
    (tmp_path / ref["files"]["mem"]).write_bytes(encode_bits(bits, "mem"))
    with pytest.raises(InputError, match=rf"_spikes\.mem: element 5 of step {step} is not what the neuron fires"):
        replay(tmp_path / "rtl", clocks)


def test_a_missing_golden_file_is_no_equality(tmp_path):
    network, images = small("tests/cfgs/plain.cfg", LOW)
    _, clocks = write(tmp_path, network, images)
    for path in (tmp_path / "golden/0").glob("*.mem"):
        path.unlink()
    with pytest.raises(InputError, match="make check failed"):
        replay(tmp_path / "rtl", clocks)


@pytest.mark.skipif(not shutil.which("verilator"), reason="needs verilator")
@pytest.mark.parametrize("name", ["plain", "grouped"])
def test_verilator_reads_the_layer_and_its_testbench_without_a_warning(name, tmp_path):
    write(tmp_path, *small(f"tests/cfgs/{name}.cfg"))
    done = subprocess.run(["make", "-s", "-C", tmp_path / "rtl", "lint"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
