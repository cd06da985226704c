"""Networks of spikes for hardware, handed off: golden spikes are the network's own, and NumPy and C compute them all."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import export
from models import Darknet, network_of
from tests.scenes import undrawn_runs, write_scenes
from tests.temporal.nets import HIDDEN, images, spiking, warmed
from utils.darknet.cfg import parse_cfg
from utils.darknet.network import Checkpoint, save_checkpoint
from utils.errors import InputError
from utils.export import verify
from utils.export.c99 import compile_and_check
from utils.export.lif_package import export_lif
from utils.export.lif_step import one_step
from utils.export.package import HandOffOptions
from utils.spiking.lif_integers import lower_lif
from utils.temporal.hardware import for_hardware

FOUR = HIDDEN.replace("timesteps=3", "timesteps=4")
STEPS = 4
SUM = FOUR.replace(
    "[convolutional]\nfilters=8\nsize=1\nactivation=linear",
    "[convolutional]\nbatch_normalize=1\nfilters=8\nsize=3\npad=1\nactivation=lif\n[shortcut]\nfrom=-2\nactivation=linear\n"
    "[upsample]\nstride=2\n[convolutional]\nfilters=8\nsize=1\nactivation=linear",
)
NETS = {
    "hard": FOUR.format("lif"),
    "soft 7/8": FOUR.replace("timesteps=4", "timesteps=4\nreset=soft\nmembrane_decay=0.875").format("lif\nv_th=0.25"),
    "frames, soft 1/2": FOUR.replace("timesteps=4", "timesteps=4\ninput=frames\nreset=soft\nmembrane_decay=0.5").format(
        "lif"
    ),
    "sums of spikes": SUM.format("lif"),
    "two heads": "csp",
    "pools": "spp",
    "classes": FOUR.format("lif").split("[yolo]")[0].replace("size=1", "size=8") + "[softmax]\n",
}
needs_cc = pytest.mark.skipif(not (shutil.which("cc") and shutil.which("make")), reason="needs cc and make")


def made(name: str) -> tuple[Darknet, torch.Tensor]:
    """The network, and two images for it: n / 255, or frames."""
    text = NETS[name]
    model = warmed(for_hardware(parse_cfg(text) if "\n" in text else spiking(text, "lif")))
    x = images(model.spec, 2, frames=STEPS if model.spec.input_frames else 0)
    return model, (x * 255).round() / 255


def handed_off(folder: Path, name: str) -> tuple[Darknet, torch.Tensor, Path]:
    model, x = made(name)
    export_lif(folder / "out", lower_lif(model), x, HandOffOptions(name="net", forms=("npy",)))
    return model, x, folder / "out"


@needs_cc
@pytest.mark.parametrize("name", NETS)
def test_golden_spikes_are_the_networks_own_and_every_form_computes_them(name, tmp_path, caplog):
    caplog.set_level("INFO")
    model, x, folder = handed_off(tmp_path, name)
    said = f"layers x 2 images equal in every element of each of {STEPS} steps"
    assert said in verify.check(folder) and caplog.text.count(said) == 2, (
        "by NumPy and by C, before the folder is there"
    )
    heads = model(x)
    manifest = json.loads((folder / "manifest.json").read_text())
    for k in (0, 1):
        out = model.activations(x[k : k + 1])
        for i in model.spec.neurons:
            spikes = np.load(folder / f"golden/{k}/{i:03d}_out.npy")
            assert np.array_equal(spikes, out[i].detach().numpy()) and 0 < spikes.mean() < 1
        for head, found in zip(model.spec.heads, heads, strict=True):
            i = model.spec.layers[head].sources[0]
            scale = np.array(manifest["layers"][i]["read_out"]["scale"])[:, None, None]
            total = np.load(folder / f"golden/{k}/{i:03d}_acc.npy")
            assert np.array_equal((total * scale).astype(np.float32).ravel(), found[k].detach().numpy().ravel())


@needs_cc
def test_nothing_overflows_in_c(tmp_path):
    """The sanitizers would stop at the first undefined operation, and at what is outside of the arena."""
    _, _, folder = handed_off(tmp_path, "frames, soft 1/2")
    flags = "CFLAGS=-O1 -g -fsanitize=undefined,address -fno-sanitize-recover"
    done = subprocess.run(["make", "-s", "-C", folder / "c", "check", flags], capture_output=True, text=True)
    if "cannot find -l" in done.stderr:
        pytest.skip("no sanitizers here")
    assert done.returncode == 0 and "of each of 4 steps" in done.stdout, done.stderr


@needs_cc
def test_one_spike_too_many_is_named_with_its_step(tmp_path):
    _, _, folder = handed_off(tmp_path, "soft 7/8")
    path = folder / "golden/1/002_out.npy"
    spikes = np.load(path)
    spikes[2, 3, 4, 5] ^= 1
    np.save(path, spikes)
    at = int(np.ravel_multi_index((2, 3, 4, 5), spikes.shape))
    with pytest.raises(InputError, match=rf"1/002_out\.npy: element {at} is \d, but layer 2 gives \d"):
        compile_and_check(folder / "c")
    with pytest.raises(verify.MismatchError, match=r"golden/1/002_out\.npy: element \[2, 3, 4, 5\] is \d, was \d"):
        verify.check(folder)


@pytest.mark.parametrize(
    ("key", "value"), [("shift", 1), ("keeps_most", False), ("reset", "hard")], ids=["shift", "leak", "reset"]
)
def test_each_number_of_a_neuron_counts(key, value, tmp_path):
    _, _, folder = handed_off(tmp_path, "soft 7/8")
    manifest = json.loads((folder / "manifest.json").read_text())
    tensors = verify.load_tensors(folder, manifest)
    golden = {i: np.load(folder / f"golden/0/{i:03d}_out.npy") for i in (0, 2)}
    image = np.load(folder / "golden/0/image.npy").astype(np.int64)
    right, _ = verify.execute(manifest, tensors, image)
    assert all(np.array_equal(right[i], golden[i]) for i in golden)
    manifest["layers"][0]["lif"][key] = value
    other, _ = verify.execute(manifest, tensors, image)
    assert np.array_equal(other[0][0], golden[0][0]), "in the first step there is nothing to leak or to keep"
    assert not np.array_equal(other[0], golden[0])


def test_thresholds_are_strict_and_shifts_floor():
    """By hand: 8 is not above 2^3; -5 >> 1 is -3, and -5 - (-5 >> 2) is -3."""
    acc = np.array([8, 9, -5]).reshape(3, 1, 1)
    for by, left in (({"shift": 1, "keeps_most": False}, [4, 0, -3]), ({"shift": 2, "keeps_most": True}, [6, 0, -3])):
        membranes: dict[int, np.ndarray] = {}
        spikes = verify.fire(acc, np.array([3, 3, 3]), by | {"reset": "hard"}, membranes, 0)
        assert spikes.ravel().tolist() == [0, 1, 0] and membranes[0].ravel().tolist() == [8, 0, -5]
        verify.fire(0 * acc, np.array([9, 9, 9]), by | {"reset": "hard"}, membranes, 0)
        assert membranes[0].ravel().tolist() == left
    membranes = {}
    verify.fire(acc, np.array([3, 3, 3]), {"shift": 1, "keeps_most": False, "reset": "soft"}, membranes, 0)
    assert membranes[0].ravel().tolist() == [8, 1, -5]


def test_an_output_that_reads_spikes_is_refused():
    text = FOUR.format("lif").replace("[convolutional]\nfilters=8\nsize=1\nactivation=linear\n", "")
    network = lower_lif(warmed(for_hardware(parse_cfg(text))))
    with pytest.raises(InputError, match=r"layer 3 \(cfg line \d+\): reads layer 2, which is no linear convolution"):
        one_step(network)


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Images, and a network of spikes for hardware."""
    monkeypatch.chdir(tmp_path)
    undrawn_runs(monkeypatch)
    write_scenes(tmp_path, train=2, valid=3, shape=(64, 64))
    text = FOUR.format("lif").replace("classes=3", "classes=2").replace("filters=8\nsize=1", "filters=7\nsize=1")
    save_checkpoint("spikes.pt", Checkpoint(network_of(warmed(for_hardware(parse_cfg(text))))))
    return tmp_path


def run(*words: str):
    more = ["--weights", "spikes.pt", "--data", "set.data", "--device", "cpu", "--workers", "0"]
    return export.run(export.parser().parse_args([*words, *more]))


@needs_cc
def test_the_script_leaves_a_folder_whose_make_test_passes_boxes_included(place):
    metrics = run("c", "--golden", "2").metrics
    assert metrics["steps"] == STEPS and metrics["macs"] == STEPS * 72_704
    done = subprocess.run(["make", "-s", "test"], cwd=place / "export/spikes/c", capture_output=True, text=True)
    assert done.returncode == 0 and "4 layers x 2 images equal in every element of each of 4 steps" in done.stdout
    assert "boxes of 2 images as in boxes.json" in done.stdout
    words = (place / "export/spikes/README.md").read_text()
    assert (
        "4 layers" not in words and "5 layers that run 4 times" in words and "$" not in words.replace("$readmemh", "")
    )


@needs_cc
def test_for_an_fpga_all_forms_of_weights_and_spikes_are_there(place):
    run("fpga", "--golden", "1", "--tile", "4x2", "--engine", "spikes")
    folder = place / "export/spikes"
    assert ".SPIKES(3)" in (folder / "rtl/engine/top.sv").read_text()
    assert json.loads((folder / "rtl/engine/report.json").read_text())["steps"] == STEPS
    assert {path.suffix for path in (folder / "weights").iterdir()} == {".npy", ".bin", ".mem", ".coe"}
    k = [int(line, 16) for line in (folder / "weights/000_k.mem").read_text().split()]
    assert k == np.load(folder / "weights/000_k.npy").tolist() and max(k) <= 18
    assert (folder / "golden/0/002_out.mem").read_text().split().count("1") == np.load(
        folder / "golden/0/002_out.npy"
    ).sum()


def test_floats_and_flags_of_other_networks_are_refused_by_name(place):
    with pytest.raises(InputError, match=r"^--engine stream: networks trained as spikes run on --engine spikes alone"):
        run("fpga", "--engine", "stream")
    with pytest.raises(InputError, match=r"^--target: spikes\.pt was trained as spikes"):
        run("fpga", "--engine", "spikes", "--target", "zynq7020")
    save_checkpoint("spikes.pt", Checkpoint(network_of(warmed(parse_cfg(FOUR.format("lif"))))))
    for form in ("c", "fpga"):
        with pytest.raises(
            InputError, match=rf"layer 0 \(cfg line 6\): was trained as spikes in floats, and {form} takes"
        ):
            run(form)
    assert not (place / "export").exists()
