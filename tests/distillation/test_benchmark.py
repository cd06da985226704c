"""benchmarks/distillation.py: what is run, under which names, and what is found again; the scripts are stand-ins."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest

import train
from benchmarks import distillation, pruning
from utils import cli
from utils.cli import flag
from utils.config.train import TrainConfig
from utils.errors import InputError
from utils.reporting.record import finish_record, new_run_folder, start_record


@pytest.fixture
def session(tmp_path, monkeypatch):
    """Runs the benchmark in an empty folder; returns the commands of the scripts that it started."""
    monkeypatch.chdir(tmp_path)
    started = []

    class Script:
        def __init__(self, name):
            self.name, self.parser = name, train.parser

        def run(self, args):
            started.append((self.name, args))
            record = start_record(new_run_folder("runs", self.name, args.name), script=self.name, args=vars(args))
            path = Path(f"{args.name}.pt")
            path.write_text(f"{self.name} {args.kd} {args.epochs} {args.seed}")
            metrics = {"map50": 0.5, "map": 0.25, "params": 10}
            return finish_record(record, metrics=metrics, outputs=[path])

    def module(name):
        script = Script(name)
        if name == "slim_prune":
            script.parser = lambda: cli.parser("", CutConfig)
        return script

    monkeypatch.setattr(pruning, "importlib", SimpleNamespace(import_module=module))

    def run(*words):
        started.clear()
        monkeypatch.setattr(sys, "argv", ["distillation.py", "--data", "set.data", *words])
        distillation.main()
        return list(started)

    return run


@dataclass(frozen=True, kw_only=True)
class CutConfig(TrainConfig):
    """The flags of train.py, and two of slim_prune.py."""

    percent: str = flag("0.8", "share of the channels")
    force: bool = flag(False, "whatever happens")


def test_every_row_sees_the_same_images_and_only_the_teacher_differs(session):
    started = session("--seeds", "4")
    assert [name for name, _ in started] == ["train", "slim_prune", *["train"] * 9]
    sparse, pruned = (args for _, args in started[:2])
    assert sparse.sparse and pruned.weights == f"{sparse.name}.pt"
    differs = {"kd", "t_weights", "name", "given"}
    rows = [{k: v for k, v in vars(args).items() if k not in differs} for _, args in started[2:]]
    assert all(row == rows[0] and row["weights"] == f"{pruned.name}.pt" and row["seed"] == 4 for row in rows)
    assert [args.kd for _, args in started[2:]] == ["", *distillation.STRATEGIES]
    assert [args.t_weights for _, args in started[2:]] == ["", *[f"{sparse.name}.pt"] * 8]


def test_finished_runs_are_found_again_and_other_starts_are_other_runs(session):
    Path("a.pt").write_text("one network")
    Path("b.pt").write_text("another network")
    words = ["--seeds", "0", "--strategies", "cwd"]
    first = session(*words, "--teachers", "a.pt")
    assert [name for name, _ in first] == ["slim_prune", "train", "train"]  # no sparse training
    assert first[0][1].weights == first[2][1].t_weights == "a.pt"
    assert session(*words, "--teachers", "a.pt") == []
    Path("c.pt").write_text("one network")
    assert session(*words, "--teachers", "c.pt") == []  # the same network under another name
    assert [args.kd for _, args in session("--seeds", "0", "--strategies", "cwd", "2", "--teachers", "a.pt")] == ["2"]
    other = session(*words, "--teachers", "b.pt")
    assert other[0][1].weights == "b.pt"
    assert not {args.name for _, args in first} & {args.name for _, args in other}
    assert len(session(*words, "--teachers", "a.pt", "--percent", "0.5")) == 1  # its stand-in leaves the same network


def test_another_teacher_leaves_the_plain_row_alone(session):
    for name in ("sparse", "dense"):
        Path(f"{name}.pt").write_text(name)
    words = ["--seeds", "0", "--strategies", "cwd", "--teachers", "sparse.pt"]
    session(*words)
    (taught,) = session(*words, "--teacher", "dense.pt")
    assert (taught[0], taught[1].kd, taught[1].t_weights) == ("train", "cwd", "dense.pt")


def test_there_is_a_teacher_for_each_seed(session):
    Path("a.pt").touch()
    with pytest.raises(InputError, match="--teachers: 1 files for 3 seeds; give one a seed"):
        session("--teachers", "a.pt")
    with pytest.raises(InputError, match=r"--teachers b\.pt: no such file"):
        session("--seeds", "0", "1", "--teachers", "a.pt", "b.pt")
