"""The score of a detector that never looks, against a loop over the boxes."""

from __future__ import annotations

import numpy as np
import pytest

from utils.detection.trivial_baseline import trivial_baseline


def scattered(rng: np.random.Generator, images: int, spread: float) -> list[np.ndarray]:
    """Images with a box or two of two classes round a place of each."""
    found = []
    for _ in range(images):
        labels = rng.permutation(2)[: rng.integers(1, 3)]
        rows = [[label, *(np.array([0.3 + 0.3 * label, 0.5, 0.3, 0.4]) + rng.normal(0, spread, 4))] for label in labels]
        found.append(np.array(rows))
    return found


def iou(a: np.ndarray, b: np.ndarray) -> float:
    sides = [
        min(a[i] + a[i + 2] / 2, b[i] + b[i + 2] / 2) - max(a[i] - a[i + 2] / 2, b[i] - b[i + 2] / 2) for i in (0, 1)
    ]
    inter = max(sides[0], 0) * max(sides[1], 0)
    return inter / (a[2] * a[3] + b[2] * b[3] - inter)


@pytest.mark.parametrize("spread", [0.02, 0.06, 0.12])
def test_it_is_the_mean_box_of_each_class_in_every_image(spread):
    rng = np.random.default_rng(0)
    train, valid = scattered(rng, 40, spread), scattered(rng, 40, spread)
    found = trivial_baseline(train, valid, ["a", "b"])
    aps, hits, total = [], 0, 0
    for label in range(2):
        mean = np.mean([row[1:] for rows in train for row in rows if row[0] == label], axis=0)
        boxes = [[iou(mean, row[1:]) > 0.5 for row in rows if row[0] == label] for rows in valid]
        hits, count = hits + sum(map(sum, boxes)), sum(map(len, boxes))
        total += count
        right = np.cumsum([any(each) for each in boxes])  # all scores are one: the images' order decides
        precision, recall = right / np.arange(1, len(boxes) + 1), right / count
        levels = [max((p for p, r in zip(precision, recall, strict=True) if r >= at), default=0) for at in RECALLS]
        aps.append(np.mean(levels))
    assert found.map50 == pytest.approx(np.mean(aps), abs=1e-6) and found.overlapped == pytest.approx(hits / total)
    assert 0 < found.overlapped <= 1


RECALLS = np.linspace(0, 1, 101) - 1e-12


def test_one_place_for_all_is_found_without_looking_and_boxes_elsewhere_are_not():
    here, there = np.array([[0, 0.5, 0.5, 0.2, 0.2]]), np.array([[0, 0.1, 0.1, 0.1, 0.1]])
    assert vars(trivial_baseline([here] * 3, [here] * 4, ["a"])) == {"map50": 1.0, "overlapped": 1.0}
    assert vars(trivial_baseline([here] * 3, [there] * 4, ["a"])) == {"map50": 0.0, "overlapped": 0.0}


def test_a_class_that_is_never_trained_on_and_images_without_boxes_count_as_they_are():
    a, b, none = np.array([[0, 0.5, 0.5, 0.2, 0.2]]), np.array([[1, 0.5, 0.5, 0.2, 0.2]]), np.zeros((0, 5))
    found = trivial_baseline([a, none], [a, b], ["a", "b"])
    assert found.overlapped == 0.5 and found.map50 == pytest.approx(0.5)
    assert trivial_baseline([none], [a], ["a", "b"]).map50 == 0
    assert trivial_baseline([a], [none], ["a", "b"]).overlapped == 0
