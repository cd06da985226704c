"""What a detector answers about one picture, as text, rows and a drawing; and its answers and tables in files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from utils.darknet.spec import Detect
from utils.data.manifest import Manifest
from utils.data.source_ids import ids_of
from utils.data.transforms import Letterbox
from utils.detection.average_precision import RECALLS
from utils.detection.decode import decode
from utils.detection.evaluate import DetectionMetrics, coco_results
from utils.detection.nms import non_max_suppression, suppression_of
from utils.detection.pictures import draw_boxes
from utils.files import write_text
from utils.reporting.tables import plain_table
from utils.task import GoldenFile
from utils.thresholds import Thresholds

CONFIDENCE, OVERLAP = 0.25, 0.45  # of the boxes beside golden vectors


@dataclass(frozen=True)
class DetectionResult:
    """The boxes of one picture: [n, 6] x1, y1, x2, y2 (px of the picture), score, class; best first."""

    boxes: Tensor

    def draw(self, image: NDArray[np.uint8], names: Sequence[str]) -> NDArray[np.uint8]:
        """The picture [H, W, 3] with labelled boxes; ``image`` is [H, W, C], RGB or grey."""
        return draw_boxes(np.repeat(image, 3, 2) if image.shape[2] == 1 else image, self.boxes, names)

    def text(self, height: int, width: int) -> str:
        """Lines of class, cx, cy, w, h (0..1 of the picture), score."""
        lines = []
        for x1, y1, x2, y2, score, label in self.boxes.tolist():
            values = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height, score)
            lines.append(" ".join([str(int(label)), *(f"{value:.6f}" for value in values)]))
        return "".join(line + "\n" for line in lines)

    def rows(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """Class, name, box (x, y, w, h; px) and score of each, for JSON."""
        return [
            {
                "category_id": int(label),
                "name": names[int(label)],
                "bbox": [round(v, 2) for v in (x1, y1, x2 - x1, y2 - y1)],
                "score": round(score, 5),
            }
            for x1, y1, x2, y2, score, label in self.boxes.tolist()
        ]

    def labels(self) -> list[int]:
        """The class of each box."""
        return [int(label) for label in self.boxes[:, 5].tolist()]

    def beside(self, stem: Path) -> list[Path]:
        """Nothing: the drawing and the text say it."""
        return []


def results_of(
    raw: Sequence[Tensor], heads: Sequence[Detect], letterboxes: Sequence[Letterbox], thresholds: Thresholds
) -> list[DetectionResult]:
    """Raw heads -> the boxes of each picture of the batch, in px of the picture."""
    found = non_max_suppression(
        decode(raw, heads, letterboxes[0].size),
        rule=suppression_of(heads, [box.scaled for box in letterboxes]),
        conf=thresholds.confidence,
        iou=thresholds.overlap,
        agnostic=thresholds.agnostic,
        classes=thresholds.classes,
    )
    results = []
    for boxes, box in zip([each.cpu() for each in found], letterboxes, strict=True):
        corners = torch.from_numpy(box.to_original(boxes[:, :4].numpy()))
        results.append(DetectionResult(torch.cat([corners.to(boxes), boxes[:, 4:]], 1)))
    return results


def golden_boxes(
    raw: Sequence[Tensor], heads: Sequence[Detect], size: tuple[int, int], names: Sequence[str]
) -> GoldenFile:
    """What the heads make of golden accumulators, in floating point, an entry an image."""
    rule = suppression_of(heads, [size] * len(raw[0]))
    found = non_max_suppression(decode(raw, heads, size), conf=CONFIDENCE, iou=OVERLAP, rule=rule)
    contents: list[dict[str, Any]] = []
    for boxes in found:
        rows = [
            {"class": int(row[5]), "name": names[int(row[5])], "score": round(row[4], 6), "xyxy": row[:4]}
            for row in boxes.tolist()
        ]
        contents.append({"confidence": CONFIDENCE, "iou": OVERLAP, "unit": "px of the network's image", "boxes": rows})
    return GoldenFile("boxes.json", tuple(contents))


def save_results(
    path: Path, metrics: DetectionMetrics, images: Sequence[Path], manifest: Manifest | None = None
) -> Path:
    """Detections in COCO's results format.

    Ids of images and categories are those of the json that the set was made of; else classes have their numbers, and
    images their stems, as numbers where no two would be one.

    Raises:
        InputError: the file of those ids is damaged.
    """
    ids, categories = ids_of(images, manifest)
    return write_text(path, json.dumps(coco_results(metrics.detections, ids, categories)))


def class_table(metrics: DetectionMetrics) -> str:
    """A row a class: boxes, precision, recall, F1, AP@.5, AP@.5:.95; all classes first."""
    rows = [["class", "boxes", "P", "R", "F1", "AP@.5", "AP@.5:.95"]]
    boxes = sum(each.truth for each in metrics.per_class)
    everything = [metrics.precision, metrics.recall, metrics.f1, metrics.map50, metrics.map]
    rows.append(["all", str(boxes), *(f"{value:.3f}" for value in everything)])
    for each in metrics.per_class:
        values = [each.precision, each.recall, each.f1, each.ap50, each.ap]
        rows.append([each.name, str(each.truth), *(f"{value:.3f}" if each.truth else "-" for value in values)])
    return plain_table("classes", rows)


def pr_rows(measured: Mapping[str, DetectionMetrics]) -> list[dict[str, Any]]:
    """Precision at COCO's 101 levels of recall, IoU .5: the mean over the classes that occur, a column a network."""
    known = {name: metrics.curves[[each.truth > 0 for each in metrics.per_class]] for name, metrics in measured.items()}
    means = {name: curves.mean(axis=0).tolist() if len(curves) else None for name, curves in known.items()}
    return [
        {"recall": round(float(recall), 2), **{name: mean[i] if mean else None for name, mean in means.items()}}
        for i, recall in enumerate(RECALLS)
    ]


def class_rows(measured: Mapping[str, DetectionMetrics]) -> list[dict[str, Any]]:
    """A row a class: boxes in the truth, AP at IoU .5 of every network; None where there is no box."""
    first = next(iter(measured.values())).per_class
    return [
        {
            "class": each.name,
            "boxes": each.truth,
            **{name: metrics.per_class[k].ap50 if each.truth else None for name, metrics in measured.items()},
        }
        for k, each in enumerate(first)
    ]
