"""bf16 where a measurement finds it faster; the choice is told, and a run that is resumed keeps it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import pipeline.images
import pipeline.train
import train
import utils.training.device
from tests.scenes import undrawn_runs, write_scenes
from utils.darknet.network import load_checkpoint
from utils.training.device import Chosen, faster_precision, select_precision

FLAGS = ["--cfg", "net.cfg", "--data", "set.data", "--device", "cpu", "--workers", "0", "--epochs", "2", "--name", "w"]
FLAGS += ["--batch-size", "2"]


@pytest.mark.parametrize(("bf16", "taken"), [(0.010, "bf16"), (0.018, "fp32"), (0.040, "fp32")])
def test_bf16_is_taken_where_it_brings_a_sixth(monkeypatch, bf16, taken):
    """fp32 takes 20 ms; of both the first step is a slow one."""
    clock, seen = [0.0], []
    monkeypatch.setattr(utils.training.device, "time", SimpleNamespace(perf_counter=lambda: clock[0]))

    def step(precision):
        seen.append(precision.dtype)
        clock[0] += (0.020 if precision.dtype is None else bf16) + (1.0 if len(seen) <= 2 else 0.0)

    chosen = faster_precision(step, seconds=2.5)
    assert chosen.name == taken and chosen.words == f"fp32 20 ms, bf16 {1000 * bf16:.3g} ms"
    assert seen[::2] == [None] * (len(seen) // 2) and set(seen[1::2]) == {torch.bfloat16}, "in turns"
    assert 2.5 <= clock[0] < 2.6


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Trains there on a processor that multiplies bf16, where it is always faster; names what was measured."""
    write_scenes(tmp_path, train=4, valid=2)
    monkeypatch.chdir(tmp_path)
    undrawn_runs(monkeypatch)
    monkeypatch.setattr(utils.training.device, "cpu_multiplies_bf16", lambda: True)
    measured = []

    def faster(step):
        before = torch.get_rng_state()
        step(select_precision(torch.device("cpu"), "bf16"))
        measured.append(torch.equal(torch.get_rng_state(), before))
        return Chosen("bf16", "fp32 20 ms, bf16 10 ms")

    monkeypatch.setattr(pipeline.images, "faster_precision", faster)

    def go(*words: str):
        return train.run(train.parser().parse_args([*words])), measured

    return go


def test_what_was_chosen_is_told_and_is_the_runs(run, caplog):
    caplog.set_level("INFO")
    record, measured = run(*FLAGS)
    assert "--precision auto: fp32 20 ms, bf16 10 ms a step of a batch of 2: bf16" in caplog.text
    assert record.args["precision"] == "bf16" and record.device == "cpu bfloat16" and measured == [True]
    said, _ = run(*FLAGS, "--precision", "bf16")
    one, two = (load_checkpoint(each.paths()[0]).network.state for each in (record, said))
    assert all(torch.equal(one[name], two[name]) for name in one), "the measurement leaves no trace"


def test_a_resumed_run_goes_on_in_its_precision_without_a_measurement(run, monkeypatch):
    whole, measured = run(*FLAGS)
    one_epoch = pipeline.train.one_epoch

    def first(started, epoch):
        if epoch:
            raise KeyboardInterrupt
        one_epoch(started, epoch)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pipeline.train, "one_epoch", first)
        run(*FLAGS)
    monkeypatch.setattr(utils.training.device, "cpu_multiplies_bf16", lambda: False)
    before = len(measured)
    again, measured = run("--resume", "weights/last_w-2.pt", "--workers", "0", "--device", "cpu")
    assert again.device == "cpu bfloat16" and len(measured) == before
    one, two = (load_checkpoint(Path(f"weights/last_w{n}.pt")).network.state for n in ("", "-2"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert whole.device == again.device


def test_a_precision_that_is_said_is_not_measured(run):
    record, measured = run(*FLAGS, "--precision", "fp32", "--epochs", "1")
    assert record.device == "cpu float32" and not measured
