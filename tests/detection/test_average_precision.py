from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from tests.detection.helpers import random_truth, shaken
from utils.detection.average_precision import average_precision

NAMES = ("cat", "dog", "owl", "yak")


def official(folder, truth, found):
    """The loop of pycocotools' own demo, through files, at its defaults."""
    images = [{"id": i + 7, "width": 100, "height": 100} for i in range(len(truth))]
    notes, results = [], []
    for i, (known, seen) in enumerate(zip(truth, found, strict=True)):
        for label, x1, y1, x2, y2 in known.tolist():
            notes.append(
                {"id": len(notes) + 1, "image_id": i + 7, "category_id": int(label) + 1, "iscrowd": 0}
                | {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1)}
            )
        for x1, y1, x2, y2, score, label in seen.tolist():
            bbox = [x1, y1, x2 - x1, y2 - y1]
            results.append({"image_id": i + 7, "category_id": int(label) + 1, "bbox": bbox, "score": score})
    kinds = [{"id": k + 1, "name": name} for k, name in enumerate(NAMES)]
    (folder / "truth.json").write_text(json.dumps({"images": images, "annotations": notes, "categories": kinds}))
    (folder / "found.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(folder / "truth.json"))
        run = COCOeval(coco, coco.loadRes(str(folder / "found.json")), "bbox")
        run.evaluate(), run.accumulate(), run.summarize()
    return run


def as_arrays(tensors):
    return [t.double().numpy() for t in tensors]


@pytest.mark.parametrize("seed", range(3))
def test_ap_equals_the_official_loop_to_the_last_digit(tmp_path, seed):
    truth = random_truth(25, len(NAMES), seed=seed)
    found = shaken(truth, len(NAMES), seed=seed + 50)
    run = official(tmp_path, truth, found)
    ours = average_precision(as_arrays(truth), as_arrays(found), NAMES)
    assert (ours.map, ours.map50) == pytest.approx(tuple(run.stats[:2]), abs=1e-15)
    assert 0.05 < ours.map < ours.map50 < 0.95
    per_class = run.eval["precision"][:, :, :, 0, 2].mean(axis=(0, 1))
    assert [c.ap for c in ours.per_class] == pytest.approx(per_class.tolist(), abs=1e-15)
    # pycocotools divides by tp + fp + 2e-16: a unit in the last place
    np.testing.assert_allclose(ours.curves, run.eval["precision"][0, :, :, 0, 2].T, rtol=0, atol=1e-15)


@pytest.mark.parametrize("seed", range(5))
def test_crowds_on_a_grid_are_matched_as_pycocotools_matches_them(tmp_path, seed):
    """Boxes of few sizes on few places: equal overlaps, equal scores, more detections than count, rivals for a box."""
    make = np.random.default_rng(seed)

    def boxes(n):
        corner, side = make.integers(0, 5, (n, 2)) * 4.0, make.integers(2, 5, (n, 2)) * 4.0
        return np.concatenate((corner, corner + side), 1)

    truth = [np.column_stack((make.integers(0, 3, n), boxes(n))) for n in make.integers(0, 12, 20)]
    found = [
        np.column_stack((boxes(n), make.integers(1, 9, n) / 8.0, make.integers(0, 4, n)))
        for n in make.integers(0, 300, 20)
    ]
    run = official(tmp_path, truth, found)
    ours = average_precision(truth, found, NAMES)
    assert (ours.map, ours.map50) == pytest.approx(tuple(run.stats[:2]), abs=1e-15)
    for k, one in enumerate(ours.per_class[:3]):
        cells = run.evalImgs[k * 4 * 20 : k * 4 * 20 + 20]  # of area "all"
        cells = [cell for cell in cells if cell is not None]
        taken = [score >= ours.confidence for cell in cells for score in cell["dtScores"]]
        right = [match > 0 for cell in cells for match in cell["dtMatches"][0]]
        hits = sum(a and b for a, b in zip(taken, right, strict=True))
        assert one.recall == hits / one.truth and one.precision == pytest.approx(hits / sum(taken))


def test_counting_says_nothing_on_the_console(caplog, capfd):
    """The library tells its steps at the level at which scripts talk to people."""
    truth = random_truth(5, 2)
    with caplog.at_level("INFO"):
        average_precision(as_arrays(truth), as_arrays(shaken(truth, 2)), NAMES[:2])
    assert not caplog.records and not "".join(capfd.readouterr())


def test_a_class_without_truth_counts_in_no_mean():
    truth = [t[t[:, 0] != 2] for t in random_truth(25, 4)]
    found = shaken(truth, 4)
    with_it = average_precision(as_arrays(truth), as_arrays(found), NAMES)
    without = average_precision(as_arrays(truth), as_arrays([f[f[:, 5] != 2] for f in found]), NAMES)
    assert np.isnan(with_it.per_class[2].ap) and with_it.per_class[2].truth == 0
    for name in ("map50", "map", "precision", "recall", "f1"):
        assert getattr(with_it, name) == getattr(without, name)


def test_the_truth_itself_scores_one():
    truth = random_truth(10, 4)
    found = [np.column_stack((t[:, 1:], np.full(len(t), 0.9), t[:, 0])) for t in as_arrays(truth)]
    scores = average_precision(as_arrays(truth), found, NAMES)
    assert [getattr(scores, n) for n in ("map50", "map", "precision", "recall", "f1")] == pytest.approx([1] * 5)


def test_precision_and_recall_are_counts_at_the_confidence_named():
    truth = random_truth(30, 2, seed=4)
    found = shaken(truth, 2, seed=5)
    scores = average_precision(as_arrays(truth), as_arrays(found), NAMES[:2])
    for label, one in enumerate(scores.per_class):
        right = taken = 0
        for known, seen in zip(as_arrays(truth), as_arrays(found), strict=True):
            boxes, free = [k[1:] for k in known if k[0] == label], set(range(int((known[:, 0] == label).sum())))
            for x1, y1, x2, y2, score, kind in seen:
                if kind != label or score < scores.confidence:
                    continue
                taken += 1
                fits = {}
                for j in free:
                    a1, b1, a2, b2 = boxes[j]
                    inter = max(0, min(x2, a2) - max(x1, a1)) * max(0, min(y2, b2) - max(y1, b1))
                    fits[j] = inter / ((x2 - x1) * (y2 - y1) + (a2 - a1) * (b2 - b1) - inter)
                best = max(fits, key=fits.__getitem__, default=None)
                if best is not None and fits[best] >= 0.5:
                    free.remove(best)
                    right += 1
        assert one.precision == pytest.approx(right / taken)
        assert one.recall == pytest.approx(right / one.truth)


def test_a_detection_at_the_confidence_itself_counts():
    truth = [np.array([[0.0, 0, 0, 10, 10], [0, 20, 20, 30, 30]])]
    found = [np.array([[0.0, 0, 10, 10, 0.5, 0], [20, 20, 30, 30, 0.5, 0], [50, 50, 60, 60, 0.499, 0]])]
    scores = average_precision(truth, found, NAMES[:1])
    assert (scores.confidence, scores.precision, scores.recall) == (0.5, 1, 1)


def test_no_other_confidence_has_a_better_mean_f1():
    truth = random_truth(30, 2, seed=4)
    found = shaken(truth, 2, seed=5)
    best = average_precision(as_arrays(truth), as_arrays(found), NAMES[:2])
    for limit in np.arange(0.0, 1.0, 0.1):
        kept = as_arrays([f[f[:, 4] >= limit] for f in found])
        other = average_precision(as_arrays(truth), kept, NAMES[:2])
        assert other.f1 <= best.f1 + 1e-12


@pytest.mark.parametrize("boxes", [0, 5])
def test_images_without_any_truth_score_zero(boxes):
    empty = [np.zeros((0, 5))] * 3
    found = [np.tile([0.0, 0, 10, 10, 0.5, 1], (boxes, 1))] * 3
    scores = average_precision(empty, found, NAMES)
    assert (scores.map50, scores.map, scores.f1) == (0, 0, 0) and np.isnan(scores.curves).all()


def test_no_detections_at_all_score_zero():
    truth = random_truth(5, 4)
    scores = average_precision(as_arrays(truth), [np.zeros((0, 6))] * 5, NAMES)
    assert (scores.map50, scores.map, scores.precision, scores.recall, scores.f1) == (0,) * 5
