"""--log: each service is told what results.csv and the record say, once, and is closed however the training ends."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

import pipeline.train
import train
from tests.scenes import undrawn_runs, write_scenes
from utils.errors import InputError
from utils.reporting.results import read_rows
from utils.training.loggers import LOGGERS, check_loggers, logging_to

SHORT = ["--cfg", "net.cfg", "--data", "set.data", "--epochs", "2", "--workers", "0", "--device", "cpu"]
ROW = {"epoch": 3, "total": 1.5, "map50": None, "note": "x"}


class Said:
    """A stand-in for a package: what was called, in order."""

    def __init__(self, **given):
        self.calls = []
        self.given = given

    def __getattr__(self, name):
        if name in self.given:
            return self.given[name]
        return lambda *words, **named: self.calls.append((name, *words, named)) or self.given.get(f"{name}_gives")


@pytest.fixture
def wandb(monkeypatch):
    run = Said(id="w7", summary=Said())
    fake = Said(init_gives=run, Image=lambda path: f"image {Path(path).name}")
    fake.run = run
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


@pytest.fixture
def mlflow(monkeypatch):
    fake = Said(start_run_gives=SimpleNamespace(info=SimpleNamespace(run_id="m7")))
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    return fake


def follow(name, folder, fails=False):
    folder.mkdir(exist_ok=True)
    with logging_to((name,), folder, {"epochs": 5, "s": 0.1}) as (service,):
        service.epoch(ROW, ("map50",))
        if fails:
            raise KeyboardInterrupt
        service.result({"map50": 0.5, "best": {"epoch": 3}, "bytes": 10}, [folder / "results.png"])


def test_wandb_is_told_settings_epochs_summary_and_pictures(tmp_path, wandb):
    folder = tmp_path / "train-x"
    follow("wandb", folder)
    assert wandb.calls == [
        ("init", {"project": "darkspike", "name": "train-x", "dir": str(folder), "config": {"epochs": 5, "s": 0.1}})
    ]
    assert wandb.run.calls == [
        ("log", {"total": 1.5}, {"step": 3}),
        ("log", {"results": "image results.png"}, {}),
        ("finish", {"exit_code": 0}),
    ]
    assert wandb.run.summary.calls == [("update", {"map50": 0.5, "bytes": 10}, {})]


def test_mlflow_is_told_parameters_metrics_and_pictures(tmp_path, mlflow):
    folder = tmp_path / "train-x"
    follow("mlflow", folder)
    assert mlflow.calls == [
        ("set_experiment", "darkspike", {}),
        ("start_run", {"run_name": "train-x"}),
        ("log_params", {"epochs": "5", "s": "0.1"}, {}),
        ("log_metrics", {"total": 1.5}, {"step": 3}),
        ("log_metrics", {"final_map50": 0.5, "final_bytes": 10}, {}),
        ("log_artifact", str(folder / "results.png"), {}),
        ("end_run", "FINISHED", {}),
    ]


def test_a_resumed_training_goes_on_with_the_run_that_it_had(tmp_path, wandb, mlflow):
    for name in ("wandb", "mlflow"):
        follow(name, tmp_path / "train")
        follow(name, tmp_path / "train")
    assert wandb.calls[1][1]["id"] == "w7" and wandb.calls[1][1]["resume"] == "allow"
    assert [call[1] for call in mlflow.calls if call[0] == "start_run"] == [{"run_name": "train"}, {"run_id": "m7"}]
    assert sum(call[0] == "log_params" for call in mlflow.calls) == 1


def test_a_training_that_is_cut_is_closed_as_failed(tmp_path, wandb, mlflow):
    for name in ("wandb", "mlflow"):
        with pytest.raises(KeyboardInterrupt):
            follow(name, tmp_path / "train", fails=True)
    assert wandb.run.calls[-1] == ("finish", {"exit_code": 1}) and mlflow.calls[-1] == ("end_run", "FAILED", {})


@pytest.mark.parametrize("name", LOGGERS)
def test_a_package_that_is_not_there_is_named_with_the_line_that_installs_it(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match=rf"^--log {name}.*: {name} is not installed; pip install {name}$"):
        check_loggers([name])


def test_nothing_is_imported_that_nobody_asked_for(monkeypatch):
    for name in ("wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, name, None)
    check_loggers([])
    with logging_to((), Path(), {}) as services:
        assert services == []


def test_the_flag_takes_several_and_only_known_ones(capsys):
    parse = train.parser().parse_args
    assert parse(["--log", "wandb", "mlflow", "--tensorboard"]).loggers == ("wandb", "mlflow", "tensorboard")
    assert parse(["--log", "tensorboard", "--tensorboard"]).loggers == ("tensorboard",) and parse([]).loggers == ()
    with pytest.raises(SystemExit):
        parse(["--log", "comet"])
    assert "argument --log: invalid choice: 'comet'" in capsys.readouterr().err


def test_a_training_tells_what_its_own_files_say(tmp_path, monkeypatch, mlflow):
    write_scenes(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipeline.train, "check_loggers", lambda names: None)  # a stand-in is no package on the disk
    undrawn_runs(monkeypatch)
    monkeypatch.setattr(
        "pipeline.epoch_report.plot_results",
        lambda path, *words: cv2.imwrite(str(path), np.zeros((8, 8, 3), np.uint8)),
    )
    record = train.run(train.parser().parse_args([*SHORT, "--log", "mlflow"]))
    told = [(call[2]["step"], call[1]["total"]) for call in mlflow.calls if call[0] == "log_metrics" and call[2]]
    assert told == [(row["epoch"], row["total"]) for row in read_rows(record.folder / "results.csv")]
    (final,) = [call[1] for call in mlflow.calls if call[0] == "log_metrics" and not call[2]]
    assert final["final_map50"] == record.metrics["map50"]
    assert [Path(call[1]).name for call in mlflow.calls if call[0] == "log_artifact"] == ["results.png"]
    assert mlflow.calls[2][1]["epochs"] == "2" and mlflow.calls[-1] == ("end_run", "FINISHED", {})
