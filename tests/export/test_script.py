"""export.py as it is typed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import export
from models import Darknet, build, network_of
from tests.quantization.random_nets import random_images
from tests.scenes import write_scenes
from utils.darknet.cfg import read_cfg
from utils.darknet.network import Checkpoint, save_checkpoint
from utils.errors import InputError
from utils.quantization.calibrate import calibrate
from utils.quantization.int_checkpoint import to_checkpoint
from utils.quantization.lower import lower
from utils.reporting.record import Record, finish_record, new_run_folder, start_record
from utils.spiking.rate import normalise
from utils.spiking.snn_checkpoint import save_rate

HERE = ["--data", "set.data", "--device", "cpu", "--workers", "0"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A data set, and a network in each kind of file."""
    write_scenes(tmp_path, train=2, valid=3)
    monkeypatch.chdir(tmp_path)
    network = network_of(Darknet(read_cfg("net.cfg")))
    assert build(network)
    images = random_images(2, side=64)
    integer = lower(calibrate(network, [images]))
    save_checkpoint("weights/net.pt", Checkpoint(network, ("blue", "green")))
    save_rate("weights/rate.snn.pt", normalise(network, [images], timesteps=4), names=("blue", "green"))
    for kind, suffix in (("quantised", "int"), ("spiking", "snn")):
        save_checkpoint(f"weights/net.{suffix}.pt", to_checkpoint(integer, kind, ("blue", "green")))
    return tmp_path


def typed(*words: str) -> Record:
    return export.run(export.parser().parse_args([*words, *HERE]))


def manifest(folder: str) -> dict:
    return json.loads(Path(folder, "manifest.json").read_text())


def test_the_newest_quantised_network_is_exported_without_further_flags(place):
    folder = new_run_folder("runs", "quantize")
    finish_record(start_record(folder, script="quantize", args={}), metrics={}, outputs=["weights/net.int.pt"])
    record = typed()
    assert record.paths()[0] == Path("export/net/manifest.json") and record.metrics["macs"] > 0
    made = manifest("export/net")
    assert made["spiking"] is None and made["golden"]["images"] == 2 and made["tile"] is None
    for path in ("README.md", "c/net.c", "rtl/layer.svh", "costs/bops.png", "golden/1/boxes.json", "weights/000_w.coe"):
        assert path in made["files"], path
    done = subprocess.run([sys.executable, "-I", "export/net/verify.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_second_export_takes_another_name_and_leaves_the_first(place):
    typed("c", "--weights", "weights/net.snn.pt", "--golden", "1")
    before = {path: path.stat().st_mtime_ns for path in Path("export/net").rglob("*")}
    record = typed("fpga", "--weights", "weights/net.snn.pt", "--golden", "1", "--tile", "6x3")
    assert record.paths()[0] == Path("export/net-2/manifest.json")
    assert {path: path.stat().st_mtime_ns for path in Path("export/net").rglob("*")} == before
    plain, tiled = manifest("export/net"), manifest("export/net-2")
    assert plain["spiking"]["window"] == 15 and len(plain["golden"]["spikes"]) == 1
    assert set(plain["layers"][0]["weights"]["files"]) == {"npy"}
    assert not Path("export/net/rtl").exists() and tiled["layers"][0]["weights"]["tiled"]["tm"] == 6


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--weights", "weights/net.pt"], r"weights/net\.pt: is a float network; quantise it: quantize\.py --weights"),
        (
            ["--weights", "weights/rate.snn.pt"],
            r"rate\.snn\.pt: spikes in rate mode, which has no integers; convert_snn",
        ),
        (["--weights", "net.weights"], r"net\.weights: is a float network; quantise it"),
        (["--weights", "weights/net.int.pt", "--golden", "4"], "--golden: 4 images of 3; use 1 to 3"),
        (["--weights", "weights/net.int.pt", "--out", "images"], "images: exists; choose another --out"),
        ([], r"no finished run of quantize\.py in runs/; run python3 quantize\.py first, or give --weights"),
    ],
)
def test_what_cannot_be_exported_is_said_in_one_line(place, words, message):
    with pytest.raises(InputError, match=message):
        typed(*words)
    assert not Path("export").exists()


def test_a_tile_that_is_none_is_refused(place, capsys):
    for words in ("64", "0x8", "64x8x2", "ax8"):
        with pytest.raises(SystemExit):
            export.parser().parse_args(["--tile", words])
        assert f"argument --tile: must be TMxTN, such as 64x8, got {words}" in capsys.readouterr().err


def test_an_engine_is_written_with_its_program_and_sizes_of_a_file_are_its_own(place):
    Path("small.json").write_text('{"lanes": 4, "input_words": 4096}')
    typed("fpga", "--weights", "weights/net.int.pt", "--golden", "1", "--engine", "integer", "--target", "small.json")
    folder = Path("export/net/rtl/engine")
    report = json.loads((folder / "report.json").read_text())
    assert report["engine"]["lanes"] == 4 and report["clocks"] == sum(each["clocks"] for each in report["layers"]) + 28
    assert f"{report['clocks']:,} clocks a frame" in (folder / "README.md").read_text()
    assert (folder / "program.bin").stat().st_size == 64 * report["descriptors"]
    assert "rtl/engine/program.bin" in manifest("export/net")["files"]
    subprocess.run([sys.executable, "export/net/decode.py"], check=True, stdout=subprocess.DEVNULL)
    assert manifest("export/net")["suppression"]["confidence"] == 0.25


def test_the_spiking_engine_is_written_as_it_is_typed(place):
    Path("small.json").write_text('{"lanes": 4, "membranes": 4096}')
    typed("fpga", "--weights", "weights/net.snn.pt", "--golden", "2", "--engine", "spikes", "--target", "small.json")
    folder = Path("export/net/rtl/engine")
    report = json.loads((folder / "report.json").read_text())
    assert report["engine"]["membranes"] == 4096 and report["accumulates"] > 0 and (folder / "map1.txt").is_file()
    assert f"{report['clocks']:,} clocks for golden image 0" in (folder / "README.md").read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--target", "small.json"), "--target small.json: sizes of an engine; add --engine integer"),
        (("--engine", "integer", "--target", "small.json"), "--target small.json: no such file"),
    ],
)
def test_sizes_without_an_engine_and_a_missing_file_leave_nothing(words, message, place):
    with pytest.raises(InputError, match=message):
        typed("fpga", "--weights", "weights/net.int.pt", *words)
    assert not Path("export").exists()
