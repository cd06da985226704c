"""train.py --evolve: it chooses what nobody said, keeps what was said, and ends in a command that trains so again."""

from __future__ import annotations

import json
import shlex
from types import SimpleNamespace

import cv2
import pytest

import train
from darkspike import search as searching
from pipeline import train as training
from tests.scenes import undrawn_runs, write_scenes
from utils.config.space import space_of
from utils.detection.task import DetectionTask
from utils.errors import InputError
from utils.reporting.record import read_record
from utils.reporting.results import read_rows

SHORT = ["--cfg", "net.cfg", "--data", "set.data", "--epochs", "6", "--workers", "0", "--device", "cpu"]


def parsed(*words):
    return train.parser().parse_args([*words])


@pytest.fixture
def place(tmp_path, monkeypatch):
    pytest.importorskip("optuna")
    write_scenes(tmp_path)
    monkeypatch.chdir(tmp_path)
    undrawn_runs(monkeypatch)
    return tmp_path


@pytest.fixture
def quick(place, monkeypatch):
    """Trainings that score by their rate alone, and what each was told."""
    told = []

    def fake(config, followers):
        told.append(config)
        score = 1 - abs(config.lr - 0.1)
        for epoch in range(1, config.epochs + 1):
            if any(each.epoch({"epoch": epoch, "map": score}, ("map",)) for each in followers):
                break
        return SimpleNamespace(metrics={"best": {"map": score}})

    monkeypatch.setattr(searching, "train", fake)
    return told


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("", {"lr", "mosaic", "multi_scale"}),
        ("--lr 0.1 --rect", set()),
        ("-sr --lr 0.1", {"mosaic", "multi_scale", "s", "s_schedule"}),
        ("-sr --s 0.01 --mosaic 0", {"lr", "multi_scale", "s_schedule"}),
        ("--KDstr 3 --t_weights t.pt", {"lr", "mosaic", "multi_scale", "kd_weight"}),
        ("--quantized pow2 --range-scale 1", {"lr", "mosaic", "multi_scale", "learn_scales"}),
    ],
)
def test_what_was_said_is_not_searched_and_what_cannot_act_neither(words, names):
    assert set(space_of(parsed(*words.split()))) == names


def test_a_rate_is_searched_where_the_optimizer_has_it():
    rates = [space_of(parsed(*words.split()))["lr"] for words in ("", "--adam", "--quantized 1")]
    assert [(rate.low, rate.high) for rate in rates] == [(0.02, 0.5), (0.0002, 0.005), (0.001, 0.05)]
    assert "mosaic" not in space_of(parsed(), ("mosaic",))


def test_a_search_ends_in_the_command_that_trains_so_again(quick):
    record = train.run(parsed(*SHORT, "--mosaic", "0", "--evolve", "4", "--name", "x"))
    assert record.folder.name == "search-x" and record.finished and len(quick) == 4
    assert all(config.mosaic == 0 and config.epochs == 6 and config.evolve is None for config in quick)
    assert [config.name for config in quick] == [f"search-x-{i}" for i in range(4)]
    rows = read_rows(record.folder / "trials.csv")
    assert [row["lr"] for row in rows] == [config.lr for config in quick]
    best = max((row for row in rows if row["state"] == "complete"), key=lambda row: row["map"])
    again = parsed(*shlex.split(record.metrics["command"])[2:])
    assert (again.lr, again.multi_scale, again.mosaic) == (best["lr"], best["multi_scale"] == "True", 0)
    assert record.metrics["best"]["map"] == best["map"] and again.evolve is None
    assert cv2.imread(str(record.folder / "trials.png")).shape[1] > 500


def test_the_same_line_goes_on_and_another_one_is_another_search(quick):
    first = train.run(parsed(*SHORT, "--evolve", "2"))
    assert train.run(parsed(*SHORT, "--evolve", "3")).folder == first.folder and len(quick) == 3
    assert train.run(parsed(*SHORT, "--evolve", "3")).finished and len(quick) == 3
    assert train.run(parsed(*SHORT, "--evolve", "1", "--seed", "3")).folder != first.folder
    assert json.dumps(read_record(first.folder).metrics["trials"]).count('"trial"') == 3


def test_what_cannot_be_searched_is_told(place, monkeypatch):
    with pytest.raises(InputError, match="--evolve: every setting was said, so nothing is left to choose"):
        train.run(parsed(*SHORT, "--evolve", "--lr", "0.1", "--rect"))
    with pytest.raises(InputError, match="evolve: a search is many trainings; use train"):
        training.train(parsed(*SHORT, "--evolve"))
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="--evolve: is for one process; leave torchrun away"):
        train.run(parsed(*SHORT, "--evolve"))
    assert not list(place.glob("runs/*/record.json"))


def test_the_older_projects_name_works_without_a_number():
    assert parsed("--evolve").evolve == 20 and parsed("--evolve", "3").evolve == 3 and parsed().evolve is None


def test_a_training_of_which_enough_was_seen_ends_whole(place):
    told = []

    def enough(epoch, score):
        told.append((epoch, score))
        return epoch == 2

    follower = searching.TrialFollower(DetectionTask().primary, enough)
    record = training.train(parsed(*SHORT, "--val-interval", "1"), [follower])
    rows = read_rows(record.folder / "results.csv")
    assert record.finished and [(row["epoch"], row["map"]) for row in rows] == told and len(told) == 2
    assert record.metrics["best"]["map"] == max(row["map"] for row in rows)
    assert all(path.exists() for path in record.paths("*.pt"))
    with pytest.raises(InputError, match="no run in weights/ was cut"):
        training.train(parsed("--resume"))
