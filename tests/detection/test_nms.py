from __future__ import annotations

import numpy as np
import pytest
import torch

from utils.detection.boxes import cxcywh_to_xyxy
from utils.detection.nms import non_max_suppression


def random_predictions(seed: int, boxes: int = 150, classes: int = 4, ties: bool = False) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    shape = torch.cat((torch.rand(boxes, 2, generator=g) * 100, torch.rand(boxes, 2, generator=g) * 40 + 4), dim=1)
    scores = torch.rand(boxes, 1 + classes, generator=g)
    return torch.cat((shape, (scores * 8).ceil() / 8 if ties else scores), dim=1)[None]


def greedy(decoded, conf, iou, *, agnostic, multi_label, most):
    """Suppression as in a textbook: best first, each removes those of its class that overlap it too much."""
    rows = decoded[0].numpy()
    boxes = cxcywh_to_xyxy(decoded[0, :, :4]).numpy().astype(np.float64)
    found = []
    for i, row in enumerate(rows):
        scores = row[4] * row[5:]
        labels = np.flatnonzero(scores > np.float32(conf)) if multi_label else [int(scores.argmax())]
        found += [(scores[k], i, k) for k in labels if scores[k] > np.float32(conf)]
    found = sorted(found, key=lambda f: -f[0])[:most]  # sorted() is stable
    kept: list[tuple[float, int, int]] = []
    for score, i, k in found:
        for _, j, other in kept:
            if agnostic or other == k:
                w = min(boxes[i, 2], boxes[j, 2]) - max(boxes[i, 0], boxes[j, 0])
                h = min(boxes[i, 3], boxes[j, 3]) - max(boxes[i, 1], boxes[j, 1])
                inter = max(w, 0) * max(h, 0)
                if inter / (np.prod(boxes[i, 2:] - boxes[i, :2]) + np.prod(boxes[j, 2:] - boxes[j, :2]) - inter) > iou:
                    break
        else:
            kept.append((score, i, k))
    return np.array([[*boxes[i], score, k] for score, i, k in kept], dtype=np.float32).reshape(-1, 6)


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("ties", [False, True])
def test_suppression_equals_a_plain_greedy_loop(agnostic, multi_label, ties):
    for seed in range(8):
        decoded = random_predictions(seed, ties=ties)
        options = {"agnostic": agnostic, "multi_label": multi_label}
        ours = non_max_suppression(decoded, conf=0.2, iou=0.453, max_candidates=120, **options)[0]
        expected = greedy(decoded, 0.2, 0.453, most=120, **options)
        np.testing.assert_array_equal(ours.numpy(), expected)
        assert len(expected) > 10


def test_candidates_are_the_best_and_no_more_than_asked_for():
    decoded = random_predictions(0)
    few = non_max_suppression(decoded, conf=0.0, iou=1.0, max_candidates=7, multi_label=True)[0]
    scores = (decoded[0, :, 4:5] * decoded[0, :, 5:]).flatten()
    torch.testing.assert_close(few[:, 4], scores.sort(descending=True).values[:7], rtol=0, atol=0)


def test_no_more_boxes_come_out_than_asked_for():
    decoded = random_predictions(0)
    full = non_max_suppression(decoded, conf=0.1, iou=0.5)[0]
    assert torch.equal(non_max_suppression(decoded, conf=0.1, iou=0.5, max_boxes=5)[0], full[:5])


def test_a_class_filter_keeps_what_the_filtered_classes_would_have_had():
    decoded = random_predictions(3)
    everything = non_max_suppression(decoded, conf=0.1, iou=0.5)[0]
    some = non_max_suppression(decoded, conf=0.1, iou=0.5, classes=[1, 3])[0]
    assert torch.equal(some, everything[(everything[:, 5] == 1) | (everything[:, 5] == 3)])
    assert len(some)


def test_images_of_a_batch_do_not_meet():
    a, b = random_predictions(4), random_predictions(5)
    both = non_max_suppression(torch.cat((a, b)), conf=0.1, iou=0.5)
    for alone, together in zip((a, b), both, strict=True):
        assert torch.equal(non_max_suppression(alone, conf=0.1, iou=0.5)[0], together)


def test_nothing_found_is_an_empty_table():
    (empty,) = non_max_suppression(random_predictions(6), conf=0.999, iou=0.5)
    assert empty.shape == (0, 6)


def test_same_numbers_in_another_memory_layout_give_the_same_list():
    decoded = random_predictions(7, ties=True)
    other = decoded.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(*(non_max_suppression(d, conf=0.1, iou=0.5, multi_label=True)[0] for d in (decoded, other)))


def test_nan_scores_are_no_detections():
    decoded = random_predictions(8)
    decoded[0, ::2, 4] = float("nan")
    found = non_max_suppression(decoded, conf=0.1, iou=0.5, multi_label=True)[0]
    assert len(found) and torch.isfinite(found).all()
