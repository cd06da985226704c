"""How good a detector is: COCO AP, precision and recall, a confusion matrix, and how long it takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from utils.darknet.spec import Detect
from utils.data.transforms import as_inputs
from utils.detection.average_precision import Scores, average_precision
from utils.detection.boxes import cxcywh_to_xyxy, pairwise_iou
from utils.detection.decode import decode
from utils.detection.nms import non_max_suppression, suppression_of
from utils.task import Predictor, Timing, clock, eval_mode


@dataclass(frozen=True)
class Detections:
    """What was found in one image, and what is there; px of the network image."""

    index: int  # of the image in its dataset
    boxes: Tensor  # [n, 6] x1, y1, x2, y2, score, class; best first
    truth: Tensor  # [m, 5] class, x1, y1, x2, y2
    letterbox: Any  # how the network image was made from the original


@dataclass(frozen=True, kw_only=True)
class DetectionMetrics(Scores):
    """The worth of a detector on a data set: its scores and what they were made from."""

    confusion: NDArray[np.int64]  # [classes + 1, classes + 1] rows predicted, columns true, last is background
    timing: Timing
    detections: tuple[Detections, ...]

    def record(self) -> dict[str, float]:
        """The five numbers of a run's record, by their names there."""
        return {name: getattr(self, name) for name in ("map50", "map", "precision", "recall", "f1")}


def evaluate(
    predictor: Predictor,
    loader: Iterable[Any],
    heads: Sequence[Detect],
    names: Sequence[str],
    *,
    conf: float = 0.001,
    iou: float = 0.6,
    device: str | torch.device = "cpu",
    autocast: torch.dtype | None = None,
    max_candidates: int = 1000,
    max_boxes: int = 300,
    progress: bool = True,
) -> DetectionMetrics:
    """Run a predictor over labelled images and measure it.

    Boxes are compared in px of the network image: an overlap is the same there as in the original picture, because
    resizing and padding move both boxes alike.

    Args:
        predictor: images [N, C, H, W] in 0..1, or frames [N, T, C, H, W] -> one raw tensor per head; a module is put
            into eval mode meanwhile.
        loader: yields batches with ``images`` uint8, ``targets`` [M, 6] (image in the batch, class, cx, cy, w, h;
            0..1), ``indices`` and ``letterboxes``; and ``least``, where found boxes that are too small do not count.
        heads: the [yolo] layers, in the order of the predictor's outputs.
        names: the classes' names.
        conf: candidates score above this; low, because AP needs the tail.
        iou: NMS threshold within a class; what overlap is, the heads say.
        device: where the predictor lives.
        autocast: run the predictor in this type (torch.bfloat16); decoding stays in float32.
        max_candidates: see :func:`utils.detection.nms.non_max_suppression`.
        max_boxes: likewise.
        progress: show a bar.
    """
    device = torch.device(device)
    seconds = np.zeros(2)
    collected: list[Detections] = []
    with eval_mode(predictor), torch.no_grad():
        for batch in tqdm(loader, desc="evaluate", disable=None if progress else True, leave=False, delay=2):
            size = (int(batch.images.shape[-2]), int(batch.images.shape[-1]))
            began = clock(device)
            images = as_inputs(batch.images, device)
            with torch.inference_mode(), torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
                raw = predictor(images)
            between = clock(device)
            found = non_max_suppression(
                decode(raw, heads, size),
                conf=conf,
                iou=iou,
                rule=suppression_of(heads, [size if box is None else box.scaled for box in batch.letterboxes]),
                max_candidates=max_candidates,
                max_boxes=max_boxes,
                multi_label=True,
            )
            seconds += between - began, clock(device) - between
            collected += _collect(batch, found, size)
    return measure(collected, names, timing=Timing.of(seconds.tolist(), len(collected)))


def measure(detections: Sequence[Detections], names: Sequence[str], *, timing: Timing) -> DetectionMetrics:
    """The metrics of detections that have been made already."""
    truth = [image.truth.double().numpy() for image in detections]
    found = [image.boxes.double().numpy() for image in detections]
    scores = average_precision(truth, found, names)
    return DetectionMetrics(
        **vars(scores),
        confusion=confusion_matrix(detections, len(names)),
        timing=timing,
        detections=tuple(detections),
    )


def confusion_matrix(
    detections: Sequence[Detections], classes: int, *, conf: float = 0.25, iou: float = 0.45
) -> NDArray[np.int64]:
    """Which class was taken for which: [classes + 1, classes + 1], rows predicted, columns true, last is background.

    Boxes are paired best overlap first, whatever their classes, above ``iou``. A box of the truth without a partner
    counts in the background's row (missed), a detection without one in the background's column (invented).
    """
    table = np.zeros((classes + 1, classes + 1), dtype=np.int64)
    for image in detections:
        boxes = image.boxes[image.boxes[:, 4] >= conf]
        overlap = pairwise_iou(boxes[:, :4], image.truth[:, 1:]).numpy()  # [n, m]
        seen, known = boxes[:, 5].long().numpy(), image.truth[:, 0].long().numpy()
        free_rows, free_columns = np.ones(len(seen), bool), np.ones(len(known), bool)
        for flat in np.argsort(-overlap, axis=None, kind="stable"):
            i, j = divmod(int(flat), max(1, len(known)))
            if overlap[i, j] <= iou:
                break
            if free_rows[i] and free_columns[j]:
                free_rows[i] = free_columns[j] = False
                table[seen[i], known[j]] += 1
        table[:, classes] += np.bincount(seen[free_rows], minlength=classes + 1)
        table[classes] += np.bincount(known[free_columns], minlength=classes + 1)
    return table


def coco_results(
    detections: Sequence[Detections], image_ids: Sequence[int | str], category_ids: Sequence[int] | None = None
) -> list[dict[str, Any]]:
    """Detections in COCO's results format, boxes in px of the original pictures.

    Args:
        detections: ``Metrics.detections``.
        image_ids: id of each image of the dataset, by its index there.
        category_ids: COCO's number of each class; the class index by default.

    Source: https://cocodataset.org/#format-results
    """
    rows = []
    for image in detections:
        boxes = image.boxes[:, :4].double().numpy()
        if image.letterbox is not None:
            boxes = image.letterbox.to_original(boxes)
        for (x1, y1, x2, y2), (score, label) in zip(boxes.tolist(), image.boxes[:, 4:].tolist(), strict=True):
            rows.append(
                {
                    "image_id": image_ids[image.index],
                    "category_id": int(label) if category_ids is None else category_ids[int(label)],
                    "bbox": [round(v, 3) for v in (x1, y1, x2 - x1, y2 - y1)],
                    "score": round(score, 6),
                }
            )
    return rows


def _collect(batch: Any, found: list[Tensor], size: tuple[int, int]) -> list[Detections]:
    """Put detections and truth of a batch together, image by image; no box reaches into the letterbox's border."""
    targets = batch.targets.float().cpu()
    scale = torch.tensor([size[1], size[0], size[1], size[0]], dtype=torch.float32)
    corners = cxcywh_to_xyxy(targets[:, 2:6] * scale)
    rows = torch.cat((targets[:, 1:2], corners), dim=1)
    collected = []
    for i, (index, boxes, letterbox) in enumerate(zip(batch.indices, found, batch.letterboxes, strict=True)):
        (top, left), (height, width) = ((0, 0), size) if letterbox is None else (letterbox.pad, letterbox.scaled)
        boxes[:, 0:4:2].clamp_(left, left + width)
        boxes[:, 1:4:2].clamp_(top, top + height)
        least = getattr(batch, "least", (0.0, 0.0))
        boxes = boxes[_large_enough(boxes, letterbox, *least)] if any(least) else boxes
        collected.append(Detections(int(index), boxes, rows[targets[:, 0] == i], letterbox))
    return collected


def _large_enough(boxes: Tensor, letterbox: Any, diagonal: float, side: float) -> Tensor:
    """Which boxes count as large enough; the limits are px of the original."""
    tall, wide = letterbox.scale if letterbox is not None else (1.0, 1.0)
    w, h = (boxes[:, 2] - boxes[:, 0]) / wide, (boxes[:, 3] - boxes[:, 1]) / tall
    return (torch.hypot(w, h) >= diagonal) & (w >= side) & (h >= side)
