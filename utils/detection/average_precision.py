"""COCO's average precision, and what else follows from the same matching of detections to truth."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

log = logging.getLogger(__name__)

Array = NDArray[np.float64]
RECALLS = np.linspace(0, 1, 101)  # COCO's 101 recall levels
CONFIDENCES = np.linspace(0, 1, 1001)
HALF = 0.5  # the overlap from which on a detection is right


@dataclass(frozen=True)
class ClassMetrics:
    """One class; NaN where it has no box in the truth."""

    name: str
    truth: int  # boxes in the truth
    ap50: float
    ap: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class Scores:
    """What a set of detections is worth; P, R, F1 at IoU .5 and at ``confidence``, where the mean F1 is best."""

    map50: float
    map: float
    precision: float
    recall: float
    f1: float
    confidence: float
    per_class: tuple[ClassMetrics, ...]
    curves: Array  # [classes, 101] precision at each of RECALLS, IoU .5; NaN rows for classes without truth


def average_precision(
    truth: Sequence[Array], found: Sequence[Array], names: Sequence[str], *, max_boxes: int = 100
) -> Scores:
    """COCO AP by faster-coco-eval, whose digits are those of pycocotools.

    A class without a box in the truth counts in no mean (its detections cost nothing there), as COCO has it. Each
    AP is the mean of the precision at 101 recall levels; ``map`` is the mean over IoU .5, .55 … .95. An overlap does
    not change when both boxes are scaled or shifted together, so any one frame per image will do.

    Args:
        truth: one [n, 5] an image: class, x1, y1, x2, y2.
        found: one [m, 6] an image: x1, y1, x2, y2, score, class.
        names: the classes' names, all of them.
        max_boxes: detections counted per image and class, the best ones.
    """
    if sum(map(len, truth)) == 0:
        nothing = tuple(ClassMetrics(name, 0, *[float("nan")] * 5) for name in names)
        return Scores(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, nothing, np.full((len(names), len(RECALLS)), np.nan))
    run = COCOeval_faster(_truth(truth, names), _found(found, names), "bbox", print_function=log.debug)
    run.params.areaRng, run.params.areaRngLbl = [[0, 1e10]], ["all"]  # the other three would take 3x as long
    run.params.maxDets = [max_boxes]
    run.evaluate()
    run.accumulate()
    precision = run.eval["precision"][:, :, :, 0, 0]  # [IoU, recall, class]; -1: no truth
    labels = np.concatenate([rows[:, 0] for rows in truth]).astype(np.int64)
    counts = np.bincount(labels, minlength=len(names)).astype(np.int64)
    exists = counts > 0
    ap = np.where(exists, precision.mean(axis=1), np.nan)  # [IoU, class]
    operating = _operating_points(run.ious, found, counts, max_boxes)  # [3, confidence, class]
    best = int(np.nanmean(operating[2][:, exists], axis=1).argmax())
    at_best = operating[:, best]
    per_class = tuple(
        ClassMetrics(name, int(counts[k]), *(float(v) for v in (ap[0, k], ap[:, k].mean(), *at_best[:, k])))
        for k, name in enumerate(names)
    )
    return Scores(
        map50=float(ap[0, exists].mean()),
        map=float(ap[:, exists].mean()),
        precision=float(at_best[0, exists].mean()),
        recall=float(at_best[1, exists].mean()),
        f1=float(at_best[2, exists].mean()),
        confidence=float(CONFIDENCES[best]),
        per_class=per_class,
        curves=np.where(exists[:, None], precision[0].T, np.nan),
    )


def _operating_points(
    ious: Mapping[tuple[int, int], Any], found: Sequence[Array], counts: NDArray[np.int64], max_boxes: int
) -> Array:
    """Precision, recall and F1 of each class at each of CONFIDENCES, IoU .5: [3, 1001, classes], NaN without truth.

    ``ious`` by (image, class): [detections, truth], detections by falling score, ``max_boxes`` at most.
    """
    result = np.full((3, len(CONFIDENCES), len(counts)), np.nan)
    for k in np.flatnonzero(counts).tolist():
        cells = [_scored(rows, k, max_boxes, ious.get((image, k))) for image, rows in enumerate(found)]
        scores, right = (np.concatenate(parts) for parts in zip(*cells, strict=True))
        order = np.argsort(-scores, kind="mergesort")
        hits = np.concatenate(([0], np.cumsum(right[order])))
        taken = np.searchsorted(-scores[order], -CONFIDENCES, side="right")  # detections with score >= confidence
        precision = np.where(taken > 0, hits[taken] / np.maximum(taken, 1), 0.0)
        recall = hits[taken] / counts[k]
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        result[:, :, k] = precision, recall, f1
    return result


def _scored(rows: Array, k: int, max_boxes: int, ious: Any) -> tuple[Array, NDArray[np.bool_]]:
    """Scores of an image's detections of a class, falling, and which of them are right at IoU .5.

    COCO's matching: the best score chooses first, the truth that it overlaps most and that is still free; of several
    that it overlaps alike, the last.
    """
    scores = -np.sort(-rows[rows[:, 5] == k, 4], kind="mergesort")[:max_boxes]
    right = np.zeros(len(scores), bool)
    if ious is not None and len(ious):
        overlaps = np.array(ious, dtype=np.float64)
        for at in np.flatnonzero(overlaps.max(axis=1) >= HALF):
            best = overlaps[at].max()
            if best >= HALF:
                right[at] = True
                overlaps[:, np.flatnonzero(overlaps[at] == best)[-1]] = -1  # taken
    return scores, right


def _truth(truth: Sequence[Array], names: Sequence[str]) -> COCO:
    """The truth as COCO's tools hold it, without a file."""
    rows = [(image, box) for image, boxes in enumerate(truth) for box in boxes]
    notes = [_annotation(n, image, box[0], box[1:5]) | {"iscrowd": 0} for n, (image, box) in enumerate(rows, 1)]
    return _coco(len(truth), notes, names)


def _found(found: Sequence[Array], names: Sequence[str]) -> COCO:
    """Detections in the same form; they stay in their order, which decides between equal scores."""
    rows = [(image, box) for image, boxes in enumerate(found) for box in boxes]
    notes = [
        _annotation(n, image, box[5], box[:4]) | {"score": float(box[4])} for n, (image, box) in enumerate(rows, 1)
    ]
    return _coco(len(found), notes, names)


def _annotation(number: int, image: int, label: float, xyxy: Array) -> dict[str, Any]:
    """One COCO annotation; numbers start at 1, because COCO's tools take 0 for "no match"."""
    x1, y1, x2, y2 = (float(v) for v in xyxy)
    width, height = x2 - x1, y2 - y1
    return {
        "id": number,
        "image_id": image,
        "category_id": int(label),
        "bbox": [x1, y1, width, height],
        "area": width * height,
    }


def _coco(images: int, notes: list[dict[str, Any]], names: Sequence[str]) -> COCO:
    coco = COCO(print_function=log.debug)
    coco.dataset = {
        "images": [{"id": i} for i in range(images)],
        "annotations": notes,
        "categories": [{"id": k, "name": name} for k, name in enumerate(names)],
    }
    coco.createIndex()
    return coco
