"""The two detectors that Fast-SNN converts: strides in place of pools, a passthrough, integers and spikes alike."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from models import build
from tests.conftest import ROOT
from tests.pruning.nets import random_network
from utils.darknet import spec as s
from utils.darknet.cfg import parse_cfg, read_cfg, write_cfg
from utils.darknet.counts import count
from utils.darknet.heads import head_convolutions
from utils.quantization.calibrate import calibrate
from utils.quantization.executor import IntegerExecutor
from utils.quantization.lower import lower
from utils.quantization.scheme import Scheme
from utils.spiking.layerwise import LayerwiseExecutor
from utils.spiking.spike_schedule import encode
from utils.spiking.stream import StreamExecutor

CONV = {3: lambda i, o: 9 * i * o + 2 * o, 1: lambda i, o: i * o + 2 * o}  # weights and batch norm of a convolution


def shipped(name: str) -> s.ModelSpec:
    return read_cfg(ROOT / f"cfg/{name}.cfg")


def narrow(spec: s.ModelSpec, share: int) -> s.ModelSpec:
    """Of every width but the heads' a share: what is tested is the structure."""
    heads = set(head_convolutions(spec).values())
    layers = [
        replace(layer, filters=max(4, layer.filters // share))
        if isinstance(layer, s.Conv) and i not in heads
        else layer
        for i, layer in enumerate(spec.layers)
    ]
    return parse_cfg(write_cfg(replace(spec, layers=tuple(layers))))


def test_parameters_are_those_of_the_published_structures():
    widths = (3, 16, 32, 64, 128, 256, 512, 1024, 1024)
    tiny = sum(CONV[3](i, o) for i, o in pairwise(widths)) + 1024 * 125 + 125
    assert count(shipped("yolov2-tiny-s2")).params == tiny
    trunk = 21_797_672 - (512 * 1000 + 1000)  # torchvision's ResNet-34 without its last layer
    heads = CONV[1](512, 1024) + 2 * CONV[3](1024, 1024) + CONV[1](256, 128) + CONV[3](1024 + 4 * 128, 1024)
    assert count(shipped("yolov2-resnet34")).params == trunk + heads + 1024 * 125 + 125


@pytest.mark.parametrize("name", ["yolov2-tiny-s2", "yolov2-resnet34"])
def test_there_is_no_pool_and_the_head_sees_cells_of_32_px(name):
    spec = shipped(name)
    assert not any(isinstance(layer, s.MaxPool) for layer in spec.layers)
    given = random_network(narrow(spec, 16))
    (raw,) = build(given)(torch.rand(1, 3, 64, 96))
    assert raw.shape == (1, 125, 2, 3)


@pytest.mark.parametrize("name", ["yolov2-tiny-s2", "yolov2-resnet34"])
def test_spikes_equal_integers_layerwise_and_in_a_settled_stream(name):
    given, x = random_network(narrow(shipped(name), 32)), (torch.rand(1, 3, 64, 64) * 255).round() / 255
    integer = lower(calibrate(given, [x], Scheme(w_bit=4, a_bit=2)))
    (wanted,) = IntegerExecutor(integer)(x)
    snn = encode(integer)
    assert torch.equal(LayerwiseExecutor(snn)(x)[0], wanted)
    assert torch.equal(StreamExecutor(snn)(x)[0], wanted) and wanted.abs().max() > 0
