"""[Gaussian_yolo]: Darknet's decoding, number by number, and a loss that teaches how sure a box is."""

from __future__ import annotations

import math

import pytest
import torch

from utils.darknet import spec as s
from utils.darknet.cfg import parse_cfg, write_cfg
from utils.detection.decode import decode, split
from utils.detection.loss import YoloLoss, prior_biases
from utils.distillation.pairs import difference
from utils.errors import InputError

HEAD = "[Gaussian_yolo]\nmask=1,2\nanchors=10,14, 20,30, 40,60\nclasses=3\nnum=3\nscale_x_y=1.1\nuc_normalizer={}\n"


def head(gain: str = "1") -> s.GaussianYolo:
    text = "[net]\nwidth=64\nheight=32\n[convolutional]\nfilters=24\nsize=1\nactivation=linear\n" + HEAD.format(gain)
    spec = parse_cfg(text)
    assert parse_cfg(write_cfg(spec)) == spec
    return spec.layers[1]


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def test_boxes_and_scores_are_those_of_darknets_loops():
    raw = torch.randn(1, 24, 4, 8)
    found = decode([raw], [head()], (32, 64))[0]
    at = 0
    for n, (aw, ah) in enumerate(((20, 30), (40, 60))):
        for row in range(4):
            for column in range(8):
                v = [float(raw[0, n * 12 + k, row, column]) for k in range(12)]
                x, y = ((logistic(v[k]) * 1.1 - 0.05 + cell) * 8 for k, cell in ((0, column), (2, row)))
                sure = 1 - sum(logistic(v[k]) for k in (1, 3, 5, 7)) / 4
                want = [x, y, aw * math.exp(v[4]), ah * math.exp(v[6])]
                torch.testing.assert_close(found[at, :4], torch.tensor(want), rtol=1e-5, atol=1e-4)
                scores = found[at, 4] * found[at, 5:]
                right = [logistic(v[8]) * logistic(v[k]) * sure for k in (9, 10, 11)]
                torch.testing.assert_close(scores, torch.tensor(right), rtol=1e-5, atol=1e-6)
                at += 1
    assert at == len(found)


def learned_spread(off: float, gain: str = "1") -> float:
    """The deviation in x that the loss is least at, of a mean that is ``off`` cells beside the truth."""
    own, best = head(gain), None
    place = (1.5 + off - 1 + 0.05) / 1.1  # what the logistic of x has to be
    for deviation in torch.linspace(0.02, 0.9, 89).tolist():
        raw = torch.zeros(1, 24, 4, 8)
        raw[:, 0, 1, 1] = math.log(place / (1 - place))
        raw[:, 1, 1, 1] = math.log(deviation / (1 - deviation))
        targets = torch.tensor([[0, 2, 1.5 / 8, 1.5 / 4, 20 / 64, 30 / 32]])
        total = float(YoloLoss([own])([raw], targets, (32, 64)).total)
        best = (total, deviation) if best is None or total < best[0] else best
    return best[1]


def test_the_spread_that_is_learned_is_how_far_off_the_mean_is():
    assert learned_spread(0.2) == pytest.approx(0.2, abs=0.011)
    assert learned_spread(0.4) == pytest.approx(0.4, abs=0.011)


def test_the_spreads_learn_and_the_means_learn_from_the_overlap_alone():
    targets = torch.tensor([[0, 2, 1.5 / 8, 1.5 / 4, 20 / 64, 30 / 32]])
    grads = []
    for gain in ("0", "2"):
        raw = torch.randn(1, 24, 4, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
        YoloLoss([head(gain)])([raw], targets, (32, 64)).total.backward()
        grads.append(raw.grad)
    spreads = torch.zeros(24, dtype=torch.bool)
    spreads[[k + n for n in (0, 12) for k in (1, 3, 5, 7)]] = True
    assert not grads[0][:, spreads].any() and grads[1][:, spreads].any()
    assert torch.equal(grads[0][:, ~spreads], grads[1][:, ~spreads])


def test_a_fresh_head_starts_as_a_yolo_head_does():
    own = head()
    values = split(prior_biases(own).view(1, -1, 1, 1), own)[0, 0, 0, 0]
    assert values[4] == pytest.approx(math.log(0.01 / 0.99))
    assert (values[5:8] < 0).all() and not values[:4].any() and not values[8:].any()


def test_a_teacher_whose_boxes_have_no_spreads_is_another_kind():
    plain = s.Yolo(sources=(0,), mask=(1, 2), anchors=head().anchors, classes=3)
    assert "spreads" in difference(head(), plain)


def test_a_corner_instead_of_the_centre_is_refused():
    with pytest.raises(InputError, match="yolo_point=left_top predicts a corner"):
        parse_cfg("[net]\n[convolutional]\nfilters=24\n" + HEAD.format("1") + "yolo_point=left_top\n")
