from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch

from tests.detection.helpers import random_truth, shaken
from utils.data.pictures import full_rows, in_rows
from utils.detection.evaluate import Detections, Timing, measure
from utils.detection.pictures import (
    as_picture,
    batch_mosaic,
    colour,
    comparison_grid,
    draw_boxes,
    save_picture,
    truth_as_boxes,
)
from utils.detection.plots import plot_confusion, plot_pr_curves

NAMES = ("cat", "dog", "owl", "yak")


def grey(height: int, width: int) -> torch.Tensor:
    return torch.full((3, height, width), 128, dtype=torch.uint8)


def test_small_images_are_enlarged_by_a_whole_factor_and_large_ones_left():
    none = torch.zeros(0, 6)
    assert draw_boxes(grey(96, 128), none, NAMES).shape == (384, 512, 3)
    assert draw_boxes(grey(256, 200), none, NAMES).shape == (512, 400, 3)
    assert draw_boxes(grey(480, 640), none, NAMES).shape == (480, 640, 3)


def test_a_picture_without_boxes_is_the_image():
    image = torch.randint(0, 256, (3, 600, 500), dtype=torch.uint8)
    np.testing.assert_array_equal(draw_boxes(image, torch.zeros(0, 6), NAMES), image.permute(1, 2, 0).numpy())


def test_the_border_of_a_box_has_its_class_colour():
    drawn = draw_boxes(grey(512, 512), torch.tensor([[100.0, 200.0, 300.0, 400.0, 0.9, 2.0]]), NAMES)
    assert tuple(drawn[300, 100]) == tuple(drawn[400, 250]) == colour(2)
    assert tuple(drawn[300, 200]) == (128, 128, 128)


def test_the_image_given_is_not_drawn_on():
    image = np.full((600, 600, 3), 7, np.uint8)
    draw_boxes(image, torch.tensor([[10.0, 20.0, 300.0, 400.0, 0.9, 2.0]]), NAMES)
    assert (image == 7).all()


def test_labels_of_crowded_boxes_do_not_cover_each_other():
    boxes = torch.tensor([[200.0 + 12 * i, 200, 300 + 12 * i, 300, 0.9 - i / 10, i] for i in range(4)])
    alone = [
        (draw_boxes(grey(512, 512), box[None], NAMES) == colour(k)).all(axis=2).sum() for k, box in enumerate(boxes)
    ]
    together = draw_boxes(grey(512, 512), boxes, NAMES)
    for k, count in enumerate(alone):
        left = (together == colour(k)).all(axis=2).sum()
        assert left > 0.6 * count  # lines cross, labels stay


def test_a_box_in_the_corner_has_its_label_inside_the_picture():
    drawn = draw_boxes(grey(512, 512), torch.tensor([[480.0, 0.0, 511.0, 20.0, 0.9, 0.0]]), NAMES)
    fill = (drawn == colour(0)).all(axis=2).sum()
    assert fill > 500  # the label's ground; the lines alone are about 200


def test_neighbouring_classes_have_far_colours():
    shades = np.array([colour(k) for k in range(20)], dtype=float)
    apart = np.abs(shades[1:] - shades[:-1]).sum(axis=1)
    assert apart.min() > 150 and len({colour(k) for k in range(80)}) > 75


@pytest.mark.parametrize("channels", [1, 3])
def test_float_and_uint8_images_give_one_picture(channels):
    image = torch.randint(0, 256, (channels, 9, 7), dtype=torch.uint8)
    np.testing.assert_array_equal(as_picture(image.float() / 255), as_picture(image))


def test_truth_is_drawn_without_scores():
    truth = torch.tensor([[2.0, 10.0, 20.0, 30.0, 40.0]])
    boxes = truth_as_boxes(truth)
    assert boxes[0, :4].tolist() == [10, 20, 30, 40] and math.isnan(boxes[0, 4]) and boxes[0, 5] == 2


def test_a_batch_becomes_a_near_square_sheet():
    targets = torch.tensor([[0, 1, 0.5, 0.5, 0.5, 0.5], [4, 3, 0.2, 0.2, 0.1, 0.1]])
    sheet = batch_mosaic(torch.stack([grey(128, 128)] * 6), targets, NAMES)
    assert sheet.shape == (2 * 512 + 3 * 8, 3 * 512 + 4 * 8, 3)
    first = sheet[8:520, 8:520]
    assert (first == colour(1)).all(axis=2).any() and not (first == colour(3)).all(axis=2).any()


def test_comparison_has_a_row_an_image_and_a_column_a_detector(tmp_path):
    path = tmp_path / "new" / "grid.png"
    truth = random_truth(2, 4)
    boxes = [truth_as_boxes(t) for t in truth]
    comparison_grid([grey(128, 128)] * 2, {"ground truth": boxes, "float": boxes, "spiking": boxes}, NAMES, path)
    picture = cv2.imread(str(path))
    assert picture.shape[1] == 3 * 512 + 4 * 8 and picture.shape[0] > 2 * 512
    np.testing.assert_array_equal(picture[-500:, 8:520], picture[-500:, 528:1040])
    assert (picture[:40] < 100).any()  # the headings
    assert [p.name for p in path.parent.iterdir()] == ["grid.png"]


def test_pictures_keep_red_red(tmp_path):
    red = np.zeros((4, 4, 3), np.uint8)
    red[..., 0] = 255
    save_picture(tmp_path / "red.png", red)
    assert cv2.imread(str(tmp_path / "red.png"))[0, 0].tolist() == [0, 0, 255]


@pytest.mark.parametrize("classes", [1, 4, 30])
def test_plots_are_written_for_any_number_of_classes(tmp_path, classes):
    names = [f"class {k}" for k in range(classes)]
    truth = random_truth(20, classes)
    found = shaken(truth, classes)
    detections = [Detections(i, f, t, None) for i, (f, t) in enumerate(zip(found, truth, strict=True))]
    metrics = measure(detections, names, timing=Timing(0, 0, 0))
    plot_pr_curves(metrics, tmp_path / "pr.png")
    plot_confusion(metrics.confusion, names, tmp_path / "confusion.png")
    for name in ("pr.png", "confusion.png"):
        assert cv2.imread(str(tmp_path / name)).std() > 10


def test_a_sheet_has_no_empty_place():
    shapes = {count: full_rows(count) for count in range(1, 65)}
    assert {count: shapes[count] for count in (1, 2, 3, 5, 6, 7, 8, 12, 16)} == {
        1: (1, 1), 2: (1, 2), 3: (1, 3), 5: (2, 2), 6: (2, 3), 7: (2, 3), 8: (2, 4), 12: (3, 4), 16: (4, 4),
    }  # fmt: skip
    assert all(0.75 * count <= rows * across <= count for count, (rows, across) in shapes.items())
    assert [len(row) for row in in_rows([grey(8, 8)] * 7)] == [3, 3]
