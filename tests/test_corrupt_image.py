"""One corrupt image among many is named and skipped alike in every script; the numbers are those of a set without it."""

from __future__ import annotations

import importlib
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

import pipeline.pruning_measure
from models import Darknet, network_of
from tests.scenes import write_scenes
from tests.temporal.nets import HIDDEN, warmed
from utils.darknet.cfg import parse_cfg, read_cfg
from utils.darknet.network import Checkpoint, save_checkpoint
from utils.quantization.calibrate import calibrate
from utils.quantization.int_checkpoint import to_checkpoint
from utils.quantization.lower import lower
from utils.reporting.record import Record

COUNT, BAD = 104, 1  # of each part: one image less than 1 %


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Two sets of the same images, one with a corrupt image in both parts and one from whose lists they are taken."""
    folder = tmp_path_factory.mktemp("corrupt")
    for name in ("bad", "without"):
        write_scenes(folder / name, train=COUNT, valid=COUNT, shape=(36, 36))
        for part in ("train", "valid"):
            if name == "bad":
                path = folder / name / f"images/{part}/{BAD}.png"
                path.write_bytes(path.read_bytes()[:60])
            else:
                rows = (folder / name / f"{part}.txt").read_text().splitlines()
                (folder / name / f"{part}.txt").write_text("\n".join(rows[:BAD] + rows[BAD + 1 :]))
    torch.manual_seed(0)
    network = network_of(Darknet(read_cfg(folder / "bad/net.cfg")))
    save_checkpoint(folder / "net.pt", Checkpoint(network, ("blue", "green")))
    fires = HIDDEN.format("lif").replace("classes=3", "classes=2").replace("filters=8\nsize=1", "filters=7\nsize=1")
    save_checkpoint(folder / "spikes.pt", Checkpoint(network_of(warmed(parse_cfg(fires))), ("blue", "green")))
    integer = lower(calibrate(network, [torch.rand(2, 3, 64, 64)]))
    save_checkpoint(folder / "net.int.pt", to_checkpoint(integer, "quantised", ("blue", "green")))
    return folder


SCRIPTS = {
    "test": ["--weights", "net.pt", "--conf-thres", "0.2"],
    "slim_prune": ["--weights", "net.pt", "--percent", "0.1", "--force", "--recalibrate", "2"],
    "quantize": ["--weights", "net.pt", "--calibration", "104"],
    "convert_snn": ["--weights", "net.int.pt"],
    "export": ["aer", "--weights", "net.int.pt", "--golden", "2"],
    "export, trained as spikes": ["nir", "--weights", "spikes.pt", "--golden", "2"],
}


def run(script: str, place: Path, data: str, *words: str) -> Record:
    script = script.partition(",")[0]
    module = importlib.import_module(script)
    given = ["--data", str(place / data / "set.data"), "--device", "cpu", "--workers", "0", "--img-size", "32"]
    given += [] if script == "export" else ["--batch-size", "52"]
    return module.run(module.parser().parse_args([*words, *given]))


@pytest.fixture
def place(made, monkeypatch, tmp_path) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipeline.pruning_measure, "SECONDS", 0.01)
    for name in ("net.pt", "net.int.pt", "spikes.pt"):
        Path(name).symlink_to(made / name)
    return made


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_names_it_once_a_set_and_goes_on(place, caplog, script):
    if "nir" in SCRIPTS[script]:
        pytest.importorskip("nir")
    with caplog.at_level(logging.WARNING):
        record = run(script, place, "bad", *SCRIPTS[script])
    assert record.finished
    told = [each.getMessage() for each in caplog.records if f"{BAD}.png: a corrupt image" in each.getMessage()]
    assert told and all("skipped, as 1 of 104 images so far" in message for message in told)


def test_what_is_measured_is_what_a_set_without_it_measures(place):
    found = [run("test", place, data, *SCRIPTS["test"]).metrics for data in ("bad", "without")]
    assert all(found[0][name] == found[1][name] for name in ("map50", "map", "precision", "recall", "f1"))


def test_detect_skips_it_too(place, caplog):
    detect = importlib.import_module("detect")
    with caplog.at_level(logging.WARNING):
        words = ["--weights", "net.pt", "--source", str(place / "bad/images/valid"), "--device", "cpu"]
        record = detect.run(detect.parser().parse_args([*words, "--img-size", "32", "--conf-thres", "0.9"]))
    assert record.metrics["images"] == COUNT - 1 and "skipped, as 1 of 104 images so far" in caplog.text
    assert np.isfinite(record.metrics["find_ms"])
