"""The scripts one after the other, from their command lines, on a few drawn images."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest
import torch

import compress
import convert_snn
import detect
import quantize
import slim_prune
import test
from models import Darknet, build, load_model, network_of
from pipeline.bench import output_of
from tests.conftest import ROOT
from tests.scenes import write_scenes
from utils.darknet.cfg import read_cfg
from utils.darknet.heads import head_convolutions
from utils.darknet.weights import write_weights
from utils.errors import InputError
from utils.quantization.executor import IntegerExecutor
from utils.reporting.record import read_record
from utils.spiking.encode import encode
from utils.spiking.stepwise import StepwiseExecutor

STAGES = ["baseline", "sparse", "pruned", "finetuned", "quantised", "spiking"]
NUMBERS = ["map50", "map", "params", "macs", "bytes", "latency_ms", "energy_pj"]
QUICK = ["--cfg", "net.cfg", "--data", "set.data", "--epochs", "2", "--sparse-epochs", "2", "--finetune-epochs", "2"]
QUICK += ["--percent", "0.3", "--workers", "0", "--device", "cpu", "--s", "0.01"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder in which compress.py has run once."""
    folder = tmp_path_factory.mktemp("chain")
    write_scenes(folder)
    before = os.getcwd()  # noqa: PTH109
    os.chdir(folder)
    compress.run(compress.parser().parse_args(QUICK))
    yield folder
    os.chdir(before)


def run(script, *words):
    return script.run(script.parser().parse_args(["--data", "set.data", "--workers", "0", "--device", "cpu", *words]))


def network_of_stage(folder, stage):
    record = read_record(folder / "runs" / "compress")
    return folder / record.outputs[STAGES.index(stage)]["path"]


def test_every_stage_has_its_numbers_and_its_checkpoint(place):
    record = read_record(place / "runs" / "compress")
    assert list(record.metrics["stages"]) == STAGES and record.finished
    for stage in STAGES:
        row = record.metrics["stages"][stage]
        assert all(isinstance(row[name], int | float) for name in NUMBERS), stage
        assert network_of_stage(place, stage).is_file()
    assert record.metrics["stages"]["pruned"]["params"] < record.metrics["stages"]["sparse"]["params"]
    for picture in ("detections.jpg", "curves.png", "gammas.png", "channels.png"):
        assert cv2.imread(str(record.folder / picture)) is not None


def test_spiking_and_quantised_are_equal_to_the_last_digit(place):
    stages = read_record(place / "runs" / "compress").metrics["stages"]
    for name in ("map50", "map", "precision", "recall", "f1"):
        assert stages["spiking"][name] == stages["quantised"][name]


def test_spike_counts_equal_integer_levels_in_every_layer_after_reloading(place):
    integers = load_model(network_of_stage(place, "quantised")).integer
    spikes = load_model(network_of_stage(place, "spiking")).integer
    x = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0)).float() / 255
    counts = StepwiseExecutor(encode(spikes)).simulate(x).counts()
    levels = IntegerExecutor(integers).levels(x)
    assert counts.keys() == levels.keys()
    for i in counts:
        assert torch.equal(counts[i].long(), levels[i].long()), f"layer {i}"


def test_running_again_redoes_nothing(place):
    before = {path: path.stat().st_mtime_ns for path in (place / "weights").iterdir()}
    record = compress.run(compress.parser().parse_args(QUICK))
    assert {path: path.stat().st_mtime_ns for path in (place / "weights").iterdir()} == before
    assert record.folder.name == "compress"


def test_another_input_makes_only_the_stages_that_depend_on_it_anew(place):
    before = set((place / "weights").iterdir())
    record = compress.run(compress.parser().parse_args([*QUICK, "--a-bit", "5"]))
    new = {path.name for path in set((place / "weights").iterdir()) - before}
    assert len(new) == 2 and all(name.endswith((".int.pt", ".snn.pt")) for name in new)
    assert record.folder.name == "compress-2"


def test_pruned_cfg_and_weights_give_what_the_checkpoint_gives_and_opencv_agrees(place):
    path = network_of_stage(place, "pruned")
    weights = path.with_suffix(".weights")
    cfg = place / "cfg" / "pruned" / f"{path.stem}.cfg"
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    oracle = cv2.dnn.readNetFromDarknet(str(cfg), str(weights))
    oracle.setInput(x.numpy())
    names = [f"conv_{j}" for j in head_convolutions(read_cfg(cfg)).values()]
    with torch.no_grad():
        ours, reread = load_model(path).predictor(x), load_model(weights, cfg).predictor(x)
    for a, b, c in zip(ours, reread, oracle.forward(names), strict=True):
        assert torch.equal(a, b)
        assert np.abs(c - a.numpy()).max() <= 1e-4 * np.abs(c).max()


@pytest.mark.parametrize("stage", STAGES)
def test_test_and_detect_take_every_kind_of_checkpoint(place, stage):
    weights = str(network_of_stage(place, stage))
    record = run(test, "--weights", weights, "--save-json", "--name", stage)
    assert record.metrics["map50"] == read_record(place / "runs" / "compress").metrics["stages"][stage]["map50"]
    assert {"pr_curves.png", "confusion.png", "detections.jpg", "detections.json"} <= {p.name for p in record.paths()}
    found = run(detect, "--weights", weights, "--source", "images/valid", "--save-txt", "--save-json", "--name", stage)
    assert found.metrics["images"] == 4
    assert len(list(found.folder.glob("*.jpg"))) == len(list(found.folder.glob("*.txt"))) == 4


def test_detect_never_deletes_and_repeats_itself(place):
    words = ["--weights", str(network_of_stage(place, "spiking")), "--source", "images/valid", "--save-json"]
    one, two = run(detect, *words, "--conf-thres", "0.0001"), run(detect, *words, "--conf-thres", "0.0001")
    assert one.folder != two.folder
    assert (one.folder / "detections.json").read_bytes() == (two.folder / "detections.json").read_bytes()
    assert one.metrics["boxes"] > 0


def test_quantised_and_spiking_detections_are_the_same_boxes(place):
    found = [
        run(detect, "--weights", str(network_of_stage(place, stage)), "--source", "images/valid", "--save-json",
            "--conf-thres", "0.0001").folder / "detections.json"
        for stage in ("quantised", "spiking")
    ]  # fmt: skip
    assert found[0].read_bytes() == found[1].read_bytes()


def test_a_percent_that_does_not_survive_is_refused_before_anything_is_written(place):
    before = {p: p.stat().st_mtime_ns for kind in ("weights", "cfg", "runs") for p in (place / kind).rglob("*")}
    with pytest.raises(InputError, match=r"percent 0\.95.* use --percent 0\.\d\d at most"):
        run(slim_prune, "--weights", str(network_of_stage(place, "baseline")), "--percent", "0.95", "--layer-keep", "0")
    assert before == {p: p.stat().st_mtime_ns for kind in ("weights", "cfg", "runs") for p in (place / kind).rglob("*")}


def test_what_cannot_spike_names_layer_line_and_remedy(place):
    (place / "swish.cfg").write_text((place / "net.cfg").read_text().replace("activation=relu", "activation=swish", 1))
    spec = read_cfg(place / "swish.cfg")
    write_weights(place / "swish.weights", network_of(Darknet(spec)))
    with pytest.raises(InputError, match=r"layer 0 \(cfg line 7\).*swish.*relu"):
        run(convert_snn, "--cfg", "swish.cfg", "--weights", "swish.weights")


def test_a_spiking_network_cannot_be_pruned(place):
    with pytest.raises(InputError, match="a spiking network; prune the float one"):
        run(slim_prune, "--weights", str(network_of_stage(place, "spiking")), "--percent", "0.1")


def test_four_bit_weights_make_a_smaller_file(place):
    float_path = network_of_stage(place, "finetuned")
    small = output_of(run(quantize, "--weights", str(float_path), "--w-bit", "4", "--name", "four"))
    eight = network_of_stage(place, "quantised")
    assert small is not None and small.stat().st_size < eight.stat().st_size


def test_killed_in_the_middle_it_goes_on_where_it_was_cut(tmp_path):
    write_scenes(tmp_path)
    words = [*QUICK, "--sparse-epochs", "12"]
    command = [sys.executable, str(ROOT / "compress.py"), *words]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log)
        deadline = time.time() + 120
        while not list((tmp_path / "runs").glob("train-compress-*/results.csv")) or len(_sparse_rows(tmp_path)) < 3:
            assert time.time() < deadline and process.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    first = {p: p.stat().st_mtime_ns for p in (tmp_path / "weights").glob("last_*.pt")}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "done before" in done.stdout and "resume" in done.stdout
    baseline = min(first, key=lambda path: first[path])
    assert baseline.stat().st_mtime_ns == first[baseline]
    assert list(read_record(tmp_path / "runs" / "compress").metrics["stages"]) == STAGES


def _sparse_rows(folder):
    for path in folder.glob("runs/train-compress-*/results.csv"):
        text = path.read_text()
        if "near_zero" in text:
            return text.splitlines()[1:]
    return []


@pytest.mark.parametrize("name", ["train", "test", "detect", "slim_prune", "convert_snn", "quantize", "compress"])
def test_help_shows_real_commands(name):
    shown = subprocess.run(
        [sys.executable, str(ROOT / f"{name}.py"), "--help"], capture_output=True, text=True, check=True
    )
    assert f"python3 {name}.py" in shown.stdout


def test_a_users_mistake_is_one_line_and_exit_code_two(place):
    for script, words, told in [
        ("train", ["--data", "nowhere.data"], "nowhere.data"),
        ("test", ["--weights", "nowhere.pt"], "nowhere.pt: no such weights file"),
        (
            "detect",
            ["--source", "nowhere.jpg", "--weights", str(network_of_stage(place, "pruned"))],
            "nowhere.jpg: no such",
        ),
        ("slim_prune", ["--percent", "1.2"], "must be a number from 0 up to"),
        (
            "convert_snn",
            ["--weights", str(network_of_stage(place, "pruned")), "--data", "set.data", "--a-bit", "9"],
            "9",
        ),
        ("train", ["--lr", "abc"], "--lr"),
    ]:
        done = subprocess.run(
            [sys.executable, str(ROOT / f"{script}.py"), *words], cwd=place, capture_output=True, text=True
        )
        assert done.returncode == 2, (script, done.stderr)
        assert told in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_a_reloaded_network_is_the_network(place):
    loaded = load_model(network_of_stage(place, "finetuned"))
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(loaded.predictor(x), build(loaded.network)(x), strict=True):
            torch.testing.assert_close(a, b)
