from __future__ import annotations

import math

import pytest
import torch

from models import build
from tests.darknet.opencv import opencv_outputs
from tests.pruning.nets import random_network
from utils.darknet import spec as s
from utils.darknet.cfg import parse_cfg, write_cfg
from utils.darknet.heads import head_convolutions, rehead
from utils.detection.decode import decode
from utils.errors import InputError

HEAD = "[net]\nwidth=32\nheight=32\n[convolutional]\nfilters=14\nsize=1\nactivation=linear\n[region]\n"
KEYS = "anchors=1,2, 3.5,4\nclasses=2\nnum=2\n"
REST = """coords=4
softmax=1
bias_match=1
jitter=.2
rescore=0
object_scale=5
noobject_scale=1
class_scale=1
coord_scale=1
absolute=1
thresh=.6
random=1
"""


def test_a_region_survives_writing_and_reading():
    spec = parse_cfg(HEAD + KEYS + REST)
    region = spec.layers[1]
    assert isinstance(region, s.Region) and region.softmax and region.own_anchors == ((1, 2), (3.5, 4))
    assert dict(region.options)["object_scale"] == "5"
    assert parse_cfg(write_cfg(spec)) == spec
    assert spec.heads == (1,) and head_convolutions(spec) == {1: 0}


def test_a_region_without_softmax_is_darknets_default():
    assert not parse_cfg(HEAD + KEYS).layers[1].softmax


def test_a_region_takes_another_number_of_classes_and_keeps_its_reach():
    spec = rehead(parse_cfg(HEAD + KEYS), 7, scale_x_y=2.0)
    conv, region = spec.layers
    assert (conv.filters, region.classes, region.reach) == (24, 7, 0.0)


REFUSED = [
    (KEYS + "coords=5\n", r"line 8: coords=5 is not supported"),
    (KEYS.replace("num=2", "num=3"), r"line 8: \[region\] reads 14 .* needs 21 = 3 anchors x"),  # as Darknet counts
    (KEYS.replace("3.5,4", "3.5"), r"line 8: anchors= lists 3 numbers; each anchor is a width and a height"),
    (KEYS.replace("classes=2", "classes=4"), r"\[region\] reads 14 .* needs 18 = 2 anchors x .* set filters=18"),
    (KEYS + "tree=data/9k.tree\n", r"line 8: tree=data/9k.tree is neither in this folder, beside the cfg, nor"),
    (KEYS + "mask=0\n", r"line 12: unknown key 'mask' in \[region\]"),
    ("classes=2\n", r"line 8: \[region\] needs anchors="),
]


@pytest.mark.parametrize(("keys", "message"), REFUSED, ids=[m[:30] for _, m in REFUSED])
def test_a_region_that_cannot_be_names_its_line(keys, message):
    with pytest.raises(InputError, match=message):
        parse_cfg(HEAD + keys)


@pytest.mark.parametrize("size", [(64, 64), (32, 96)])
def test_decoded_region_equals_opencvs(size, tmp_path):
    net = random_network("passthrough")
    key = "layers.11.conv.weight"
    net.state[key] = net.state[key] * 6  # scores of all sizes
    region = net.spec.layers[-1]
    x = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        raw = build(net)(x)
    head, theirs = opencv_outputs(net, x, tmp_path, ["conv_11", "detection_out"])
    torch.testing.assert_close(raw[0], head, rtol=1e-4, atol=1e-5)
    ours = decode(raw, [region], size)[0]
    cells, anchors = head[0, 0].numel(), len(region.anchors)
    # OpenCV lists cell by cell, then anchor; we anchor by anchor, then cell
    theirs = theirs.view(cells, anchors, -1).transpose(0, 1).reshape(cells * anchors, -1)
    scale = torch.tensor([size[1], size[0], size[1], size[0]])
    torch.testing.assert_close(ours[:, :4], theirs[:, :4] * scale, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(ours[:, 4], theirs[:, 4], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours[:, 5:].sum(1), torch.ones(len(ours)))
    scores, known = ours[:, 4:5] * ours[:, 5:], theirs[:, 5:] > 0
    assert known.float().mean() > 0.2
    torch.testing.assert_close(scores[known], theirs[:, 5:][known], rtol=1e-4, atol=1e-5)


def region_loop(raw: torch.Tensor, region: s.Region, size: tuple[int, int]) -> torch.Tensor:
    """region_layer.c, one number at a time; anchor by anchor, then row by row."""
    _, _, rows, columns = raw.shape
    found = []
    for a, (aw, ah) in enumerate(region.anchors):
        for y in range(rows):
            for x in range(columns):
                t = raw[0, a * (5 + region.classes) : (a + 1) * (5 + region.classes), y, x].tolist()
                logistic = [1 / (1 + math.exp(-v)) for v in t]
                box = [(x + logistic[0]) / columns, (y + logistic[1]) / rows]
                box += [math.exp(t[2]) * aw / columns, math.exp(t[3]) * ah / rows]
                total = sum(math.exp(v) for v in t[5:])
                classes = [math.exp(v) / total for v in t[5:]] if region.softmax else logistic[5:]
                box = [v * side for v, side in zip(box, (size[1], size[0]) * 2, strict=True)]
                found.append([*box, logistic[4], *classes])
    return torch.tensor(found)


@pytest.mark.parametrize("softmax", [True, False])
def test_decode_equals_darknets_formulas_number_by_number(softmax):
    region = s.Region(sources=(0,), anchors=((0.7, 1.3), (2.5, 3.1), (4.0, 0.5)), classes=4, softmax=softmax)
    raw = torch.randn(1, 27, 2, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(decode([raw], [region], (64, 96))[0], region_loop(raw, region, (64, 96)))
