"""What --resume takes, what contradicts the run that was cut, and what it says of data that changed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

import pipeline.train
import train
from pipeline.epoch_report import left
from tests.scenes import undrawn_runs, write_scenes
from tests.training.test_train_script import cfg
from utils.darknet.network import load_checkpoint, save_checkpoint
from utils.errors import InputError
from utils.reporting.record import Record
from utils.reporting.results import read_rows

HERE = ["--device", "cpu", "--workers", "0"]
BEGUN = ["--data", "set.data", "--cfg", "net.cfg", "--epochs", "4", "--lr", "0.05", "--seed", "3", "--name", "w"]
CUT = "weights/last_w.pt"


@pytest.fixture(scope="module")
def cut(tmp_path_factory) -> Path:
    """A folder with a run that was cut behind its second epoch of four."""
    folder = tmp_path_factory.mktemp("cut")
    write_scenes(folder, train=8, valid=4, shape=(40, 80), cfg=cfg())
    one_epoch, done = pipeline.train.one_epoch, []

    def interrupted(run, epoch):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(one_epoch(run, epoch))

    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        undrawn_runs(patch)
        patch.setattr(pipeline.train, "one_epoch", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train.run(train.parser().parse_args([*HERE, *BEGUN]))
    return folder


@pytest.fixture
def resumed(cut, tmp_path, monkeypatch):
    """Goes on with a copy of that run."""
    shutil.copytree(cut, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    undrawn_runs(monkeypatch)

    def run(*words: str) -> Record:
        return train.run(train.parser().parse_args([*HERE, "--resume", CUT, *words]))

    return run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            "--lr 0.1",
            rf"^--lr: 0.1, but the run of {CUT} was begun with 0.05; leave --lr away, or start a run of its own",
        ),
        ("--seed 0", "^--seed: 0, but the run of .* was begun with 3"),
        ("--data other.data", "^--data: other.data, but the run of .* was begun with set.data"),
        ("--adam", "^--adam: True, but the run of .* was begun without it"),
        ("--no-ema", "^--ema: False, but the run of .* was begun with True"),
        ("--resize stretch", "^--resize: stretch, but the run of .* was begun with letterbox"),
        ("--name x", "^--name: x, but the run of .* was begun with w"),
        ("-sr --s 0.1", "^--s.*: .*, but the run of .* was begun with"),
        ("--quantized google", "^--quantized: google, but the run of .* was begun without it"),
        ("--epochs 1", rf"^--epochs: 1, but the run of {CUT} has done 2; give 2 or more"),
    ],
)
def test_what_contradicts_the_run_is_refused_with_both_values(resumed, words, message):
    before = Path(CUT).read_bytes()
    with pytest.raises(InputError, match=message) as caught:
        resumed(*words.split())
    assert "\n" not in str(caught.value) and Path(CUT).read_bytes() == before


def test_what_the_run_began_with_may_be_said_again(resumed, caplog):
    caplog.set_level("INFO")
    resumed(*BEGUN[2:], "--data", "./set.data", "--cache", "off")
    assert len(read_rows("runs/train-w/results.csv")) == 4
    assert "schedule" not in caplog.text and "has changed" not in caplog.text
    epochs = [each.message for each in caplog.records if each.message.startswith("epoch ")]
    assert [" left" in each for each in epochs] == [True, False], "the third of four epochs, and the fourth"


def test_what_is_left_is_told_by_the_pace_of_this_sitting():
    """Two epochs of 50 s in an earlier sitting, then one of 100 s and one of 140: four more as long as these two."""
    progress = SimpleNamespace(seconds=200.0)
    run = SimpleNamespace(progress=progress, before=100.0, begun=2, rows=[{}] * 4, config=SimpleNamespace(epochs=8))
    assert left(run, 140.0) == ["about 8 minutes left"]
    run.config.epochs = 4
    assert left(run, 140.0) == []


def test_more_epochs_stretch_the_schedule_and_that_is_said(resumed, caplog):
    caplog.set_level("INFO")
    record = resumed("--epochs", "6")
    assert record.args["epochs"] == 6 and len(read_rows("runs/train-w/results.csv")) == 6
    assert "resume: 6 epochs instead of 4; the schedule is stretched to them" in caplog.text


def test_data_that_changed_are_told_and_an_older_checkpoint_does_not_know(resumed, caplog):
    caplog.set_level("INFO")
    known = load_checkpoint(CUT)
    assert known.training["data"]["training"]["images"] == 8
    Path("train.txt").write_text("".join(Path("train.txt").read_text().splitlines(keepends=True)[:6]))
    shutil.copytree("../copy", "../older")
    resumed()
    assert "resume: set.data has changed since the run was cut: 8 training images then, 6 now" in caplog.text
    assert "validation images then" not in caplog.text
    caplog.clear()
    os.chdir("../older")
    del known.training["data"], known.training["config"]["resize"]
    save_checkpoint(CUT, known)
    with pytest.raises(InputError, match=r"^--resize: stretch, but the run of .* was begun with letterbox"):
        resumed("--resize", "stretch")
    assert resumed().finished and "has changed" not in caplog.text
