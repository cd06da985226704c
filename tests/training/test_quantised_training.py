"""train.py --quantized from its command line: what it saves describes itself, and goes on as if never cut."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
import torch

import pipeline.train
import test as test_script
import train
from models import load_model
from tests.scenes import POOL, convolution, head, section, undrawn_runs, write_scenes
from utils.darknet.network import load_checkpoint
from utils.errors import InputError
from utils.quantization.executor import IntegerExecutor
from utils.reporting.record import Record, read_record

COMMON = ("--data", "set.data", "--device", "cpu", "--workers", "0")


def cfg(activation: str = "leaky") -> str:
    """Two convolutions, a shortcut, a head, for images of 64 x 32 px."""
    body = (convolution(8, stride=2), convolution(8), section("shortcut", **{"from": -2}), POOL, POOL)
    text = "".join((section("net", batch=4, width=64, height=32), *body, head(2, anchors="8,8, 20,20")))
    return text.replace("activation=relu", f"activation={activation}")


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with eight training and four validation images, a cfg for them, and no pictures drawn."""
    monkeypatch.chdir(tmp_path)
    undrawn_runs(monkeypatch)
    write_scenes(tmp_path, train=8, valid=4, shape=(40, 80), cfg=cfg())
    (tmp_path / "net.cfg").write_text(cfg())
    return tmp_path


def flags(*words: str) -> argparse.Namespace:
    return train.parser().parse_args([*COMMON, *words])


def run(*words: str) -> Record:
    return train.run(flags("--cfg", "net.cfg", *words))


def started(place: Path) -> str:
    """The weights of a float run, which everything quantised starts from."""
    run("--epochs", "2", "--name", "float")
    return "weights/last_float.pt"


@pytest.mark.parametrize(
    "words",
    [
        ["--quantized", "google"],
        ["--quantized", "1", "--BN_Flod", "--w-bit", "4", "--a-bit", "4"],
        ["--quantized", "2", "--w-bit", "4"],
        ["--FPGA", "--learn-scales", "--no-ema"],
    ],
    ids=lambda words: "-".join(words),
)
def test_checkpoint_describes_itself_and_scores_what_training_said(place, words):
    weights = started(place)
    record = train.run(flags("--weights", weights, "--epochs", "2", "--lr", "0.01", "--name", "q", *words))
    for name in ("last_q.pt", "last_q.int.pt"):
        args = test_script.parser().parse_args([*COMMON, "--weights", f"weights/{name}"])
        measured = test_script.run(args).metrics
        assert {key: measured[key] for key in ("map50", "map", "f1")} == {
            key: record.metrics[key] for key in ("map50", "map", "f1")
        }
        loaded = load_model(f"weights/{name}")
        assert loaded.kind == "quantised" and isinstance(loaded.predictor, IntegerExecutor)
    assert {path.name for path in record.paths("*.pt")} == {"last_q.pt", "best_q.pt", "last_q.int.pt"}
    assert Path("weights/last_q.int.pt").stat().st_size < Path("weights/last_q.pt").stat().st_size


@pytest.mark.parametrize("words", [["--quantized", "google"], ["--FPGA", "--learn-scales", "--adam"]], ids=str)
def test_resumed_quantised_run_ends_where_the_unbroken_one_does(place, monkeypatch, words):
    weights = started(place)
    words = ["--weights", weights, "--epochs", "4", "--lr", "0.01", "--val-interval", "1", *words]
    train.run(flags(*words, "--name", "whole"))
    validate, calls = pipeline.train.validate, []

    def cut(job):
        calls.append(job)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return validate(job)

    with monkeypatch.context() as patched:
        patched.setattr(pipeline.train, "validate", cut)
        with pytest.raises(KeyboardInterrupt):
            train.run(flags(*words, "--name", "cut"))
    assert not read_record("runs/train-cut").finished
    torch.manual_seed(99)
    train.run(flags("--resume"))
    one, other = (load_checkpoint(f"weights/last_{name}.pt") for name in ("cut", "whole"))
    for a, b in ((one.network.state, other.network.state), (one.payload["observers"], other.payload["observers"])):
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)
    assert torch.equal(one.payload["weights"], other.payload["weights"])


def test_quantised_run_goes_on_from_its_own_scales_and_from_its_floats(place, caplog):
    weights = started(place)
    train.run(flags("--weights", weights, "--epochs", "1", "--quantized", "google", "--name", "q"))
    with caplog.at_level("INFO"):
        train.run(flags("--weights", "weights/last_q.pt", "--epochs", "1", "--quantized", "google", "--name", "again"))
        assert "goes on with the scales of the checkpoint" in caplog.text
        caplog.clear()
        train.run(flags("--weights", "weights/last_q.pt", "--epochs", "1", "--quantized", "google", "--w-bit", "4"))
        assert "ranges calibrated" in caplog.text
        train.run(flags("--weights", "weights/last_q.pt", "--epochs", "1", "--name", "floats"))
    assert load_checkpoint("weights/last_floats.pt").kind == "float"


def test_sparse_quantised_run_pushes_gammas_that_nothing_evened_out(place):
    weights = started(place)
    record = train.run(flags("--weights", weights, "--epochs", "1", "--quantized", "google", "-sr", "--prune", "1"))
    assert "near_zero" in record.metrics["sparsity"]


def test_quantised_student_learns_from_a_float_teacher(place):
    weights = started(place)
    words = ["--weights", weights, "--epochs", "1", "--quantized", "google", "--lr", "0.01"]
    record = train.run(flags(*words, "--KDstr", "4", "--t_weights", weights))
    assert record.finished
    train.run(flags("--weights", weights, "--epochs", "1", "--quantized", "google", "--name", "q"))
    with pytest.raises(InputError, match="a trained network can not teach; give the float one"):
        train.run(flags("--weights", weights, "--KDstr", "1", "--t_weights", "weights/last_q.pt"))


@pytest.mark.parametrize("act, name", [("leaky-pow2", "leaky_pow2"), ("relu", "relu")])
def test_leaky_activations_are_rewritten_and_trained(place, act, name):
    weights = started(place)
    train.run(flags("--weights", weights, "--epochs", "1", "--act", act, "--name", "act"))
    spec = load_checkpoint("weights/last_act.pt").network.spec
    before = load_checkpoint(weights).network.spec
    pairs = [
        (a.activation, b.activation)
        for a, b in zip(before.layers, spec.layers, strict=True)
        if hasattr(a, "activation")
    ]
    assert all(b == (name if a == "leaky" else a) for a, b in pairs) and ("leaky", name) in pairs


def test_act_without_a_leaky_layer_is_refused(place):
    (place / "net.cfg").write_text(cfg("relu"))
    with pytest.raises(InputError, match="--act relu: the network has no other activation; leave --act away"):
        run("--act", "relu")


def test_bits_of_layers_come_from_a_file_and_its_mistakes_name_the_line(place):
    weights = started(place)
    words = ["--weights", weights, "--epochs", "1", "--quantized", "google", "--w-bit", "4", "--bits-map", "bits.txt"]
    (place / "bits.txt").write_text("# layer w a\n1 2 6\n")
    train.run(flags(*words, "--name", "q"))
    integer = load_model("weights/last_q.pt").integer
    assert integer is not None
    assert [op.w_bit for op in integer.ops.values() if hasattr(op, "w_bit")] == [8, 2, 8]  # the outer ones have 8
    (place / "bits.txt").write_text("1 2 6\n1 9 4\n")
    with pytest.raises(InputError, match=r"bits\.txt line 2"):
        train.run(flags(*words))


@pytest.mark.parametrize(
    "words, message",
    [
        (["--w-bit", "4"], "--w-bit: only quantised training has that; add --quantized"),
        (["--BN_Fold"], "--BN_Fold: only quantised training has that"),
        (["--range-scale", "2"], "--range-scale: only quantised training has that"),
        (["--quantized", "google", "--range-scale", "5"], r"--range-scale: 5.0 is not in 0.25..4"),
        (["--quantized", "google", "--a-bit", "9"], "--a-bit: 9 bits; use 2 to 8, or 16"),
    ],
)
def test_flags_that_make_no_sense_are_refused_before_anything_is_written(place, words, message):
    with pytest.raises(InputError, match=message):
        run(*words)
    assert not (place / "runs").exists() and not (place / "weights").exists()


def test_unknown_style_is_one_line(place, capsys):
    with pytest.raises(SystemExit):
        flags("--quantized", "9")
    assert "must be one of google, dorefa, pow2, apot, 1, 2 or -1 (off), got 9" in capsys.readouterr().err
