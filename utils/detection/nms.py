"""Non-maximum suppression by OpenCV, on a bounded number of candidates, in an order that never varies."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from utils.detection.boxes import cxcywh_to_xyxy


def non_max_suppression(
    decoded: Tensor,
    *,
    conf: float,
    iou: float,
    max_candidates: int = 1000,
    max_boxes: int = 300,
    agnostic: bool = False,
    multi_label: bool = False,
    classes: Collection[int] | None = None,
) -> list[Tensor]:
    """The boxes worth showing of each image.

    Args:
        decoded: [N, boxes, 5 + classes] from :func:`utils.detection.decode.decode`.
        conf: a candidate's score (objectness * class probability) is above this.
        iou: of two boxes of one class that overlap more than this, the better stays.
        max_candidates: how many go into the suppression, best first; it is quadratic in them.
        max_boxes: how many come out, per image.
        agnostic: boxes of different classes suppress each other too.
        multi_label: a box is a candidate for every class above ``conf``, not for its best class only. Evaluation
            wants it: AP of a class is measured on all that could be that class.
        classes: keep these only; all by default.

    Returns:
        One float32 tensor [n, 6] an image: x1, y1, x2, y2 (px of the network image), score, class. Best score first;
        equal scores stand in the order of ``decoded``, so the same numbers always give the same list.
    """
    wanted = None if classes is None else torch.tensor(sorted(classes), dtype=torch.long)
    found = []
    for image in decoded.detach().float().cpu():
        rows, labels, scores = _candidates(image, conf, multi_label, wanted, max_candidates)
        boxes = cxcywh_to_xyxy(image[rows, :4])
        keep = _suppress(boxes, scores, labels, iou, agnostic)[:max_boxes]
        kept = torch.cat((boxes, scores[:, None], labels[:, None].float()), dim=1)
        found.append(kept[keep])
    return found


def _candidates(
    image: Tensor, conf: float, multi_label: bool, wanted: Tensor | None, most: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Row, class and score of at most ``most`` candidates of one image [boxes, 5 + classes], best first: [n] each."""
    scores = image[:, 4:5] * image[:, 5:]  # [boxes, classes]
    if multi_label:
        rows, labels = torch.nonzero(scores > conf, as_tuple=True)
        values = scores[rows, labels]
    else:
        best, arg = scores.max(dim=1)
        rows = torch.nonzero(best > conf).squeeze(1)
        labels, values = arg[rows], best[rows]
    if wanted is not None:
        inside = torch.isin(labels, wanted)
        rows, labels, values = rows[inside], labels[inside], values[inside]
    order = values.sort(descending=True, stable=True).indices[:most]
    return rows[order], labels[order], values[order]


def _suppress(boxes: Tensor, scores: Tensor, labels: Tensor, iou: float, agnostic: bool) -> Tensor:
    """Indices of the boxes that stay, best first; boxes xyxy [n, 4] sorted by score."""
    if len(boxes) == 0:
        return torch.zeros(0, dtype=torch.long)
    corners = boxes.double().numpy()  # doubles: OpenCV's shift of each class then changes no overlap
    rects: Any = np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), axis=1)
    values: Any = scores.numpy()  # Any: OpenCV's annotations ask for lists, which are 10 times slower
    groups: Any = labels.numpy().astype(np.int32)
    if agnostic:
        keep = cv2.dnn.NMSBoxes(rects, values, 0.0, iou)
    else:
        keep = cv2.dnn.NMSBoxesBatched(rects, values, groups, 0.0, iou)
    return torch.as_tensor(np.sort(np.asarray(keep, dtype=np.int64).reshape(-1)))
