from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask as coco_mask

from utils.detection.boxes import (
    OVERLAPS,
    cxcywh_to_xyxy,
    paired_ciou,
    paired_giou,
    paired_iou,
    pairwise_iou,
    xyxy_to_cxcywh,
)

number = st.floats(-200, 200, width=32)
side = st.floats(0.5, 200, width=32)


def random_boxes(n: int, seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    low = torch.rand(n, 2, generator=g) * 80
    return torch.cat((low, low + torch.rand(n, 2, generator=g) * 60 + 1), dim=1)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(number, number, side, side), max_size=8))
def test_corners_and_centres_are_inverse(rows):
    boxes = torch.tensor(rows, dtype=torch.float64).reshape(-1, 4)
    torch.testing.assert_close(xyxy_to_cxcywh(cxcywh_to_xyxy(boxes)), boxes)


def test_pairwise_iou_equals_pycocotools():
    a, b = random_boxes(40, 0).double(), random_boxes(30, 1).double()
    to_xywh = [torch.cat((x[:, :2], x[:, 2:] - x[:, :2]), dim=1).numpy() for x in (a, b)]
    official = torch.from_numpy(coco_mask.iou(*to_xywh, [0] * 30))
    torch.testing.assert_close(pairwise_iou(a, b), official, rtol=0, atol=1e-8)


def test_paired_iou_is_the_diagonal_of_the_pairwise():
    a, b = random_boxes(40, 2), random_boxes(40, 3)
    torch.testing.assert_close(paired_iou(a, b), pairwise_iou(a, b).diagonal())


@pytest.mark.parametrize("name", sorted(OVERLAPS))
def test_a_box_overlaps_itself_fully_and_the_rest_less(name):
    a, b = random_boxes(40, 4), random_boxes(40, 5)
    torch.testing.assert_close(OVERLAPS[name](a, a), torch.ones(40), rtol=0, atol=1e-5)
    assert (OVERLAPS[name](a, b) < 1).all()
    assert (OVERLAPS[name](a, b) <= paired_iou(a, b) + 1e-6).all()


def test_giou_of_two_squares_is_what_the_paper_says():
    a, b = torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[3.0, 0.0, 5.0, 2.0]])
    assert paired_giou(a, b).item() == pytest.approx(0 - (10 - 8) / 10, abs=1e-6)


def test_ciou_is_iou_less_distance_less_shape():
    a, b = torch.tensor([[0.0, 0.0, 4.0, 2.0]]), torch.tensor([[1.0, 0.0, 3.0, 4.0]])
    iou = 4 / 12
    v = 4 / math.pi**2 * (math.atan(4 / 2) - math.atan(2 / 4)) ** 2
    distance = ((2 - 2) ** 2 + (1 - 2) ** 2) / (4**2 + 4**2)
    assert paired_ciou(a, b).item() == pytest.approx(iou - distance - v * v / (1 - iou + v), abs=1e-6)


@pytest.mark.parametrize("name", ["giou", "ciou"])
def test_boxes_that_do_not_touch_still_attract(name):
    a = torch.tensor([[0.0, 0.0, 2.0, 2.0]], requires_grad=True)
    OVERLAPS[name](a, torch.tensor([[10.0, 0.0, 12.0, 2.0]])).sum().backward()
    assert a.grad is not None and a.grad[0, 0] + a.grad[0, 2] > 0  # moving right is better


@pytest.mark.parametrize("name", sorted(OVERLAPS))
def test_boxes_without_area_give_no_nan(name):
    flat = torch.zeros(1, 4, requires_grad=True)
    value = OVERLAPS[name](flat, torch.zeros(1, 4)).sum()
    value.backward()
    assert torch.isfinite(value) and flat.grad is not None and torch.isfinite(flat.grad).all()
