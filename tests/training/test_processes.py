"""train.py --processes: processes of one machine instead of threads, with the results of one process."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import train
from tests.training.test_torchrun import FLAGS, ROOT, environment, place
from utils.darknet.network import load_checkpoint
from utils.errors import InputError
from utils.flag_words import without
from utils.reporting.record import read_record
from utils.reporting.results import read_rows
from utils.training.workers import choose, run_workers

__all__ = ["place"]


def typed(*words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "train.py"), *FLAGS, *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment())


def test_two_processes_end_in_the_losses_and_weights_of_one(place):
    words = ["--epochs", "2", "--lr", "0.05", "--no-ema"]
    for count in ("1", "2"):
        done = typed(*words, "--processes", count, "--name", count)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"--processes {count}: as asked: " in done.stdout
    one, two = (read_rows(place / f"runs/train-{count}/results.csv") for count in "12")
    for a, b in zip(one, two, strict=True):
        assert b["total"] == pytest.approx(a["total"], rel=1e-3)  # as of torchrun
    assert "2 processes" in read_record(place / "runs/train-2").device
    first, second = (load_checkpoint(f"weights/last_{count}.pt").network.state for count in "12")
    assert float((first["layers.0.conv.weight"] - second["layers.0.conv.weight"]).abs().max()) < 0.02


def test_a_mistake_is_one_line_of_one_process_and_ends_all(place):
    done = typed("--processes", "2", "--weights", "nowhere.pt")
    assert done.returncode == 2 and done.stderr.strip().count("\n") == 0 and "nowhere.pt" in done.stderr


def test_processes_are_chosen_where_a_step_of_a_share_is_faster(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("utils.training.workers.time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def step(slow: float):
        def taken(images: int) -> None:
            clock[0] += 0.004 * images if torch.get_num_threads() == 1 else slow

        return taken

    shared = choose(step(0.05), 8, 2, seconds=0.1)
    assert (shared.processes, shared.threads) == (2, 1)
    assert shared.words == "a step of 8 images takes 50 ms with 2 threads, of 4 with 1 of them 16 ms"
    assert choose(step(0.01), 8, 2, seconds=0.1).processes == 1
    waiting = choose(step(0.05), 8, 2, seconds=0.1, meetings=10)  # 40 ms more
    assert waiting.processes == 1 and waiting.words.endswith("of 4 with 1 of them 56 ms, 10 meetings in it")
    assert choose(step(0.05), 1, 2).processes == 1 and choose(step(0.05), 8, 1).processes == 1


def test_the_first_code_that_is_not_0_is_that_of_all():
    code = "import os, sys, time; time.sleep(0.1); sys.exit(3 if os.environ['RANK'] == '1' else 0)"
    assert run_workers([sys.executable, "-c", code], 2, 1) == 3
    assert run_workers([sys.executable, "-c", "import os; assert os.environ['WORLD_SIZE'] == '2'"], 2, 1) == 0


def test_what_another_process_said_last_is_told_where_it_alone_failed(caplog):
    code = "import os, signal, sys, time; time.sleep(0.3 * (os.environ['RANK'] == '0')); "
    alone = code + "os.environ['RANK'] == '1' and (print('out of cheese', flush=True), os.kill(os.getpid(), 9))"
    assert run_workers([sys.executable, "-c", alone], 2, 1) == 128 + 9
    assert caplog.messages == ["process 1 of 2 ended with code 137; what it said last:\nout of cheese"]
    caplog.clear()
    assert run_workers([sys.executable, "-c", code + "print('a mistake'); sys.exit(2)"], 2, 1) == 2
    assert not caplog.messages


def test_it_is_told_too_where_the_first_one_noticed_before_it_could_speak(caplog):
    code = "import os, sys, time; from utils.training.distributed import BEREFT; first = os.environ['RANK'] == '0'; "
    late = (
        code + "time.sleep(0 if first else 1); print(BEREFT if first else 'out of cheese'); sys.exit(2 if first else 1)"
    )
    assert run_workers([sys.executable, "-c", late], 2, 1) == 2
    assert caplog.messages == ["process 1 of 2 ended with code 1; what it said last:\nout of cheese"]
    caplog.clear()
    bereft = (
        code + "time.sleep(0 if first else 1); print('out of cheese' if first else BEREFT); sys.exit(1 + (not first))"
    )
    assert run_workers([sys.executable, "-c", bereft], 2, 1) == 1
    assert not caplog.messages


def test_a_process_of_a_group_ends_without_pythons_end_but_with_what_was_registered(tmp_path):
    code = "import atexit, sys; from utils.cli import main, OneLineParser; import utils.endings as e\n"
    code += "class Late:\n def __del__(self): print('torn down', flush=True)\n"
    code += "atexit.register(lambda: print('registered')); late = Late()\n"
    code += "main(lambda _: int(sys.argv.pop() == 'x'), type('P', (OneLineParser,), {'parse_args': lambda s: 0})())"
    for group, said in (({"WORLD_SIZE": "2"}, ["registered"]), ({}, ["registered", "torn down"])):
        command = [sys.executable, "-c", code, "x"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment() | group)
        assert (done.returncode, done.stdout.split("\n")[:-1]) == (1, said), done.stderr


def test_it_is_refused_under_torchrun_and_from_python(monkeypatch):
    config = train.parser().parse_args(["--processes", "2"])
    with pytest.raises(InputError, match=r"^--processes: is for train.py's command line"):
        train.run(config)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"^--processes: torchrun starts processes already"):
        train.command(config)


def test_the_flag_is_taken_off_a_command_line_with_its_value():
    words = ["-sr", "--processes", "auto", "--s", "0.1", "--processes=2"]
    assert without(words, "--processes") == ["-sr", "--s", "0.1"]
