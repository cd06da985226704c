"""kill -9 at any step: what goes on from there ends in the very weights, and the very numbers, of an unbroken run."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import torch

from tests.scenes import write_scenes
from tests.training.test_train_script import cfg
from utils.darknet.network import load_checkpoint
from utils.reporting.results import read_rows

ROOT = Path(__file__).parents[2]
EPOCHS, BATCHES = 4, 4  # of 16 images, 4 a batch
WORDS = ["--data", "set.data", "--cfg", "net.cfg", "--device", "cpu", "--workers", "1", "--batch-size", "4"]
WORDS += ["--precision", "fp32", "--epochs", str(EPOCHS), "--val-interval", "2", "-sr", "--s", "0.01", "--multi-scale"]
# Torch is loaded once; every sitting is a process forked from it, and what is killed is a whole process.
SITTINGS = """
import json, os, signal, sys
import torch
torch.set_num_threads(1)
import pipeline.train
import train
from pipeline import epoch_report
from utils.detection.task import DetectionTask
from utils.darknet import network
from utils.training.ema import Ema

for name in ("plot_results", "plot_gammas"):
    setattr(epoch_report, name, lambda *words, **options: None)
pipeline.train.tell_push = lambda run: None  # its probe takes steps too, and those of the run are counted
for name in ("training_picture", "validation_picture"):
    setattr(DetectionTask, name, lambda *words, **options: None)


def dies(place, name, count):
    before, calls = getattr(place, name), []

    def counted(*words, **options):
        calls.append(1)
        if len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return before(*words, **options)

    setattr(place, name, counted)


PLACES = {"step": (torch.optim.SGD, "step"), "average": (Ema, "update"), "backward": (torch.Tensor, "backward"),
          "save": (torch, "save")}
for words, cut in json.loads(sys.argv[1]):
    child = os.fork()
    if child == 0:
        if cut:
            dies(*PLACES[cut[0]], cut[1])
        train.run(train.parser().parse_args(words))
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == (-signal.SIGKILL if cut else 0), (words, cut, code)
"""


def moments(seed: int) -> list[tuple[str, int]]:
    """After the first epoch: in the middle of an epoch, of an optimizer step, and of writing a checkpoint."""
    draw = random.Random(seed)
    late = [draw.randrange(BATCHES + 1, EPOCHS * BATCHES + 1) for _ in range(3)]
    return [*zip(("backward", "step", "average"), late, strict=True), ("save", draw.randrange(3, 2 + EPOCHS))]


def test_killed_at_a_drawn_step_a_run_ends_in_the_weights_of_the_unbroken_one(tmp_path):
    write_scenes(tmp_path, train=16, valid=4, shape=(40, 80), cfg=cfg())
    cuts = moments(6)
    sittings: list[tuple[list[str], tuple[str, int] | None]] = [([*WORDS, "--name", "whole"], None)]
    for place, count in cuts:
        sittings.append(([*WORDS, "--name", place], (place, count)))
        sittings.append((["--workers", "1", "--device", "cpu", "--resume", f"weights/last_{place}.pt"], None))
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SITTINGS, json.dumps(sittings)]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    whole = load_checkpoint(tmp_path / "weights/last_whole.pt").network.state
    clock = {"images_per_second", "wait_share", "seconds"}
    rows = {
        name: [{k: v for k, v in row.items() if k not in clock} for row in read_rows(path / "results.csv")]
        for name, path in ((name, tmp_path / f"runs/train-{name}") for name in ("whole", *(cut[0] for cut in cuts)))
    }
    for place, count in cuts:
        state = load_checkpoint(tmp_path / f"weights/last_{place}.pt").network.state
        assert all(torch.equal(state[name], whole[name]) for name in whole), (place, count)
        assert rows[place] == rows["whole"], (place, count)
