"""train.py --quantized ... --progressive: stages of ever fewer bits, each from the network of the last."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import pipeline.epoch_report
import pipeline.train
import pipeline.training_run
import train
from models import load_model
from tests.scenes import POOL, convolution, head, section, undrawn_runs, write_scenes
from utils.config.train import TrainConfig, training_scheme
from utils.darknet.network import Network, load_checkpoint
from utils.errors import InputError
from utils.quantization.qat_checkpoint import observed_in
from utils.quantization.stages import stages_of
from utils.reporting.record import Record, read_record
from utils.reporting.results import read_rows

COMMON = ("--data", "set.data", "--device", "cpu", "--workers", "0", "--val-interval", "1")
BODY = (convolution(8, stride=2), convolution(8), section("shortcut", **{"from": -2}), POOL, POOL)


def cfg(*body: str) -> str:
    """Some layers and a head, for images of 64 x 32 px."""
    return "".join((section("net", batch=4, width=64, height=32), *body, head(2, anchors="8,8, 20,20")))


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with six training and four validation images, a float network trained on them, no pictures drawn."""
    monkeypatch.chdir(tmp_path)
    undrawn_runs(monkeypatch)
    write_scenes(tmp_path, train=6, valid=4, shape=(40, 80), cfg=cfg(*BODY))
    start()
    return tmp_path


def start() -> None:
    """A float run, which everything quantised starts from."""
    train.run(train.parser().parse_args([*COMMON, "--cfg", "net.cfg", "--epochs", "1", "--name", "float"]))


def flags(*words: str) -> TrainConfig:
    newest = max(Path("weights").glob("last_float*.pt"), key=lambda path: path.stat().st_mtime)
    return train.parser().parse_args([*COMMON, "--weights", str(newest), "--lr", "0.01", *words])


def run(name: str, *words: str, epochs: int = 3) -> Record:
    return train.run(flags("--epochs", str(epochs), "--name", name, "--progressive", *words))


def bits_in(path: str) -> tuple[int, int]:
    known = observed_in(load_checkpoint(path))
    assert known
    return known.scheme.w_bit, known.scheme.a_bit


@pytest.mark.parametrize(
    "words, expected",
    [
        ("--w-bit 8 --a-bit 3", [(8, 8, 8), (4, 8, 4), (3, 8, 3)]),
        ("--w-bit 4 --a-bit 2", [(8, 8, 8), (4, 4, 4), (3, 4, 3), (2, 4, 2)]),
        ("", [(8, 8, 8), (4, 4, 4), (3, 3, 3), (2, 2, 2)]),
        ("--progressive 6 4", [(6, 6, 6), (4, 4, 4)]),
        ("--progressive 8 5 --w-bit 4 --a-bit 4", [(8, 8, 8), (5, 5, 5), (4, 4, 4)]),
        ("--progressive 16 8 --w-bit 16 --a-bit 8", [(16, 16, 16), (8, 16, 8)]),
    ],
)
def test_both_widths_fall_with_the_stages_to_their_own_ends(words, expected):
    args = train.parser().parse_args(["--quantized", "google", "--progressive", *words.split()])
    wanted = training_scheme(args)
    stages = stages_of(args.epochs, args.progressive, wanted)
    assert wanted
    assert [stage.bits for stage in stages] == expected
    assert stages[-1].scheme(wanted) == wanted


def test_epochs_are_dealt_out_with_the_rest_to_the_last_stages():
    args = train.parser().parse_args(["--quantized", "google", "--progressive", "--epochs", "10"])
    stages = stages_of(args.epochs, args.progressive, training_scheme(args))
    assert [(stage.begin, stage.end) for stage in stages] == [(0, 2), (2, 4), (4, 7), (7, 10)]


@pytest.mark.parametrize(
    "words, message",
    [
        ("--progressive", "--progressive: only quantised training has that; add --quantized"),
        ("--quantized google --progressive --a-bit 8", "8-bit weights, 8-bit activations are its first stage already"),
        ("--quantized google --progressive 4 8", "--progressive: 4 8 does not fall; each stage has fewer bits"),
        ("--quantized google --progressive 4 4", "--progressive: 4 4 does not fall"),
        ("--quantized google --progressive 9 4", "--progressive: 9 bits; use 2 to 8, or 16"),
        (
            "--quantized google --progressive --epochs 3",
            r"--epochs: 3 for the 4 stages of --progressive \(8, 4, 3, 2 bits\); use at least one for each",
        ),
    ],
)
def test_stages_that_make_no_sense_are_refused_before_anything_is_written(place, words, message):
    before = sorted(Path().rglob("*"))
    with pytest.raises(InputError, match=message):
        train.run(flags(*words.split()))
    assert sorted(Path().rglob("*")) == before


def test_every_stage_starts_from_the_last_one_and_keeps_its_network(place, monkeypatch, caplog):
    started: list[Network] = []
    lowered = pipeline.training_run.lowered

    def seen(model, *rest):
        started.append(model.float_network())
        return lowered(model, *rest)

    monkeypatch.setattr(pipeline.training_run, "lowered", seen)
    with caplog.at_level("INFO"):
        record = run("q", "--quantized", "google", "--w-bit", "8", "--a-bit", "3", epochs=7)  # enough for an average
    files = ["weights/last_q-8.pt", "weights/last_q-4.pt", "weights/last_q.pt"]
    assert [bits_in(path) for path in files] == [(8, 8), (8, 4), (8, 3)]
    for path, network in zip(files, started, strict=False):
        kept = load_checkpoint(path).network.state
        assert all(torch.equal(kept[key], value) for key, value in network.state.items())
        assert load_model(Path(path).with_suffix(".int.pt")).integer is not None
    assert len(started) == 2
    rates = [row["lr"] for row in read_rows(record.folder / "results.csv")]  # each stage's ends where a cosine does
    assert [rates[epoch] for epoch in (1, 3, 6)] == pytest.approx([0.0005] * 3) and rates[4] > 0.002
    for path in files:
        known = observed_in(load_checkpoint(path))
        assert known and known.state["frozen"].tolist() == [1, 1]
    stages = record.metrics["stages"]
    assert [stage["weights"] for stage in stages] == files and [stage["epochs"] for stage in stages] == [2, 2, 3]
    for stage, path in zip(stages, files, strict=True):
        assert {key: stage[key] for key in ("map50", "map")} == {
            key: load_checkpoint(path).meta[key] for key in ("map50", "map")
        }
    assert {path.name for path in record.paths("*.pt")} == {
        *(f"{kind}_q{name}.pt" for kind in ("last", "best") for name in ("", "-8", "-4")),
        *(f"last_q{name}.int.pt" for name in ("", "-8", "-4")),
    }
    assert record.paths("*.pt")[0].name == "last_q.pt" and record.metrics["best"]["epoch"] > 4
    assert re.search(r"\| 3 +\| +8 \| +3 \| +3 \| .*weights/last_q\.pt", caplog.text)


def test_a_second_run_of_the_same_name_overwrites_no_stage(place):
    words = ["--quantized", "google", "--a-bit", "4"]
    first = run("q", *words)
    held = {item["path"]: item["sha256"] for item in first.outputs}
    second = run("q", *words)
    assert not held.keys() & {item["path"] for item in second.outputs}
    assert Path("weights/last_q-2-8.pt").exists() and bits_in("weights/last_q-2.pt") == (8, 4)


def same(one: str, other: str) -> bool:
    """Whether two checkpoints hold the same floats, scales and integers."""
    a, b = (load_checkpoint(f"weights/last_{name}.pt") for name in (one, other))
    pairs = [(a.network.state, b.network.state), (a.payload["observers"], b.payload["observers"])]
    same_keys = all(x.keys() == y.keys() for x, y in pairs)
    return same_keys and all(torch.equal(x[key], y[key]) for x, y in pairs for key in x)


class Cut(BaseException):
    """As if the process were killed."""


@pytest.mark.parametrize(
    "moment, call",
    [("validate", 2), ("validate", 3), ("validate", 5), ("save", 3), ("leave_stage", 2), ("next_stage", 2)],
)
def test_resumed_run_is_the_unbroken_one_wherever_it_was_cut(place, monkeypatch, moment, call):
    words = ["--quantized", "google", "--w-bit", "4", "--a-bit", "3"]
    whole = run("whole", *words, epochs=5)
    module = pipeline.train
    real, calls = getattr(module, moment), []

    def cut(*given, **options):
        calls.append(moment)
        if len(calls) == call:
            raise Cut
        return real(*given, **options)

    with monkeypatch.context() as patched:
        patched.setattr(module, moment, cut)
        with pytest.raises(Cut):
            run("cut", *words, epochs=5)
    assert not read_record("runs/train-cut").finished
    torch.manual_seed(99)
    again = train.run(train.parser().parse_args([*COMMON, "--resume"]))
    assert all(same(f"cut{stage}", f"whole{stage}") for stage in ("-8", "-4", ""))
    for ours, theirs in zip(again.metrics["stages"], whole.metrics["stages"], strict=True):
        assert ours | {"weights": ""} == theirs | {"weights": ""}
    assert {path.name.replace("cut", "whole") for path in again.paths("*.pt")} == {
        path.name for path in whole.paths("*.pt")
    }


@pytest.mark.parametrize(
    "words",
    [
        ["--quantized", "dorefa", "--BN_Fold"],
        ["--FPGA", "--learn-scales", "--adam", "--no-ema"],
        ["--quantized", "google", "--KDstr", "4", "--t_weights", "weights/last_float.pt"],
    ],
    ids=lambda words: "-".join(words[:3]),
)
def test_stages_go_with_every_other_flag_and_resume(place, monkeypatch, words):
    words = [*words, "--w-bit", "4", "--a-bit", "4"]
    run("whole", *words, epochs=2)
    with monkeypatch.context() as patched:
        patched.setattr(pipeline.train, "next_stage", lambda job: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run("cut", *words, epochs=2)
    train.run(train.parser().parse_args([*COMMON, "--resume"]))
    assert same("cut", "whole") and same("cut-8", "whole-8") and bits_in("weights/last_cut.pt") == (4, 4)


def test_layers_with_bits_of_their_own_keep_them_where_an_se_is_written_out(place):
    """The map counts the cfg's layers; from the second stage on the network has more of them."""
    text = cfg(convolution(8, stride=2), section("se", reduction=4), convolution(8), convolution(8), POOL, POOL)
    Path("net.cfg").write_text(text)
    start()
    Path("bits.txt").write_text("2 6 7\n")
    run("q", "--quantized", "google", "--w-bit", "4", "--a-bit", "4", "--bits-map", "bits.txt", epochs=2)
    for path in ("weights/last_q-8.pt", "weights/last_q.pt"):
        known = observed_in(load_checkpoint(path))
        assert known and known.scheme.layer_bits == ((5, 6, 7),)
