"""IoU, pixel accuracy and run-length codes against plain loops and pycocotools."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from tests.conftest import ROOT
from utils.darknet.cfg import read_cfg
from utils.darknet.shapes import sizes
from utils.darknet.spec import Segment
from utils.data.pictures import colour
from utils.data.transforms import Letterbox
from utils.errors import InputError
from utils.segmentation.dataset import bordered, scaled_mask
from utils.segmentation.metrics import MaskAnswer, MaskAnswers, evaluate, joined, measure, scores_of, truth_of
from utils.segmentation.open_data import read_mask
from utils.segmentation.results import MaskResult, results_of, save_results
from utils.segmentation.run_lengths import decoded, encoded, run_lengths
from utils.task import Timing

NAMES = tuple("abcd")
OUTPUT = Segment(sources=(0,), classes=4, ignore=9, factor=2)
NO_TIME = Timing(0, 0, 0)


def batch_of(raw: torch.Tensor, masks: torch.Tensor) -> SimpleNamespace:
    size = (masks.shape[1], masks.shape[2])
    boxes = tuple(Letterbox(size, size, (0, 0), size) for _ in masks)
    images = torch.zeros(len(masks), 3, *size, dtype=torch.uint8)
    return SimpleNamespace(images=images, masks=masks, indices=tuple(range(len(masks))), letterboxes=boxes)


def test_the_numbers_are_those_of_a_plain_loop_over_pixels():
    make = torch.Generator().manual_seed(0)
    raw = torch.randn(3, 4, 5, 6, generator=make)
    masks = torch.randint(0, 3, (3, 10, 12), generator=make, dtype=torch.uint8)  # of the last class there is no truth
    masks[:, :2] = 9
    masks[:, 2] = 255
    found = evaluate(lambda x: [raw], [batch_of(raw, masks)], OUTPUT, NAMES, progress=False)
    answer = F.interpolate(raw, size=(10, 12), mode="bilinear").argmax(1)
    both, either, right, seen = [0] * 4, [0] * 4, 0, 0
    for a, t in zip(answer.flatten().tolist(), masks.flatten().tolist(), strict=True):
        if t in (9, 255):
            continue
        seen, right = seen + 1, right + (a == t)
        for k in range(4):
            both[k] += a == k and t == k
            either[k] += a == k or t == k
    iou = [b / e for b, e in zip(both, either, strict=True) if e]
    assert found.accuracy == pytest.approx(right / seen)
    assert found.miou == pytest.approx(sum(iou) / len(iou))
    assert np.array_equal(found.answers.images[1].mask, answer[1].numpy())


def test_a_class_that_nobody_has_does_not_count_in_the_mean():
    table = np.diag([5, 3, 0, 0])
    table[1, 0] = 2
    found = measure(MaskAnswers(table, ()), NAMES, timing=NO_TIME)
    assert found.miou == pytest.approx((5 / 7 + 3 / 5) / 2) and np.isnan(found.iou[3])
    assert found.accuracy == pytest.approx(8 / 10)


def test_parts_of_several_processes_are_one_measurement():
    box = Letterbox((2, 2), (2, 2), (0, 0), (2, 2))
    images = [MaskAnswer.of(k, np.full((2, 2), k, np.uint8), box) for k in range(4)]
    parts = [MaskAnswers(np.eye(4, dtype=np.int64) * (k + 1), tuple(images[k::2])) for k in (0, 1)]
    again = joined(parts)
    assert [image.index for image in again.images] == [0, 1, 2, 3] and again.confusion[0, 0] == 3


def test_a_number_that_is_no_class_is_refused_and_what_is_ignored_is_not():
    assert truth_of(torch.tensor([[[0, 3, 9, 255]]], dtype=torch.uint8), OUTPUT).tolist() == [[[0, 3, 255, 255]]]
    seven = torch.tensor([[[7]]], dtype=torch.uint8)
    with pytest.raises(InputError, match=r"number 7 is none of 4 classes, nor the 9 that \[segment\] ignores; make it"):
        truth_of(seven, OUTPUT)
    with pytest.raises(InputError, match=r"number 7 is none of 4 classes; let the cfg's \[segment\] say ignore=7"):
        truth_of(seven, replace(OUTPUT, ignore=255))


def test_a_factor_that_is_not_the_stride_is_refused():
    raw, masks = torch.randn(1, 4, 5, 6), torch.zeros(1, 20, 24, dtype=torch.uint8)
    with pytest.raises(InputError, match=r"factor=2 gives 10x12 px of an image of 20x24; set factor= to the stride"):
        evaluate(lambda x: [raw], [batch_of(raw, masks)], OUTPUT, NAMES, progress=False)


def test_a_factor_that_is_not_the_stride_is_refused_before_anything_runs():
    spec = read_cfg(ROOT / "cfg/camvid-deeplab.cfg")
    assert sizes(spec, 184, 240)
    (*rest, output) = spec.layers
    wrong = replace(spec, layers=(*rest, replace(output, factor=8)))
    with pytest.raises(InputError, match=r"factor=8 gives 368x480 px of an image of 184x240; set factor= to the str"):
        sizes(wrong, 184, 240)


def test_sums_are_enlarged_before_the_largest_is_taken():
    raw = torch.zeros(1, 2, 1, 2)
    raw[0, 0, 0, 0], raw[0, 1, 0, 1] = 3.0, 1.0
    wide = scores_of([raw], Segment(sources=(0,), classes=2, factor=8))
    assert wide.shape == (1, 2, 8, 16)
    torch.testing.assert_close(wide, F.interpolate(raw, scale_factor=8, mode="bilinear", align_corners=False))
    assert int((wide.argmax(1) == 0).sum()) > 64  # nearest would give each half of the px


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("side", [7, 700])
def test_run_lengths_are_those_of_pycocotools(first, side):
    masks = pytest.importorskip("pycocotools.mask")
    mask = np.random.default_rng(0).random((13, side)) < 0.4
    mask[0, 0], mask[:, side // 2 :] = first, first
    code = encoded(mask)
    assert sum(run_lengths(mask)) == mask.size
    assert code == {"size": [13, side], "counts": masks.encode(np.asfortranarray(mask))["counts"].decode()}
    assert np.array_equal(decoded(code, mask.shape), mask)


def test_a_mask_goes_back_to_the_pixels_of_its_picture():
    """The border of the letterbox is left out, and what is left has the picture's size."""
    truth = np.zeros((20, 40), np.uint8)
    truth[:, 20:] = 1
    box = Letterbox((20, 40), (8, 16), (4, 0), (16, 16))
    scores = torch.zeros(1, 2, 16, 16)
    scores[0, 1, :, 8:] = 2.0
    scores[0, 0, :, :8] = 2.0
    (found,) = results_of(scores, [box])
    assert found.mask.shape == truth.shape
    assert (found.mask == truth).mean() > 0.9 and found.labels() == [0, 1]
    assert [row["area"] for row in found.rows(("x", "y"))] == [int((found.mask == k).sum()) for k in (0, 1)]


@pytest.mark.parametrize(("original", "scaled"), [((90, 75), (30, 30)), ((21, 31), (50, 90))])
def test_a_scaled_mask_has_the_classes_under_the_middles_of_its_pixels(original, scaled):
    """As a scaled image has their colours; the corners that OpenCV's plain nearest takes lie up to half a px away."""
    mask = np.random.default_rng(0).integers(0, 200, original).astype(np.uint8)
    rows, columns = ((2 * np.arange(n) + 1) * whole // (2 * n) for n, whole in zip(scaled, original, strict=True))
    wanted = mask[rows][:, columns]
    assert np.array_equal(scaled_mask(mask, original, scaled, Path("a.png")), wanted)
    assert np.array_equal(bordered(mask, Letterbox(original, scaled, (0, 0), scaled)), wanted)


def test_answers_in_a_file_have_the_classes_under_the_middles_of_the_pictures_pixels(tmp_path):
    mask, box = (
        np.random.default_rng(0).integers(0, 4, (8, 12)).astype(np.uint8),
        Letterbox((21, 31), (6, 12), (1, 0), (8, 12)),
    )
    answers = MaskAnswers(np.eye(4, dtype=np.int64), (MaskAnswer.of(0, mask, box),))
    found = save_results(tmp_path / "a.json", measure(answers, NAMES, timing=NO_TIME), [Path("a.jpg")])
    made = np.full((21, 31), 9)
    for row in json.loads(found.read_text()):
        made[decoded(row["segmentation"], made.shape)] = row["category_id"]
    rows, columns = ((2 * np.arange(n) + 1) * few // (2 * n) for n, few in ((21, 6), (31, 12)))
    assert np.array_equal(made, mask[1:7][rows][:, columns])


def test_the_file_beside_a_drawing_is_the_mask_with_its_palette(tmp_path):
    mask = np.random.default_rng(0).integers(0, 3, (6, 5)).astype(np.uint8)
    (path,) = MaskResult(mask, 3).beside(tmp_path / "a")
    assert path.name == "a_mask.png" and np.array_equal(read_mask(path), mask)
    with Image.open(path) as picture:
        assert tuple(picture.convert("RGB").getpixel((0, 0))) == colour(int(mask[0, 0]))
