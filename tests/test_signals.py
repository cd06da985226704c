"""Runs that are asked to end, killed, or read by nobody: a line at most, their exit code, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.scenes import write_scenes
from utils.files import TAKEN, clear_leftovers, hold, take, temporary_name

WORDS = ["--data", "set.data", "--cfg", "net.cfg", "--device", "cpu", "--workers", "1", "--epochs", "5000"]
ENV = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("asked")
    write_scenes(folder, train=8, valid=4)
    return folder


def started(place: Path, *words: str, **pipes: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "train.py"), *WORDS, *words]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **pipes}

    def heard() -> None:  # what starts the tests in the background may have Ctrl-C ignored, which is inherited
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    return subprocess.Popen(command, cwd=place, env=ENV, text=True, preexec_fn=heard, **options)


def until(condition, job: subprocess.Popen[str], seconds: float = 60) -> None:
    began = time.monotonic()
    while not condition():
        assert job.poll() is None and time.monotonic() - began < seconds, job.communicate(timeout=5)
        time.sleep(0.05)


def hidden(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*")]


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")]
)
def test_asked_to_end_a_run_says_one_line_and_leaves_what_was_finished(place, number, code, word):
    job = started(place, "--name", word)
    last = place / f"weights/last_{word}.pt"
    until(last.exists, job)
    assert f".last_{word}.pt{TAKEN}" in hidden(place)
    job.send_signal(number)
    _, err = job.communicate(timeout=30)
    assert (job.returncode, err) == (code, f"train.py: {word}; what was finished is on disk\n")
    assert last.is_file() and not hidden(place)


def test_a_reader_that_leaves_ends_the_run_quietly(place):
    job = started(place, "--name", "head")
    assert job.stdout is not None and job.stdout.readline()
    job.stdout.close()
    assert job.wait(timeout=60) == 141 and job.stderr is not None and job.stderr.read() == ""
    assert not hidden(place)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
def test_a_full_standard_output_is_one_line(place):
    with Path("/dev/full").open("w") as full:
        job = started(place, "--name", "full", stdout=full)
        _, err = job.communicate(timeout=60)
    assert job.returncode == 2 and not hidden(place)
    assert err == (
        "train.py: standard output: No space left on device; make room or write elsewhere, then run this again\n"
    )


def test_what_a_killed_run_left_is_cleared_by_the_next_one(tmp_path, monkeypatch):
    """Two names and two temporary files of a process that is gone, and those of one that is alive."""
    code = (
        "import sys, time, os; from pathlib import Path; from utils.files import take, temporary_name\n"
        "take('weights/best.pt', 'weights/last.pt'); temporary_name(Path('weights/last.pt')).write_text('half')\n"
        "folder = temporary_name(Path('weights/out')); folder.mkdir(); (folder / 'a').write_text('')\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    (tmp_path / "weights").mkdir()
    monkeypatch.chdir(tmp_path)
    job = subprocess.Popen([sys.executable, "-c", code], env=ENV, stdout=subprocess.PIPE, text=True)
    assert job.stdout is not None and job.stdout.readline() == "ready\n"
    mine = temporary_name(Path("weights/mine.pt"))
    mine.write_text("half")
    assert len(hidden(Path("weights"))) == 5
    clear_leftovers(Path("weights"))
    assert len(hidden(Path("weights"))) == 5 and not hold("weights/last.pt")
    job.kill()
    job.wait()
    monkeypatch.setattr("utils.files._CLEARED", set())
    clear_leftovers(Path("weights"))
    assert hidden(Path("weights")) == [mine.name]
    assert take("weights/last.pt") == (Path("weights/last.pt"),)
