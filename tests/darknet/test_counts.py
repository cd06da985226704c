"""Counts from the structure are those of torch's modules."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from models import Darknet
from utils.darknet.cfg import parse_cfg, read_cfg
from utils.darknet.counts import count
from utils.errors import InputError

CFGS = Path(__file__).parents[2] / "cfg"

MIXED = """
[net]
width=64
height=96
[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=relu
[convolutional]
filters=16
groups=4
size=3
pad=1
activation=linear
[se]
filters=16
reduction=4
[maxpool]
size=2
stride=2
[convolutional]
batch_normalize=1
filters=6
size=1
activation=leaky
[upsample]
stride=2
[route]
layers=-1,2
[convolutional]
filters=7
size=5
pad=1
stride=1
activation=linear
"""


def flops(model: Darknet, height: int, width: int) -> int:
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.eval().activations(torch.zeros(1, 3, height, width))
    return counter.get_total_flops()


@pytest.mark.parametrize("name", ["yolov3-tiny", "yolov4-tiny", "yolov3-tiny-digits"])
def test_counts_of_shipped_cfgs_are_torchs(name):
    spec = read_cfg(CFGS / f"{name}.cfg")
    model = Darknet(spec)
    counted = count(spec, (96, 160))
    assert counted.params == sum(parameter.numel() for parameter in model.parameters())
    assert 2 * counted.macs == flops(model, 96, 160)


def test_counts_of_groups_squeeze_and_odd_sizes_are_torchs():
    spec = parse_cfg(MIXED)
    model = Darknet(spec)
    counted = count(spec)
    assert counted.size == (96, 64)
    assert counted.params == sum(parameter.numel() for parameter in model.parameters())
    assert 2 * counted.macs == flops(model, 96, 64)


def test_activations_are_the_elements_of_every_layer():
    spec = parse_cfg(MIXED)
    outputs = Darknet(spec).eval().activations(torch.zeros(1, 3, 96, 64))
    for layer in count(spec).layers:
        assert layer.activations == outputs[layer.layer].numel()
        assert (layer.channels, *layer.size) == tuple(outputs[layer.layer].shape[1:])


def test_published_parameter_counts():
    published = {"yolov3": 61_949_149, "yolov3-spp": 62_998_749, "yolov3-tiny": 8_852_366, "yolov4-tiny": 6_056_606}
    for name, expected in published.items():
        assert count(read_cfg(CFGS / f"{name}.cfg")).params == expected, name


def test_size_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match="img-size"):
        count(read_cfg(CFGS / "yolov3.cfg"), (100, 100))
