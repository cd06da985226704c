"""--tensorboard: what it writes is what results.csv says; without the package it says so."""

from __future__ import annotations

import sys

import pytest

import train
from tests.scenes import write_scenes
from utils.errors import InputError
from utils.reporting.results import read_rows
from utils.training.tensorboard import check_installed, write_scalars

SHORT = ["--cfg", "net.cfg", "--data", "set.data", "--epochs", "1", "--workers", "0", "--device", "cpu"]

ROWS = [
    {"epoch": 1, "total": 1.5, "kd_soft": 0.25, "map50": None, "lr": 0.1, "gamma_q05": 0.5},
    {"epoch": 2, "total": 1.25, "kd_soft": 0.125, "map50": 0.75, "lr": 0.05, "gamma_q05": 0.25},
]


def test_scalars_read_back_are_the_rows(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, list[tuple[int, float]]] = {}
    for row in ROWS:
        write_scalars(tmp_path, row, ("map50", "map"))
    for path in sorted(tmp_path.iterdir()):
        events = EventAccumulator(str(path))
        events.Reload()
        for tag in events.Tags()["scalars"]:
            found.setdefault(tag, []).extend((each.step, each.value) for each in events.Scalars(tag))
    assert {tag: sorted(values) for tag, values in found.items()} == {
        "loss/total": [(1, 1.5), (2, 1.25)],
        "loss/kd_soft": [(1, 0.25), (2, 0.125)],
        "validation/map50": [(2, 0.75)],
        "run/lr": [(1, pytest.approx(0.1)), (2, pytest.approx(0.05))],
        "sparsity/gamma_q05": [(1, 0.5), (2, 0.25)],
    }


def test_without_the_package_it_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match="--tensorboard: tensorboard is not installed; pip install tensorboard"):
        check_installed()


def test_a_training_without_the_package_is_refused_before_it_begins(tmp_path, monkeypatch):
    write_scenes(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match="--tensorboard"):
        train.run(train.parser().parse_args([*SHORT, "--tensorboard"]))
    assert not (tmp_path / "runs").exists()


def test_a_training_hands_its_rows_over(tmp_path, monkeypatch):
    write_scenes(tmp_path)
    monkeypatch.chdir(tmp_path)
    given = []
    monkeypatch.setattr("pipeline.train.check_loggers", lambda names: None)
    monkeypatch.setattr(
        "utils.training.loggers.write_scalars", lambda folder, row, scores: given.append((folder, row["total"]))
    )
    record = train.run(train.parser().parse_args([*SHORT, "--tensorboard"]))
    assert given == [(record.folder / "tensorboard", read_rows(record.folder / "results.csv")[0]["total"])]
