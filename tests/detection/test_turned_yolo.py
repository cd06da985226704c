"""[yolo_bdp]: hank-ai's formulas, number by number, the upright box round a turned one, and where it is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from utils.darknet import spec as s
from utils.darknet.cfg import parse_cfg, write_cfg
from utils.detection.decode import decode, split
from utils.detection.loss import YoloLoss, prior_biases
from utils.distillation.pairs import difference
from utils.errors import InputError

BODY = "[net]\nwidth=64\nheight=32\n[convolutional]\nfilters=20\nsize=1\nactivation=linear\n"
HEAD = "[yolo_bdp]\nmask=1,2\nanchors=10,14, 20,30, 40,60\nclasses=3\nnum=3\nscale_x_y=1.1\nfp_normalizer=2\n"


def head(more: str = "") -> s.TurnedYolo:
    spec = parse_cfg(BODY + HEAD + more)
    assert parse_cfg(write_cfg(spec)) == spec
    return spec.layers[1]


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def corners(x: float, y: float, w: float, h: float, fx: float, fy: float) -> np.ndarray:
    """Of the box whose side h lies along the way to its front, [4, 2] px; by an angle, which our code has not."""
    angle = math.atan2(fy - y, fx - x)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return np.array([[h, w], [h, -w], [-h, -w], [-h, w]]) / 2 @ turn + (x, y)


@pytest.mark.parametrize("new_coords", [False, True])
def test_boxes_are_the_upright_ones_round_darknets_turned_ones(new_coords):
    raw = torch.randn(1, 20, 4, 8, generator=torch.Generator().manual_seed(0))
    raw = raw.sigmoid() if new_coords else raw
    found = decode([raw], [head("new_coords=1\n" * new_coords)], (32, 64))[0]
    as_it_is = (lambda v: v) if new_coords else logistic
    at = 0
    for n, (aw, ah) in enumerate(((20, 30), (40, 60))):
        for row in range(4):
            for column in range(8):
                v = [float(raw[0, n * 10 + k, row, column]) for k in range(10)]
                own = v[:2] if new_coords else [logistic(1.1 * logistic(each) - 0.05) for each in v[:2]]
                x, y = (8 * (cell + 2 * each - 0.5) for cell, each in zip((column, row), own, strict=True))
                w, h = (anchor * (2 * as_it_is(each)) ** 2 for anchor, each in zip((aw, ah), v[2:4], strict=True))
                four = corners(x, y, w, h, 8 * (column + v[4]), 8 * (row + v[5]))
                low, high = four.min(0), four.max(0)
                want = torch.tensor([*(low + high) / 2, *(high - low)], dtype=torch.float32)
                torch.testing.assert_close(found[at, :4], want, rtol=1e-4, atol=1e-3)
                right = torch.tensor([as_it_is(each) for each in v[6:]])
                torch.testing.assert_close(found[at, 4:], right, rtol=1e-5, atol=1e-6)
                at += 1
    assert at == len(found)


def test_a_box_whose_front_is_its_centre_looks_to_the_right():
    raw = torch.zeros(1, 20, 4, 8)
    raw[:, [4, 5, 14, 15]] = float(2 * torch.tensor(0.5).sigmoid() - 0.5)  # where the centre is as well
    found = decode([raw], [head()], (32, 64))[0]
    assert found[0, 2:4].tolist() == pytest.approx([30, 20]) and torch.isfinite(found).all()


def test_what_has_no_labels_is_not_trained_and_what_the_refusal_says_instead_is():
    message = r"cfg line 8: \[yolo_bdp\] learns from objects with a point .* train it as \[yolo\], with filters= of 5"
    with pytest.raises(InputError, match=message):
        YoloLoss([head()])
    text = BODY.replace("filters=20", "filters=16") + HEAD.replace("yolo_bdp", "yolo").replace("fp_normalizer=2\n", "")
    targets = torch.tensor([[0, 2, 1.5 / 8, 1.5 / 4, 20 / 64, 30 / 32]])
    assert YoloLoss([parse_cfg(text).layers[1]])([torch.zeros(1, 16, 4, 8)], targets, (32, 64)).total > 0


def test_its_boxes_are_not_compared_with_those_of_another_kind():
    plain = s.Yolo(sources=(0,), mask=(1, 2), anchors=head().anchors, classes=3)
    assert "turned" in difference(head(), plain) and "turned" in difference(plain, head())


def test_a_fresh_head_has_its_numbers_in_their_places():
    own = head()
    values = split(prior_biases(own).view(1, -1, 1, 1), own)[0, 0, 0, 0]
    assert values[4] == pytest.approx(math.log(0.01 / 0.99))
    assert (values[5:8] < 0).all() and not values[:4].any() and not values[8:].any()
