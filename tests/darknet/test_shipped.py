from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from models import Darknet, build
from tests.conftest import ROOT
from tests.darknet.opencv import opencv_outputs
from tests.pruning.nets import image, random_network, run
from utils.darknet import spec as s
from utils.darknet.cfg import read_cfg
from utils.darknet.counts import count
from utils.darknet.heads import rehead
from utils.darknet.network import Network
from utils.darknet.weights import read_weights, tensors

NEW = ("yolov2-tiny", "yolov3-mobilenet", "yolov3-tiny-mobilenet-small", "yolov3-ghost", "yolo-fastest")


def shipped(name: str) -> s.ModelSpec:
    return read_cfg(ROOT / "cfg" / f"{name}.cfg")


@pytest.mark.parametrize("path", sorted((ROOT / "cfg").glob("*.cfg")), ids=lambda p: p.stem)
def test_first_line_says_what_the_cfg_is(path):
    first, second = path.read_text().splitlines()[:2]
    assert first.startswith("# ") and len(first) < 130
    assert second == "[net]"


@pytest.mark.parametrize("name", NEW)
def test_every_head_sees_the_image_in_cells(name):
    spec = shipped(name)
    with torch.no_grad():
        raw = Darknet(spec).eval()(torch.rand(1, 3, 64, 96))
    strides = {1: [32], 2: [32, 16], 3: [32, 16, 8]}[len(raw)]
    assert [tuple(x.shape) for x in raw] == [
        (1, spec.layers[i].filters, 64 // stride, 96 // stride) for i, stride in zip(spec.heads, strides, strict=True)
    ]


@pytest.mark.parametrize("name", NEW)
def test_parameters_counted_from_the_cfg_are_those_of_the_module(name):
    with torch.device("meta"):
        model = Darknet(shipped(name))
    assert count(model.spec).params == sum(p.numel() for p in model.parameters())


def test_mobilenets_have_the_published_numbers_of_parameters():
    # of the PyTorch project that first put MobileNetV3 under YOLOv3 heads: one class, and the 80 of COCO
    assert count(rehead(shipped("yolov3-mobilenet"), 1)).params == 23_784_462
    assert count(shipped("yolov3-tiny-mobilenet-small")).params == 3_041_430


def test_yolov2_tiny_with_the_wider_last_layer_of_one_class_has_the_published_number():
    spec = shipped("yolov2-tiny")
    layers = list(spec.layers)
    assert layers[13].filters == 512
    layers[13] = replace(layers[13], filters=1024)
    assert count(rehead(replace(spec, layers=tuple(layers)), 1)).params == 15_764_398


def test_yolov2_tiny_is_as_long_as_darknets_file():
    assert floats(shipped("yolov2-tiny")) == (44_948_600 - 20) / 4


def test_yolov2_with_its_passthrough_is_as_long_as_darknets_file():
    assert floats(yolov2()) == (203_934_260 - 16) / 4  # an older header


def yolov2() -> s.ModelSpec:
    """Darknet-19, and the last fine map past the coarse ones by a reorg (arXiv 1612.08242, section 2)."""
    layers: list[s.Layer] = []

    def add(kind: type[s.Layer], **fields: object) -> int:
        layers.append(kind(**{"sources": (len(layers) - 1,), **fields}))
        return len(layers) - 1

    def conv(filters: int, size: int) -> int:
        return add(s.Conv, filters=filters, size=size, pad=size // 2, bn=True, activation="leaky")

    fine = -1
    for filters, pairs in ((32, 0), (64, 0), (128, 1), (256, 1), (512, 2), (1024, 2)):
        if layers:
            add(s.MaxPool)
        last = conv(filters, 3)
        for _ in range(pairs):
            conv(filters // 2, 1)
            last = conv(filters, 3)
        fine = last if filters == 512 else fine
    conv(1024, 3)
    coarse = conv(1024, 3)
    add(s.Route, sources=(fine,))
    conv(64, 1)
    add(s.Route, sources=(add(s.Reorg), coarse))
    conv(1024, 3)
    add(s.Conv, filters=425)
    add(s.Region, anchors=((1.0, 1.0),) * 5, classes=80, softmax=True)
    return s.ModelSpec(layers=tuple(layers))


def floats(spec: s.ModelSpec) -> int:
    """Numbers in the spec's .weights file."""
    return sum(math.prod(shape) for _, _, shape in tensors(spec))


@pytest.mark.parametrize(("name", "size"), [("yolov2-tiny", 64), ("yolo-fastest", 96)])
def test_network_equals_opencvs(name, size, tmp_path):
    net = random_network(shipped(name))
    x = image(net, 1, size)
    names = [f"conv_{net.spec.layers[i].sources[0]}" for i in net.spec.heads]
    for ours, theirs in zip(run(net, x), opencv_outputs(net, x, tmp_path, names), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))


def test_yolo_fastest_takes_the_published_weights(shared_data):
    folder = shared_data / "darknet" / "yolo-fastest-1.1"
    weights, published = next(folder.glob("*.weights")), read_cfg(next(folder.glob("*.cfg")))
    x = torch.rand(1, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = (
            build(Network(spec, read_weights(weights, spec).state))(x) for spec in (shipped("yolo-fastest"), published)
        )
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    heads = [[spec.layers[i].own_anchors for i in spec.heads] for spec in (shipped("yolo-fastest"), published)]
    assert heads[0] == heads[1]


def test_ghost_modules_are_a_convolution_beside_its_depthwise_copy():
    layers = shipped("yolov3-ghost").layers
    pairs = [
        layer.sources
        for layer in layers[:-30]
        if isinstance(layer, s.Route) and len(layer.sources) == 2 and layer.sources[1] == layer.sources[0] + 1
    ]
    assert len(pairs) == 2 * 16  # the paper's sixteen bottlenecks
    for plain, copy in pairs:
        primary, cheap = layers[plain], layers[copy]
        assert isinstance(primary, s.Conv) and isinstance(cheap, s.Conv)
        assert cheap.groups == cheap.filters == primary.filters
        assert cheap.sources == (plain,)
