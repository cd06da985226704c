from __future__ import annotations

import csv

import numpy as np
import torch

from tests.quantization.random_nets import cfg_text, random_images
from tests.spiking.test_equality import CONV, spiking
from utils.quantization.executor import IntegerExecutor
from utils.spiking.aer import counts_of, events_of, image_events, output_events, shape_of, write_events
from utils.spiking.stepwise import StepwiseExecutor

LEAKY = cfg_text(*[("convolutional", CONV | {"activation": "leaky"})] * 2)


def test_events_of_an_image_add_up_to_its_pixels():
    x = random_images(1)[0]
    events = image_events(x)
    assert np.array_equal(counts_of(events, (3, 16, 16)), (x * 255).round().int().numpy())
    assert (np.diff(events["t"].astype(int)) >= 0).all() and events["t"].max() < 255
    rows = set(zip(*(events[name].tolist() for name in ("t", "x", "y", "c")), strict=True))
    assert len(rows) == len(events), "a neuron fires once a step"


def test_events_of_the_output_add_up_to_its_levels_signs_and_all():
    network, x = spiking(LEAKY), random_images(1)
    events = output_events(network, x[0])
    assert list(events) == [1]
    levels = IntegerExecutor(network.integer).levels(x)[1][0].numpy()
    assert np.array_equal(counts_of(events[1], shape_of(network, 1, 16, 16)), levels)
    assert set(np.unique(events[1]["sign"])) == {-1, 1}
    first = network.start[1] * network.window
    assert first <= events[1]["t"].min() and events[1]["t"].max() < first + network.window


def test_events_are_the_train():
    network, x = spiking(LEAKY), random_images(1)
    train = StepwiseExecutor(network).simulate(x).trains[0][:, 0]
    again = torch.zeros_like(train)
    for t, px, py, c, sign in events_of(train).tolist():
        again[t, c, py, px] = sign
    assert torch.equal(again, train)


def test_files_hold_the_events(tmp_path):
    events = output_events(spiking(LEAKY), random_images(1)[0])[1]
    assert np.array_equal(np.load(write_events(tmp_path / "out.npy", events)), events)
    with write_events(tmp_path / "out.csv", events).open() as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["t", "x", "y", "c", "sign"]
    assert [tuple(map(int, row)) for row in rows[1:]] == events.tolist()
