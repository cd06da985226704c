"""train.py under torchrun, with two gloo processes on the CPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch

import test as test_script
import train
import utils.training.device
from tests.scenes import undrawn_runs, write_scenes
from tests.training.test_train_script import cfg
from tests.training.together import free_ports, run_together
from utils.darknet.network import load_checkpoint
from utils.detection.task import DetectionTask
from utils.distillation.strategies import terms_of
from utils.reporting.record import read_record
from utils.reporting.results import read_rows

ROOT = Path(__file__).parents[2]
FLAGS = [
    "--data",
    "set.data",
    "--cfg",
    "net.cfg",
    "--device",
    "cpu",
    "--workers",
    "0",
    "--batch-size",
    "4",
    "--val-interval",
    "1",
    "--precision",
    "fp32",
]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_scenes(tmp_path, train=16, valid=5, shape=(40, 80), cfg=cfg().replace("[dropout]\nprobability=0.2\n", ""))
    return tmp_path


def command(processes: int, *words: str) -> list[str]:
    start = (
        ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "--"] if processes > 1 else []
    )
    return [sys.executable, *start, str(ROOT / "train.py"), *FLAGS, *words]


def run(processes: int, *words: str) -> None:
    done = subprocess.run(command(processes, *words), capture_output=True, text=True, timeout=240, env=environment())
    assert done.returncode == 0, done.stdout + done.stderr


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_two_processes_write_one_run_whose_losses_are_those_of_one_process(place):
    words = ["-sr", "--s", "0.01", "--epochs", "3", "--lr", "0.05"]
    run(1, *words, "--name", "one")
    run(2, *words, "--sync-bn", "--name", "two")
    assert sorted(path.name for path in place.glob("runs/*")) == ["train-one", "train-two"]
    one, two = (read_rows(place / f"runs/train-{name}/results.csv") for name in ("one", "two"))
    for a, b in zip(one, two, strict=True):
        assert b["total"] == pytest.approx(a["total"], rel=1e-3)  # bf16 rounds on some CPUs
    record = read_record(place / "runs/train-two")
    assert record.finished and "2 processes" in record.device
    first, second = (load_checkpoint(place / f"weights/last_{name}.pt").network.state for name in ("one", "two"))
    gamma = "layers.0.bn.weight"
    assert first.keys() == second.keys() and float((first[gamma] - second[gamma]).abs().max()) < 0.02


def test_a_process_that_is_killed_stops_the_others_and_leaves_the_last_checkpoint(place):
    job = subprocess.Popen(
        command(2, "--epochs", "5000", "--name", "cut"), env=environment(), stderr=subprocess.PIPE, text=True
    )
    try:
        last, began = place / "weights/last_cut.pt", time.monotonic()
        while not last.exists() and time.monotonic() - began < 90 and job.poll() is None:
            time.sleep(0.2)
        os.kill(next(pid for pid in children(job.pid) if rank_of(pid) == "1"), signal.SIGKILL)
        message = job.communicate(timeout=60)[1]
    finally:
        job.kill()
    assert job.returncode != 0 and "SIGKILL" in message
    assert load_checkpoint(last).training["progress"]["epochs"] >= 1


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def rank_of(pid: int) -> str:
    values = dict(entry.split("=", 1) for entry in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in entry)
    return values.get("RANK", "")


# What follows calls train.py's own door in two processes, one run after the other, so that torch is loaded once.

TAUGHT = ["--t_weights", "weights/last_teacher.pt", "--val-interval", "1"]
SPIKING = {
    "bptt": ["--spiking", "lif", "--timesteps", "3", "--epochs", "2", "--lr", "0.02"],
    "fptt": [
        "--spiking",
        "ltc",
        "--timesteps",
        "4",
        "--trainer",
        "fptt",
        "--fptt-k",
        "2",
        "--epochs",
        "2",
        "--lr",
        "0.02",
    ],
}
JOBS = [  # flags, and the batch at which both processes are interrupted
    (["--epochs", "6", "--lr", "0.1", "--name", "teacher"], 0),
    (["--epochs", "2", "--KDstr", "2+5+objectness+cwd", "--sync-bn", "--lr", "0.02", *TAUGHT, "--name", "two"], 0),
    (["--epochs", "3", "--KDstr", "3+mgd", "-sr", "--s", "0.01", "--cfg", "drop.cfg", *TAUGHT, "--name", "whole"], 0),
    (["--epochs", "3", "--KDstr", "3+mgd", "-sr", "--s", "0.01", "--cfg", "drop.cfg", *TAUGHT, "--name", "cut"], 6),
    (["--device", "cpu", "--workers", "0", "--resume", "weights/last_cut.pt"], 0),
    (["--epochs", "2", "--quantized", "google", "--KDstr", "3+cwd", *TAUGHT, "--name", "rounded"], 0),
    *(([*words, "--sync-bn", "--name", f"{name}-two"], 0) for name, words in SPIKING.items()),
]


def train_all(rank: int, folder: str, ports: list[int]) -> None:
    """All jobs in one of two processes."""
    os.chdir(folder)
    for port, (words, cut) in zip(ports, JOBS, strict=True):
        os.environ["MASTER_PORT"] = str(port)
        torch.manual_seed(port)  # a new process knows nothing of the old one
        with pytest.MonkeyPatch.context() as patch, suppress(KeyboardInterrupt):
            plain(patch)
            if cut:
                patch.setattr(DetectionTask, "loss", interrupted(cut))
            given = words if "--resume" in words else [*FLAGS, *words]  # a resumed run knows its own
            train.run(train.parser().parse_args(given))


def plain(patch) -> None:
    """No pictures; and fp32, because bf16 makes a hundredth of what two processes add up in another order."""
    patch.setattr(utils.training.device, "cpu_multiplies_bf16", lambda: False)
    undrawn_runs(patch)


def interrupted(batch: int):
    """The loss, which interrupts the run at the n-th batch."""
    make, calls = DetectionTask.loss, []

    def made(*given):
        loss = make(*given)

        def counted(raw, targets):
            calls.append(1)
            if len(calls) == batch:
                raise KeyboardInterrupt
            return loss(raw, targets)

        return counted

    return made


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A folder in which all jobs were run by two processes."""
    folder = tmp_path_factory.mktemp("two")
    write_scenes(folder, train=16, valid=5, shape=(40, 80), cfg=cfg().replace("[dropout]\nprobability=0.2\n", ""))
    (folder / "drop.cfg").write_text(cfg())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        run_together(train_all, str(folder), free_ports(len(JOBS)))
    return folder


def rows_of(folder: Path, name: str) -> list[dict]:
    return read_rows(folder / f"runs/train-{name}/results.csv")


def test_a_teacher_says_to_two_processes_what_it_says_to_one(trained, monkeypatch):
    monkeypatch.chdir(trained)
    plain(monkeypatch)
    words = [word for word in (*JOBS[1][0][:-1], "one") if word != "--sync-bn"]  # for several processes alone
    train.run(train.parser().parse_args([*FLAGS, *words]))
    one, two = rows_of(trained, "one"), rows_of(trained, "two")
    terms = [key for key in one[0] if key.startswith("kd_") or key in ("total", "box", "objectness", "classification")]
    assert len(terms) == 4 + len(terms_of("2+5+objectness+cwd"))
    for a, b in zip(one, two, strict=True):
        assert {key: b[key] for key in terms} == pytest.approx({key: a[key] for key in terms}, rel=1e-4)


@pytest.mark.parametrize("name", SPIKING)
def test_two_processes_that_train_spikes_have_the_losses_of_one(trained, monkeypatch, name):
    """Also with --trainer fptt, where every process moves the same running average of the weights."""
    monkeypatch.chdir(trained)
    plain(monkeypatch)
    train.run(train.parser().parse_args([*FLAGS, *SPIKING[name], "--name", f"{name}-one"]))
    one, two = rows_of(trained, f"{name}-one"), rows_of(trained, f"{name}-two")
    terms = [key for key in one[0] if key in ("total", "box", "objectness", "classification")]
    assert len(terms) == 4 and len(one) == 2 and one[0]["total"] != one[1]["total"]
    for a, b in zip(one, two, strict=True):
        assert {key: b[key] for key in terms} == pytest.approx({key: a[key] for key in terms}, rel=1e-4)
    first, second = (load_checkpoint(trained / f"weights/last_{name}-{n}.pt").network.state for n in ("one", "two"))
    assert first.keys() == second.keys()
    for tensor in first:
        assert torch.allclose(first[tensor].float(), second[tensor].float(), atol=1e-3), tensor


def test_dropout_masks_and_adapters_go_on_in_both_processes_where_they_were_cut(trained):
    assert len(rows_of(trained, "cut")) == 3
    whole, cut = (load_checkpoint(trained / f"weights/last_{name}.pt").network.state for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    clock = {"images_per_second", "wait_share", "seconds"}
    same = [[{k: v for k, v in row.items() if k not in clock} for row in rows_of(trained, n)] for n in ("whole", "cut")]
    assert same[0] == same[1]


@pytest.mark.parametrize("name", ["teacher", "two", "rounded"])
def test_what_two_processes_measured_together_is_what_the_saved_network_scores(trained, monkeypatch, name):
    monkeypatch.chdir(trained)
    weights = f"weights/last_{name}{'.int' if name == 'rounded' else ''}.pt"
    words = ["--data", "set.data", "--weights", weights, "--device", "cpu", "--workers", "0", "--batch-size", "4"]
    found = test_script.run(test_script.parser().parse_args(words)).metrics
    last = rows_of(trained, name)[-1]
    keys = ("map50", "map", "precision", "recall")
    assert {key: found[key] for key in keys} == pytest.approx({key: last[key] for key in keys}, abs=1e-4)
    assert name != "teacher" or last["map50"] > 0
