"""Shortcuts of maps of other widths and sides, as Darknet's shortcut_cpu defines them."""

from __future__ import annotations

import cv2  # noqa: F401  # the second opinion below
import numpy as np
import pytest
import torch

from models import Darknet, build
from tests.conftest import ROOT
from tests.darknet.opencv import opencv_outputs
from tests.pruning.nets import random_network
from utils.darknet import spec as s
from utils.darknet.cfg import parse_cfg, read_cfg, write_cfg
from utils.darknet.channel_groups import trace
from utils.darknet.expand import expand
from utils.darknet.shapes import sizes, uneven_sums
from utils.errors import InputError

UNEVEN = ROOT / "tests" / "cfgs" / "uneven.cfg"
CONV = "[convolutional]\nbatch_normalize=1\nfilters={}\nsize=3\nstride={}\npad=1\nactivation=relu\n"


def added(out: np.ndarray, add: np.ndarray) -> np.ndarray:
    """The loop of the definition: the first min(c) channels of ``add``, with steps by the ratio of the sides."""
    stride, sample = max(1, add.shape[2] // out.shape[2]), max(1, out.shape[2] // add.shape[2])
    found = out.copy()
    for k in range(min(out.shape[0], add.shape[0])):
        for y in range(min(out.shape[1], add.shape[1])):
            for x in range(min(out.shape[2], add.shape[2])):
                found[k, y * sample, x * sample] += add[k, y * stride, x * stride]
    return found


@pytest.mark.parametrize(
    ("filters", "strides"), [((4, 7), (1, 1)), ((7, 4), (1, 1)), ((4, 6), (1, 3)), ((5, 5), (1, 2))]
)
def test_a_sum_adds_what_the_definition_adds(filters, strides):
    front = CONV.format(filters[0], strides[0]) + "[route]\nlayers=0\n" + CONV.format(filters[1], strides[1])
    spec = parse_cfg(
        "[net]\nwidth=12\nheight=12\n" + front + "[shortcut]\nfrom=0\n[route]\nlayers=0\n[shortcut]\nfrom=2\n"
    )
    out = Darknet(spec).eval().activations(torch.rand(1, 3, 12, 12))
    maps = {i: value[0].detach().numpy() for i, value in out.items()}
    np.testing.assert_allclose(maps[3], added(maps[2], maps[0]), rtol=1e-6)
    np.testing.assert_allclose(maps[5], added(maps[0], maps[2]), rtol=1e-6)
    assert {i: value.shape[1:] for i, value in maps.items()} == sizes(spec, 12, 12)


def test_the_written_out_network_computes_the_same():
    net = random_network(UNEVEN)
    x = torch.rand(2, 3, 64, 64)
    plain, number = expand(net)
    assert uneven_sums(net.spec).keys() == {2, 4, 8, 12} and not uneven_sums(plain.spec)
    whole, parts = build(net).activations(x), build(plain).activations(x)
    for i, value in whole.items():
        torch.testing.assert_close(parts[number[i]], value)
    assert parse_cfg(write_cfg(plain.spec)) == plain.spec
    assert sum(isinstance(layer, s.Fitted) for layer in plain.spec.layers) == 5


def test_opencv_adds_maps_of_other_widths_alike(tmp_path):
    text = (
        "[net]\nwidth=32\nheight=32\nchannels=3\n"
        + CONV.format(8, 1)
        + CONV.format(5, 1)
        + "[shortcut]\nfrom=-2\nactivation=linear\n"
    )
    text += CONV.format(9, 1) + "[shortcut]\nfrom=-2\nactivation=linear\n" + CONV.format(4, 1)
    net = random_network(parse_cfg(text))
    x = torch.rand(1, 3, 32, 32)
    ours = build(net).activations(x)
    found = opencv_outputs(net, x, tmp_path, ["shortcut_2", "shortcut_4"])
    for i, theirs in zip((2, 4), found, strict=True):
        torch.testing.assert_close(theirs, ours[i].detach(), rtol=1e-4, atol=1e-4)


def test_channels_that_both_have_are_one_wire_and_the_others_go_alone():
    wires = trace(read_cfg(UNEVEN))
    narrow, wide = wires.outputs[0], wires.outputs[1]
    assert torch.equal(wide[:8], narrow)
    assert not set(wide[8:].tolist()) & set(narrow.tolist())
    assert not wires.locked[wide[8:]].any()


def test_maps_of_no_whole_ratio_are_refused_with_the_size_that_helps():
    spec = parse_cfg("[net]\nwidth=9\nheight=9\n" + CONV.format(4, 1) + CONV.format(4, 2) + "[shortcut]\nfrom=0\n")
    with pytest.raises(InputError, match=r"joins maps of 5x5 and 9x9 px .*--img-size a multiple of 2"):
        sizes(spec, 9, 9)


def test_a_mean_that_is_enlarged_to_one_size_of_images_is_refused_at_others_with_what_helps():
    pyramid = CONV.format(4, 2) + "[avgpool]\n[upsample]\nstride=8\n[route]\nlayers=0,-1\n"
    spec = parse_cfg("[net]\nwidth=16\nheight=16\n" + pyramid)
    assert sizes(spec, 16, 16)[3] == (8, 8)
    with pytest.raises(
        InputError, match=r"joins maps of 4x4 and 8x8 px .*use the cfg's 16x16, or set the stride of the"
    ):
        sizes(spec, 8, 8)
    with pytest.raises(InputError, match=r"joins maps of 9x9 and 8x8 px .*correct the strides of what it joins$"):
        sizes(parse_cfg("[net]\nwidth=18\nheight=18\n" + pyramid), 18, 18)


def test_sums_of_other_shapes_are_told_when_a_cfg_is_read(tmp_path, caplog):
    caplog.set_level("INFO")
    path = tmp_path / "uneven.cfg"
    path.write_text(UNEVEN.read_text())
    read_cfg(path)
    assert "uneven.cfg line 25: a shortcut of maps of other shapes (12 and 8 channels; 4 in all) adds" in caplog.text
