"""Runs that are asked to end, killed, or read by nobody: a line at most, their exit code, and nothing left behind."""

from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.scenes import write_scenes
from utils.endings import OutputError, Terminated, ended, say
from utils.errors import InputError, NotMet
from utils.files import TAKEN, clear_leftovers, hold, take, temporary_name

WORDS = ["--data", "set.data", "--cfg", "net.cfg", "--device", "cpu", "--workers", "1", "--epochs", "5000"]
ENV = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


ENDS = [
    (InputError("cfg: no such file; check it"), 2, "x: cfg: no such file; check it\n"),
    (NotMet("worse"), 3, "x: worse\n"),
    (KeyboardInterrupt(), 130, "x: interrupted; run it again\n"),
    (Terminated(), 143, "x: terminated; run it again\n"),
    (OSError(errno.ENOSPC, "No space left on device", "runs"), 2, "x: runs: No space left on device; make room or "),
    (OSError(errno.ENAMETOOLONG, "File name too long", "runs"), 2, "x: runs: File name too long; give a shorter one\n"),
]
COMMANDS = ("utils/data/__main__.py", "utils/darknet/import.py", "utils/spiking/surgery.py", "darkspike/recipe.py",
            "darkspike/dashboard.py", "data/get.py", "utils/cli.py")  # fmt: skip


@pytest.mark.parametrize(("error", "code", "line"), ENDS)
def test_a_command_ends_in_a_code_and_one_line_whatever_ended_it(error, code, line, capsys):
    def work() -> None:
        raise error

    assert ended(work, "x", left="run it again") == code
    said = capsys.readouterr().err
    assert said.startswith(line) and said.count("\n") == 1


def test_a_command_whose_reader_left_is_quiet_and_its_own_code_is_kept(capsys):
    def unread() -> None:
        raise OutputError from BrokenPipeError()

    assert (ended(unread), ended(lambda: 2), ended(lambda: "a record")) == (141, 2, 0)
    assert capsys.readouterr().err == ""


def test_a_name_that_a_terminal_can_not_show_is_shown_by_its_numbers(monkeypatch):
    shown = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(shown, encoding="latin-1"))
    assert ended(lambda: say("Катя, \udce9")) == 0 and shown.getvalue() == b"\\u041a\\u0430\\u0442\\u044f, \\udce9\n"


@pytest.mark.parametrize("path", COMMANDS)
def test_every_command_goes_through_that_end(path):
    assert "ended(" in (ROOT / path).read_text(encoding="utf-8")


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
