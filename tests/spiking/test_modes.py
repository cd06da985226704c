"""A ``.snn.pt`` remembers its mode, and runs in it after reloading."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.quantization.random_nets import cfg_text, random_images, random_network
from tests.spiking.test_equality import CONV, spiking
from utils.darknet.network import load_checkpoint
from utils.errors import InputError
from utils.quantization.executor import IntegerExecutor
from utils.spiking.layerwise import LayerwiseExecutor
from utils.spiking.observe import observe
from utils.spiking.rate import normalise
from utils.spiking.rate_executor import RateExecutor
from utils.spiking.snn_checkpoint import ExecutionMode, executor_of, open_spiking, save_integers, save_rate
from utils.spiking.stream import StreamExecutor
from utils.spiking.synops import cost_of, measure, work_of

CHAIN = cfg_text(*[("convolutional", CONV)] * 3)
RUNS = [
    ExecutionMode(),
    ExecutionMode("stream"),
    ExecutionMode("stream", 5, "signed", "preload"),
    ExecutionMode("stream", 9),
]


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_a_file_is_run_in_the_mode_it_was_made_in(tmp_path, run):
    network, x = spiking(CHAIN), random_images(2)
    words = {"names": ("cat",), "meta": {"size": [16, 16]}}
    checkpoint = load_checkpoint(save_integers(tmp_path / "net.snn.pt", network.integer, "spiking", run=run, **words))
    executor, integer = open_spiking(checkpoint)
    assert integer is not None and checkpoint.meta["size"] == [16, 16]
    assert torch.equal(executor(x)[0], executor_of(network, run)(x)[0])
    exact = run.mode == "layerwise" or run.timesteps is None
    assert torch.equal(executor(x)[0], IntegerExecutor(network.integer)(x)[0]) == exact
    if isinstance(executor, StreamExecutor):
        assert (executor.steps, executor.rule, executor.schedule) == (run.timesteps, run.rule, run.schedule)


def test_a_file_without_a_mode_is_layerwise(tmp_path):
    checkpoint = load_checkpoint(save_integers(tmp_path / "net.snn.pt", spiking(CHAIN).integer, "spiking"))
    assert isinstance(open_spiking(checkpoint)[0], LayerwiseExecutor)


def test_a_newer_mode_is_refused(tmp_path):
    run = ExecutionMode("telepathy")
    checkpoint = load_checkpoint(save_integers(tmp_path / "net.snn.pt", spiking(CHAIN).integer, "spiking", run=run))
    with pytest.raises(InputError, match="mode 'telepathy' of a spiking network is unknown"):
        open_spiking(checkpoint)


def test_a_rate_network_is_the_same_after_reloading(tmp_path):
    x = random_images(2)
    made = normalise(random_network(CHAIN), [x], timesteps=12, channel_wise=True, reset="zero")
    executor, integer = open_spiking(load_checkpoint(save_rate(tmp_path / "net.snn.pt", made)))
    assert integer is None and isinstance(executor, RateExecutor) and executor.rate.reset == "zero"
    assert torch.equal(executor(x)[0], RateExecutor(made)(x)[0])


def test_costs_of_a_stream_follow_from_its_activity():
    """Each spike reaches its true fan-out, whatever step it fires in: no step is free and none counts twice."""
    network, x = spiking(CHAIN), random_images(2)
    seen = observe(StreamExecutor(network), x)
    counts = {i: a[None] for i, a in seen.activity.items()} | {-1: torch.zeros(1, 3, 16, 16)}
    cost = cost_of(network.spec, work_of(network.integer), [(2, counts)], state_bytes=1, weight_bytes=1)
    assert cost.spikes == pytest.approx(sum(float(a.sum()) for a in seen.activity.values()) / 2)
    phase = measure(LayerwiseExecutor(network), [x])
    assert cost.macs == phase.macs and cost.input_macs == phase.input_macs and cost.sops > phase.sops
    silent = {i: torch.zeros_like(a) for i, a in counts.items()}
    halves = [(1, counts), (1, silent)]
    assert cost_of(network.spec, work_of(network.integer), halves, state_bytes=1, weight_bytes=1) == replace(cost)
