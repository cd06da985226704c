"""train.py under torchrun, with two gloo processes on the CPU."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from models import load_model
from tests.scenes import write_scenes
from tests.training.test_train_script import cfg
from utils.darknet.network import load_checkpoint
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
    done = subprocess.run(command(processes, *words), capture_output=True, text=True, timeout=120, env=environment())
    assert done.returncode == 0, done.stdout + done.stderr


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_two_processes_write_one_run_whose_losses_are_those_of_one_process(place):
    words = ["-sr", "--s", "0.01", "--epochs", "3", "--lr", "0.05", "--sync-bn"]
    run(1, *words, "--name", "one")
    run(2, *words, "--name", "two")
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
        told = job.communicate(timeout=60)[1]
    finally:
        job.kill()
    assert job.returncode != 0 and "SIGKILL" in told
    assert load_checkpoint(last).training["progress"]["epochs"] >= 1


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found]


def rank_of(pid: int) -> str:
    values = dict(entry.split("=", 1) for entry in Path(f"/proc/{pid}/environ").read_text().split("\0") if "=" in entry)
    return values.get("RANK", "")


def test_a_teacher_and_rounding_work_in_two_processes(place):
    run(1, "--epochs", "1", "--name", "teacher")
    words = ["--quantized", "google", "--KDstr", "3+cwd", "--t_weights", "weights/last_teacher.pt", "--epochs", "2"]
    run(2, *words, "--name", "both")
    rows = read_rows(place / "runs/train-both/results.csv")
    assert len(rows) == 2 and rows[-1]["map50"] is not None and any(key.startswith("kd_") for key in rows[0])
    assert load_model("weights/last_both.pt").integer is not None
