"""Networks of sequences from the command line: trained, cut and resumed, measured, and refused where they have no form."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import compress
import convert_snn
import detect
import export
import normal_prune
import pipeline.train
import quantize
import slim_prune
import test as measuring
import train
from tests.scenes import undrawn_runs
from tests.sequences.nets import text, write_idx_set
from tests.training.test_train_script import same, state
from utils.errors import InputError
from utils.sequences import open_data as sets
from utils.sequences.task import SequenceTask

HERE = ["--device", "cpu", "--workers", "0"]
FPTT = ["--trainer", "fptt", "--fptt-k", "5"]
ROWS = "at=every\norder=rows\n"


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """A folder with cfgs, few sums to learn, and twelve pictures of three classes."""
    monkeypatch.chdir(tmp_path)
    undrawn_runs(monkeypatch)
    monkeypatch.setattr(sets, "TRAINED_ON", 40)
    monkeypatch.setattr(sets, "VALIDATED_ON", 10)
    for kind in ("ltc", "lif", "lstm"):
        Path(f"{kind}.cfg").write_text(text(kind))
        keys = "" if kind == "lstm" else "step_norm=4\n"
        Path(f"rows-{kind}.cfg").write_text(text(kind, keys=keys, steps=4, channels=4, units=16, end=ROWS))
    write_idx_set(tmp_path / "idx", train=60, valid=9)
    return tmp_path


@pytest.fixture
def undrawn(monkeypatch) -> None:
    for name in ("training_picture", "validation_picture"):
        monkeypatch.setattr(SequenceTask, name, lambda *words, **options: None)


def run(*words: str, script=train):
    return script.run(script.parser().parse_args([*HERE, *words]))


@pytest.mark.usefixtures("place")
def test_a_network_of_sequences_is_trained_forward_in_time_and_measured_without_data_being_named():
    record = run("--cfg", "ltc.cfg", *FPTT, "--adam", "--epochs", "2")
    assert record.metrics["best"]["r2"] >= record.metrics["r2"]
    assert {"train_batch.jpg", "valid_batch.jpg", "results.csv"} <= {path.name for path in record.paths("*")}
    found = run("--weights", "weights/last.pt", "--save-json", script=measuring)
    assert found.metrics["mse"] == pytest.approx(record.metrics["mse"], rel=1e-4) and 0 <= found.metrics["firing"] <= 1
    answers = json.loads((found.folder / "sequences.json").read_text())
    mse = sum((row["truth"] - row["answer"]) ** 2 for row in answers) / len(answers)
    assert len(answers) == 10 and mse == pytest.approx(found.metrics["mse"], rel=1e-4)
    longer = run("--weights", "weights/last.pt", "--data", "adding:14", script=measuring)
    assert len((longer.folder / "course.csv").read_text().splitlines()) == 15


@pytest.mark.parametrize("kind", ["ltc", "lif", "lstm"])
@pytest.mark.usefixtures("place", "undrawn")
def test_pictures_read_row_by_row_are_learned_by_every_kind_of_unit(kind):
    record = run("--cfg", f"rows-{kind}.cfg", "--data", "idx", "--adam", "--lr", "0.02", "--epochs", "25",
                 "--batch-size", "10", "--notest")  # fmt: skip
    assert record.metrics["top1"] >= 0.85


@pytest.mark.parametrize("words", [["--cfg", "ltc.cfg", *FPTT], ["--cfg", "rows-lif.cfg", "--data", "idx", "--adam"]])
@pytest.mark.usefixtures("place", "undrawn")
def test_a_run_that_was_cut_ends_in_the_weights_of_the_unbroken_one(monkeypatch, words):
    words = [*words, "--epochs", "3"]
    run(*words, "--name", "whole")
    one_epoch, done = pipeline.train.one_epoch, []

    def interrupted(job, epoch):
        if len(done) == 1:
            raise KeyboardInterrupt
        done.append(one_epoch(job, epoch))

    with monkeypatch.context() as patch:
        patch.setattr(pipeline.train, "one_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(*words, "--name", "cut")
    train.run(train.parser().parse_args([*HERE, "--resume", "weights/last_cut.pt"]))
    assert same(state("weights/last_cut.pt"), state("weights/last_whole.pt"))


@pytest.mark.usefixtures("place", "undrawn")
def test_every_other_script_refuses_it_by_name():
    run("--cfg", "ltc.cfg", "--epochs", "1", "--notest")
    for script, words in (
        (detect, []), (quantize, []), (convert_snn, []), (normal_prune, []), (slim_prune, []), (export, ["c"]),
    ):  # fmt: skip
        with pytest.raises(InputError, match=r"last.pt: a network of sequences is trained by train.py and measured by"):
            script.run(script.parser().parse_args([*words, "--weights", "weights/last.pt"]))
    with pytest.raises(InputError, match=r"ltc.cfg: a network of sequences is trained by train.py"):
        compress.run(compress.parser().parse_args(["--cfg", "ltc.cfg"]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-sr"], "--sparse: cannot act in sequences"),
        (["--quantized", "pow2"], "--quantized: cannot act in sequences: .* has no integer form"),
        (["--spiking", "lif"], r"--spiking: cannot act in sequences: the cfg says by \[lif_rnn\] or \[ltc_rnn\]"),
        (["--img-size", "2"], "--img-size: cannot act in sequences"),
        (["--cache", "off"], "--cache: cannot act in sequences"),
        (["--trainer", "fptt", "--fptt-k", "11"], "--fptt-k: 11 segments of 10 steps; give 1 to 10"),
        (["--data", "adding:20"], "--data adding:20: a network is trained on as many steps as its cfg says"),
        (["--data", "idx"], "the network predicts a value, which these sequences have not"),
    ],
)
@pytest.mark.usefixtures("place")
def test_a_flag_that_can_not_act_is_refused(words, message):
    with pytest.raises(InputError, match=message):
        run("--cfg", "ltc.cfg", *words)
    assert not Path("weights").exists() or not list(Path("weights").glob("*.pt"))


@pytest.mark.usefixtures("place")
def test_one_sequence_alone_has_no_norm():
    with pytest.raises(InputError, match=r"layer 0 \(cfg line 8\): batch norm would see one value"):
        run("--cfg", "rows-ltc.cfg", "--data", "idx", "--batch-size", "1")
