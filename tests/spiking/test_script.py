"""convert_snn.py in its other modes, on a tiny trained network: files, records, curves, refusals."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import convert_snn
import export
import pipeline.session
from models import Darknet, load_model, network_of
from pipeline.conversion_result import ValidationSample, tuning_images
from pipeline.session import Session
from pipeline.stream import judge
from tests.scenes import untimed, write_scenes
from utils.darknet.cfg import parse_cfg
from utils.darknet.network import Checkpoint, save_checkpoint
from utils.errors import InputError
from utils.quantization.executor import IntegerExecutor
from utils.reporting.record import Record
from utils.spiking.mismatch import Mismatch
from utils.spiking.rate_executor import RateExecutor
from utils.spiking.stream import StreamExecutor

HERE = ["--data", "set.data", "--device", "cpu", "--workers", "0", "--calibration", "4"]
CFG = """
[net]
width=64
height=64
channels=3
[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=relu
[maxpool]
size=2
stride=2
[convolutional]
batch_normalize=1
filters=8
size=3
pad=1
activation=relu
[convolutional]
size=1
filters=21
activation=linear
[yolo]
mask=0,1,2
anchors=8,8,16,16,32,32
classes=2
num=3
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a data set and a network of random weights."""
    folder = tmp_path_factory.mktemp("modes")
    write_scenes(folder, train=6, valid=5, shape=(64, 64))
    torch.manual_seed(0)
    network = network_of(Darknet(parse_cfg(CFG, "test")).eval())
    save_checkpoint(folder / "net.pt", Checkpoint(network))
    return folder


@pytest.fixture
def convert(place, monkeypatch):
    """Runs convert_snn.py there."""
    monkeypatch.chdir(place)
    untimed(monkeypatch)

    def run(*words: str) -> Record:
        few = ["--images", "3"] if "--mode" in words else []
        return convert_snn.run(convert_snn.parser().parse_args([*HERE, *few, "--weights", "net.pt", *words]))

    return run


def rows(path: Path) -> list[dict[str, str]]:
    with path.open() as stream:
        return list(csv.DictReader(stream))


def test_stream_leaves_curves_settling_times_pictures_and_a_network_that_streams(place, convert):
    record = convert("--mode", "stream", "--a-bit", "3", "--name", "s")
    spiking, quantised = record.metrics["spiking"], record.metrics["quantised"]
    assert spiking["map50"] == quantised["map50"] and spiking["exact"] is True
    assert spiking["exact_steps"] <= spiking["bound_steps"] == 21
    folder = place / record.folder
    curve = rows(folder / "curve.csv")
    assert [int(row["steps"]) for row in curve] == sorted(int(row["steps"]) for row in curve)
    assert int(curve[-1]["steps"]) == 21 and float(curve[-1]["map50"]) == quantised["map50"]
    settled = {int(row["layer"]): (int(row["settled"]), int(row["bound"])) for row in rows(folder / "settling.csv")}
    assert set(settled) == {0, 2} and all(0 < t <= bound for t, bound in settled.values())
    assert {row["wrong"] for row in rows(folder / "mismatch.csv")} == {"0"}
    for name in ("map_over_time", "raster", "settling", "energy", "spikes"):
        assert (folder / f"{name}.png").stat().st_size > 5000
    loaded = load_model(place / record.paths("*.snn.pt")[0])
    assert isinstance(loaded.predictor, StreamExecutor) and loaded.integer is not None
    x = torch.rand(1, 3, 64, 64).mul(255).round() / 255
    assert torch.equal(loaded.predictor(x)[0], IntegerExecutor(loaded.integer)(x)[0])


def test_an_early_exit_is_kept_in_the_file(place, convert):
    record = convert("--mode", "stream", "--early-exit", "2", "--name", "e")
    assert record.metrics["spiking"]["steps"] == 2 and record.metrics["spiking"]["exact"] is False
    predictor = load_model(place / record.paths("*.snn.pt")[0]).predictor
    assert isinstance(predictor, StreamExecutor) and predictor.steps == 2


def test_an_early_exit_costs_what_is_spent_until_then(place, convert):
    """Not what the simulation goes on to spend; a simulation that ends there is the oracle."""
    early = convert("--mode", "stream", "--early-exit", "2", "--name", "until").metrics["spiking"]
    short = convert("--mode", "stream", "--timesteps", "2", "--name", "short").metrics["spiking"]
    whole = convert("--mode", "stream", "--name", "whole").metrics["spiking"]
    for key in ("spikes", "sops", "energy_pj"):
        assert early[key] == pytest.approx(short[key]) and early[key] < whole[key]


@pytest.mark.parametrize("words", [["--neuron", "unsigned"], ["--early-exit", "2"], []])
def test_the_clock_is_for_the_network_that_is_left(place, convert, monkeypatch, words):
    """Other neurons than st-bif would otherwise be timed until they are settled, and are left with a window."""
    timed = []
    monkeypatch.setattr(Session, "timed", lambda session, rows, networks: timed.append(networks["spiking"].steps))
    record = convert("--mode", "stream", "--a-bit", "2", *words, "--name", "clock")
    predictor = load_model(place / record.paths("*.snn.pt")[0]).predictor
    assert timed == [predictor.steps]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["stream", "--a-bit", "2", "--early-exit", "99"],
            "--early-exit: 99 steps, but only 9 are simulated; give 9 at",
        ),
        (
            ["stream", "--a-bit", "2", "--neuron", "signed", "--early-exit", "4"],
            "--early-exit: 4 steps, but only 3 are simulated",
        ),
        (["stream", "--a-bit", "2", "--curve", "1", "99"], "--curve: 99 steps, but only 9 are simulated"),
        (["stream", "--timesteps", "5", "--curve", "6"], "--curve: 6 steps, but only --timesteps 5 are simulated"),
        (["rate", "--curve", "1", "129"], "--curve: 129 steps, but only 128 are simulated"),
    ],
)
def test_a_step_that_is_not_simulated_is_refused(convert, words, message):
    with pytest.raises(InputError, match=message):
        convert("--mode", *words)


def test_other_neurons_run_one_window_and_tell_which_layer_is_off(place, convert, caplog):
    caplog.set_level("INFO")
    record = convert("--mode", "stream", "--neuron", "unsigned", "--a-bit", "2", "--name", "u")
    assert record.metrics["spiking"]["steps"] == 3
    found = {int(row["layer"]): int(row["wrong"]) for row in rows(place / record.folder / "mismatch.csv")}
    assert found[0] == 0 < found[2]
    assert "layer 2 breaks most by itself" in caplog.text and "neurons whose count is off" in caplog.text


def test_the_numbers_that_a_stream_changes_are_named_though_the_first_is_the_same():
    executor = SimpleNamespace(rule="unsigned", steps=7)
    seen = SimpleNamespace(exact=False, steps=7, mismatches={0: Mismatch(8, 1, 1, 0.5, 2.0)})
    sample = SimpleNamespace(session=SimpleNamespace(heading="top-1"), said="the first 8")
    golden, last = (SimpleNamespace(record=lambda top5=top5: {"top1": 0.5, "top5": top5}) for top5 in (0.75, 0.625))
    assert (
        judge(executor, seen, golden, last, sample)[1] == "spiking and quantised networks differ in top5 (the first 8)"
    )
    said = "spiking and quantised top-1 are equal to the last digit (the first 8)"
    assert judge(executor, seen, golden, golden, sample)[1] == said


def test_rate_normalises_and_says_that_it_is_not_exact(place, convert, caplog):
    caplog.set_level("INFO")
    record = convert("--mode", "rate", "--timesteps", "8", "--channel-wise", "--reset", "zero", "--name", "r")
    assert record.metrics["spiking"]["exact"] is False and record.metrics["spiking"]["sops"] > 0
    assert "rates of 8 steps, a scale a channel, 99.999 %, reset zero" in caplog.text
    assert "not exact after 8 steps" in caplog.text
    loaded = load_model(place / record.paths("*.snn.pt")[0])
    assert isinstance(loaded.predictor, RateExecutor) and loaded.integer is None
    with pytest.raises(InputError, match="holds firing rates, not integers"):
        convert("--weights", record.paths("*.snn.pt")[0].as_posix())


TUNED = ["--finetune", "--finetune-images", "4", "--finetune-iterations", "2"]


def test_fine_tuning_shows_before_and_after_and_the_exact_modes_beside(place, convert, caplog):
    caplog.set_level("INFO")
    record = convert("--mode", "stream", "--neuron", "unsigned", "--a-bit", "2", *TUNED, "--name", "f")
    rows = record.metrics
    assert list(rows) == ["float", "quantised", "layerwise", "settled", "converted", "spiking"]
    assert rows["layerwise"]["map50"] == rows["settled"]["map50"] == rows["quantised"]["map50"]
    assert rows["settled"]["exact"] is True and rows["converted"]["exact"] is rows["spiking"]["exact"] is False
    assert rows["converted"]["steps"] == rows["spiking"]["steps"] == 3
    assert rows["converted"]["spikes"] != rows["spiking"]["spikes"]
    for message in ("before and after fine-tuning", "modes that need none", "fine-tuned on 4 training images"):
        assert message in caplog.text
    loaded = load_model(place / record.paths("*.snn.pt")[0])
    assert isinstance(loaded.predictor, StreamExecutor) and loaded.predictor.rule == "unsigned"
    session = pipeline.session.open_session(convert_snn.parser().parse_args([*HERE, "--weights", "net.pt"]))
    assert ValidationSample.of(session, 3).score(loaded.predictor).map50 == rows["spiking"]["map50"]


def test_rates_are_fine_tuned_and_read_back(place, convert):
    record = convert("--mode", "rate", "--timesteps", "6", *TUNED, "--name", "g")
    rows = record.metrics
    assert list(rows) == ["float", "layerwise", "converted", "spiking"]
    assert rows["converted"]["spikes"] != rows["spiking"]["spikes"]
    loaded = load_model(place / record.paths("*.snn.pt")[0])
    session = pipeline.session.open_session(convert_snn.parser().parse_args([*HERE, "--weights", "net.pt"]))
    assert isinstance(loaded.predictor, RateExecutor)
    assert ValidationSample.of(session, 3).score(loaded.predictor).map50 == rows["spiking"]["map50"]


def test_an_early_exit_is_what_is_tuned_for(place, convert):
    record = convert("--mode", "stream", "--early-exit", "2", "--a-bit", "2", *TUNED, "--name", "h")
    predictor = load_model(place / record.paths("*.snn.pt")[0]).predictor
    assert isinstance(predictor, StreamExecutor) and predictor.steps == 2
    assert record.metrics["spiking"]["steps"] == record.metrics["converted"]["steps"] == 2


def test_fine_tuning_sees_training_images_only(place, convert):
    words = [*HERE, "--weights", "net.pt", "--mode", "rate", *TUNED]
    session = pipeline.session.open_session(convert_snn.parser().parse_args(words))
    seen = tuning_images(session)
    own = torch.cat(session.training_images(6))
    others = torch.cat([batch.images.float() / 255 for batch in session.valid])
    assert len(seen) == 4 and len(own) == 6
    assert all(any(torch.equal(x, y) for y in own) for x in seen)
    assert not any(torch.equal(x, y) for x in seen for y in others)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--finetune"], "--finetune: layerwise mode is exact, there is nothing to tune"),
        (["--mode", "stream", "--finetune"], "--finetune: a stream that runs until it is settled is exact"),
        (["--early-exit", "3"], "--early-exit: is for --mode stream, this is layerwise"),
        (["--mode", "rate", "--neuron", "signed"], "--neuron: is for --mode stream, this is rate"),
        (["--mode", "stream", "--reset", "zero"], "--reset: is for --mode rate, this is stream"),
        (["--mode", "stream", "--early-exit", "9", "--timesteps", "5"], "only --timesteps 5 are simulated"),
    ],
)
def test_flags_of_another_mode_are_refused(convert, words, message):
    with pytest.raises(InputError, match=message):
        convert(*words)


def test_spikes_are_handed_over_as_a_graph_and_as_events(place, convert):
    pytest.importorskip("nir")
    record = convert("--a-bit", "2", "--name", "p")
    weights = record.paths("*.snn.pt")[0].as_posix()
    common = ["--data", "set.data", "--device", "cpu", "--workers", "0", "--weights", weights]
    made = export.run(export.parser().parse_args(["nir", *common]))
    assert [path.suffix for path in made.paths("*.nir")] == [".nir"]
    made = export.run(export.parser().parse_args(["aer", *common, "--golden", "1", "--name", "events"]))
    names = {path.name for path in made.paths("*")}
    assert {"0_in.npy", "0_layer_2.npy", "0_layer_2.csv", "README.md"} <= names
    folder = made.paths("*README.md")[0].parent
    row = re.search(r"layer_2` \| (\d+) x (\d+) x (\d+) \| (\d+) \| ([\d.e-]+)", (folder / "README.md").read_text())
    *sizes, start = map(int, row.groups()[:4])
    events, integer = np.load(folder / "0_layer_2.npy"), load_model(weights).integer
    assert all(0 <= events[key].max() < most for key, most in zip("cyx", sizes, strict=True))
    assert start <= events["t"].min() and events["t"].max() < start + 3  # 2 bits: a window of 3 steps
    assert float(row[5]) == pytest.approx(integer.grids[2].scale, rel=1e-5)


def test_detections_of_a_settled_stream_are_those_of_the_integers(place, convert):
    record = convert("--mode", "stream", "--name", "d")
    loaded = load_model(place / record.paths("*.snn.pt")[0])
    assert loaded.integer is not None
    session = pipeline.session.open_session(convert_snn.parser().parse_args([*HERE, "--weights", "net.pt"]))
    sample = ValidationSample.of(session, 3)
    assert sample.images == 3 and not sample.whole
    mine, golden = (sample.score(predictor) for predictor in (loaded.predictor, IntegerExecutor(loaded.integer)))
    assert sum(len(each.boxes) for each in golden.detections) > 0
    for a, b in zip(mine.detections, golden.detections, strict=True):
        assert torch.equal(a.boxes, b.boxes) and a.index == b.index
    assert mine.record() == golden.record()
