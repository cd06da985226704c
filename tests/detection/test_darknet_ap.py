"""The benchmark that reckons as Darknet's ``detector map`` does, against loops, and against what that program printed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import darknet_ap
from utils.data.images import read_image
from utils.data.manifest import read_list
from utils.detection.labels import read_all
from utils.detection.open_data import open_data

PRINTED = 0.3303  # by Darknet itself for yolo-fastest-1.1 on coco128's validation half, 320 px, 101 points, all classes


@pytest.mark.parametrize(("size", "to"), [((9, 14), (5, 6)), ((5, 6), (9, 14)), ((7, 30), (20, 11)), ((1, 8), (3, 1))])
def test_its_filter_is_darknets_formula_pixel_by_pixel(size, to):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    found = darknet_ap.darknet_linear(image, to)
    for y in range(to[0]):
        for x in range(to[1]):
            values = []
            for n, have, wanted in ((y, size[0], to[0]), (x, size[1], to[1])):
                last = n == wanted - 1 or have == 1
                place = have - 1 if last else n * (have - 1) / (wanted - 1)
                values.append((int(place), 0.0 if last else place - int(place)))
            (iy, dy), (ix, dx) = values
            corner = image[iy : iy + 2, ix : ix + 2].astype(float)
            weights = np.outer([1 - dy, dy], [1 - dx, dx])[: corner.shape[0], : corner.shape[1]]
            np.testing.assert_allclose(found[y, x], (corner * weights[..., None]).sum((0, 1)), atol=0.02)


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    inter = max(w, 0) * max(h, 0)
    return inter / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - inter)


def by_hand(truth: list[np.ndarray], found: list[np.ndarray], classes: int) -> np.ndarray:
    """The rule, a detection at a time: its own best box of its class counts, once; precision at 101 levels of recall."""
    result = np.zeros(classes)
    for label in range(classes):
        rows = [(row[4], k, row) for k, seen in enumerate(found) for row in seen if row[5] == label]
        total, taken, points = sum((known[:, 0] == label).sum() for known in truth), set(), []
        for n, (_, k, row) in enumerate(sorted(rows, key=lambda each: -each[0]), 1):
            candidates = [(overlap(row, box[1:]), (k, j)) for j, box in enumerate(truth[k]) if box[0] == label]
            best = max(candidates, default=(0.0, None))
            if best[0] > 0.5:
                taken.add(best[1])
            points.append((len(taken) / max(total, 1), len(taken) / n))
        levels = [max((p for r, p in points if r >= at / 100 - 1e-12), default=0.0) for at in range(101)]
        result[label] = np.mean(levels) if total else 0.0
    return result


@pytest.mark.parametrize("seed", range(4))
def test_its_ap_is_the_rule_a_detection_at_a_time(seed):
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for _ in range(5):
        corner, side = rng.uniform(0, 0.6, (4, 2)), rng.uniform(0.2, 0.4, (4, 2))
        boxes = np.concatenate([corner, corner + side], 1)
        labels = rng.integers(0, 3, (4, 1))
        truth.append(np.concatenate([labels, boxes], 1))
        near = np.repeat(boxes, 2, 0) + rng.normal(0, 0.04, (8, 4))  # two detections a box: one of them counts
        seen = np.where(rng.random((8, 1)) < 0.8, np.repeat(labels, 2, 0), rng.integers(0, 4, (8, 1)))
        found.append(np.concatenate([near, rng.random((8, 1)), seen], 1))
    ours = darknet_ap.darknet_ap(truth, found, 4)
    np.testing.assert_allclose(ours, by_hand(truth, found, 4), atol=1e-9)
    assert 0.1 < ours[:3].mean() < 0.95 and ours[3] == 0


def test_yolo_fastest_reaches_what_darknet_printed(shared_data, tmp_path):
    """With Darknet's filter, suppression and AP; its decoder is another one, which is worth a few ten-thousandths."""
    from models import load_model

    (folder,) = (shared_data / "darknet").glob("yolo-fastest-*")
    coco = shared_data / "coco128"
    rows = f"classes=80\ntrain={coco}/images/train\nvalid={coco}/images/val\nnames={coco}/coco.names\n"
    (tmp_path / "coco.data").write_text(rows)
    loaded = load_model(next(folder.glob("*.weights")), next(folder.glob("*.cfg")))
    assert loaded.resize == "stretch"
    manifest = open_data(tmp_path / "coco.data")
    images = read_list(manifest.valid)
    boxes, _ = read_all(images, manifest, manifest.valid)
    truth = [darknet_ap.corners_of(each) for each in boxes]
    variant = darknet_ap.Variant("", "stretch", darknet_ap.darknet_linear, read_image)
    found = darknet_ap.found_by(loaded, images, variant)
    every, present = darknet_ap.means(darknet_ap.darknet_ap(truth, found, 80), truth)
    assert every == pytest.approx(PRINTED, abs=0.001) and present == pytest.approx(PRINTED * 80 / 73, abs=0.001)
    alone = darknet_ap.found_by(loaded, images[:8], replace(variant, plain=True))
    assert [len(each) for each in alone] != [len(each) for each in found[:8]]  # the cfg says greedynms
