"""Rows of docs/darknet-differences.md that no other test holds; and that each row names a test which is there."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from tests.conftest import ROOT
from tests.scenes import CFG
from utils.darknet.activations import ACTIVATIONS
from utils.darknet.cfg import parse_cfg, read_cfg, write_cfg
from utils.darknet.forward import without_tensors
from utils.darknet.spec import MaxPool
from utils.detection.nms import suppression_of
from utils.errors import InputError

PAGE = ROOT / "docs/darknet-differences.md"
TOPICS = "fitting letterbox filter JPEG batch leaky scale_x_y new_coords default greedynms diounms maxpool odd AP shortcut reorg".split()


def test_each_row_names_a_test_that_is_there():
    table = PAGE.read_text().split("\n\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert len(rows) >= 15 and [word for word in TOPICS if not any(word in row for row in rows)] == []
    for row in rows:
        (path, name), *more = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row)
        assert not more and f"def {name}(" in (ROOT / path).read_text(), row


def test_leaky_falls_by_a_tenth():
    x = torch.tensor([-3.0, -1.0, 0.0, 2.0])
    torch.testing.assert_close(ACTIVATIONS["leaky"](x), torch.tensor([-0.3, -0.1, 0.0, 2.0]))
    torch.testing.assert_close(ACTIVATIONS["leaky_pow2"](x)[:2], torch.tensor([-0.375, -0.125]))


def test_the_last_head_says_how_boxes_are_suppressed():
    parts = CFG.split("[yolo]\n")
    for first, last, power in (("greedynms", "default", None), ("default", "greedynms", 0.6)):
        text = f"{parts[0]}[yolo]\nnms_kind={first}\n{parts[1]}[yolo]\nnms_kind={last}\n{parts[2]}"
        spec = parse_cfg(text)
        assert suppression_of([spec.layers[i] for i in spec.heads]).power == power


def test_a_space_between_anchors_parts_them_and_is_told(tmp_path, caplog):
    path = tmp_path / "net.cfg"
    path.write_text(CFG.replace("anchors=", "anchors=61,45    61,45, ", 1))
    caplog.set_level("INFO")
    spec = read_cfg(path)
    assert spec.layers[spec.heads[0]].anchors == ((61, 45), (61, 45))
    assert "anchors= has no comma in '45    61'; it is read as 2 numbers" in caplog.text
    with pytest.raises(InputError, match="must be one whole number"):
        parse_cfg("[net]\n[convolutional]\nfilters=2 55\n")


def test_a_mask_beyond_the_count_of_anchors_picks_those_that_are_listed(tmp_path, caplog):
    head = "[net]\n[convolutional]\nfilters=12\n[yolo]\nmask=1,2\nanchors=1,2, 3,4, 5,6\nclasses=1\nnum=2\n"
    path = tmp_path / "net.cfg"
    path.write_text(head)
    caplog.set_level("INFO")
    spec = read_cfg(path)
    assert spec.layers[1].own_anchors == ((3, 4), (5, 6))
    assert "mask= picks anchors that num=2 does not count; they are as listed" in caplog.text
    assert parse_cfg(write_cfg(spec)) == spec
    with pytest.raises(InputError, match="mask=1,3 picks from 2 anchors"):
        parse_cfg(head.replace("mask=1,2", "mask=1,3"))


def test_dropout_drops_a_fifth_unless_it_says_otherwise():
    spec = parse_cfg("[net]\n[dropout]\n[dropout]\nprobability=.5\n")
    assert [getattr(layer, "probability", None) for layer in spec.layers] == [0.2, 0.5]


def test_an_image_that_net_says_nothing_of_is_416_px_in_colour():
    spec = parse_cfg("[net]\n[dropout]\n")
    assert (spec.height, spec.width, spec.channels) == (416, 416, 3)


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("pad", [None, 0, 1, 2])
def test_pools_pad_as_darknets_loop(size, stride, pad):
    """forward_maxpool_layer in words: a window begins pad // 2 before, and what lies outside never wins."""
    padding = "" if pad is None else f"padding={pad}\n"
    spec = parse_cfg(f"[net]\nchannels=2\n[maxpool]\nsize={size}\nstride={stride}\n{padding}")
    layer = spec.layers[0]
    assert isinstance(layer, MaxPool)
    whole = size - 1 if pad is None else pad
    x = torch.from_numpy(np.random.default_rng(0).normal(-5, 1, (1, 2, 11, 8)).astype(np.float32))
    found = without_tensors(layer, [x])
    high, wide = ((n + whole - size) // stride + 1 for n in x.shape[2:])
    assert found.shape == (1, 2, high, wide)
    for i in range(high):
        for j in range(wide):
            y, z = i * stride - whole // 2, j * stride - whole // 2
            window = x[0, :, max(y, 0) : y + size, max(z, 0) : z + size]
            assert torch.equal(found[0, :, i, j], window.amax((1, 2)))
