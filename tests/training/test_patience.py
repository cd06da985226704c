"""--patience: a training ends when it has enough, leaves its best, and a cut one goes on to the same end."""

from __future__ import annotations

import pytest

import train
from pipeline import train as training
from tests.scenes import write_scenes
from utils.darknet.network import load_checkpoint
from utils.reporting.results import read_rows
from utils.reporting.runs import output_of


def rows_of(*scores):
    return [{"epoch": number, "score": score} for number, score in enumerate(scores, 1)]


@pytest.mark.parametrize(
    ("scores", "patience", "stale"),
    [
        ((), 1, False),
        ((0.1, 0.2, 0.3), 1, False),
        ((0.1, 0.2, 0.2), 1, False),  # as good as the best is no worse: the later one counts
        ((0.3, 0.2), 1, True),
        ((0.3, 0.2, 0.1), 3, False),
        ((0.3, 0.2, 0.1, 0.2), 3, True),
        ((0.3, None, None, None), 3, False),  # not measured, so nobody knows
        ((0.3, None, None, 0.1), 3, True),
        ((0.3, 0.1, 0.1, 0.1), None, False),
    ],
)
def test_a_training_is_stale_when_its_best_epoch_is_old_and_that_was_measured(scores, patience, stale):
    assert training.is_stale(rows_of(*scores), "score", patience) is stale


@pytest.fixture
def scored(tmp_path, monkeypatch):
    """A folder in which the n-th epoch of a training is said to score the n-th of some numbers; cuts where told."""
    write_scenes(tmp_path)
    monkeypatch.chdir(tmp_path)
    real, told = training.validate, []

    def validate(run):
        found = real(run)
        value = told[run.progress.epochs]
        return type(
            "Told", (type(found),), {"record": lambda self: type(found).record(self) | {run.task.primary: value}}
        )(**{name: getattr(found, name) for name in found.__dataclass_fields__})

    monkeypatch.setattr(training, "validate", validate)

    def run(scores, *words):
        told[:] = scores
        flags = ["--data", "set.data", "--workers", "0", "--device", "cpu", "--cfg", "net.cfg", "--val-interval", "1"]
        return train.run(train.parser().parse_args([*flags, *words] if "--resume" not in words else [*words]))

    return run


SCORES = (0.1, 0.4, 0.3, 0.2, 0.9, 0.9)


def test_it_ends_after_so_many_epochs_without_anything_better_and_the_best_is_kept(scored):
    record = scored(SCORES, "--epochs", "6", "--patience", "2")
    assert [row["epoch"] for row in read_rows(record.folder / "results.csv")] == [1, 2, 3, 4]
    assert record.metrics["best"]["epoch"] == 2
    kept = [load_checkpoint(output_of(record, pattern)).meta["epoch"] for pattern in ("best*.pt", "last*.pt")]
    assert kept == [2, 4] and not load_checkpoint(output_of(record, "last*.pt")).training


def test_epochs_in_which_neurons_do_not_round_yet_are_not_what_patience_waits_for(scored):
    """Whole numbers are measured, which the first four fifths of a fresh ilif's training do not learn."""
    found = scored(SCORES, "--epochs", "6", "--patience", "2", "--spiking", "ilif")
    assert len(read_rows(found.folder / "results.csv")) == 6


def test_without_patience_all_epochs_are_trained(scored):
    assert len(read_rows(scored(SCORES, "--epochs", "6").folder / "results.csv")) == 6


def test_a_run_cut_behind_its_last_epoch_does_not_train_another_one(scored, monkeypatch):
    end = training.finish
    monkeypatch.setattr(training, "finish", lambda run: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        scored(SCORES, "--epochs", "6", "--patience", "2")
    monkeypatch.setattr(training, "finish", end)
    record = scored((0.0,) * 6, "--resume")
    assert [row["epoch"] for row in read_rows(record.folder / "results.csv")] == [1, 2, 3, 4]
