"""Non-maximum suppression on a bounded number of candidates, in an order that never varies."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from utils.darknet.spec import Detect
from utils.detection.boxes import EPS, cxcywh_to_xyxy

PAIRED = 150  # boxes of a group, all of whose pairs are fewer steps than one box after the other


@dataclass(frozen=True)
class Suppression:
    """When two boxes are one: their IoU is too large; or, with a ``power``, IoU - (d² / c²)^power is.

    d is the distance of their centres, c the diagonal of the smallest box round both, each side in shares of the
    picture; ``pictures`` are (height, width) of each one of a batch in px of the network's image, () where it fills it.

    Source: Zheng et al., Distance-IoU Loss, AAAI 2020, section 4.3 (arXiv 1911.08287); the power: Darknet's box.c.
    """

    power: float | None = None
    pictures: Sequence[tuple[int, int]] = ()


def suppression_of(heads: Sequence[Detect], pictures: Sequence[tuple[int, int]] = ()) -> Suppression:
    """What the last head's cfg asks for, which Darknet follows for all of them."""
    return Suppression(heads[-1].distance_power if heads else None, pictures)


def non_max_suppression(
    decoded: Tensor,
    *,
    conf: float,
    iou: float,
    rule: Suppression | None = None,
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
        rule: what overlap is; by default IoU.
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
    rule, found = rule or Suppression(), []
    for number, image in enumerate(decoded.detach().float().cpu()):
        rows, labels, scores = _candidates(image, conf, multi_label, wanted, max_candidates)
        boxes = cxcywh_to_xyxy(image[rows, :4])
        groups = torch.zeros_like(labels) if agnostic else labels
        if rule.power is None:
            keep = _suppress(boxes, scores, groups, iou)[:max_boxes]
        else:
            picture = rule.pictures[number] if rule.pictures else (1, 1)
            keep = _suppress_apart(boxes, groups, iou, rule.power, picture, max_boxes)[:max_boxes]
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


def _suppress(boxes: Tensor, scores: Tensor, groups: Tensor, iou: float) -> Tensor:
    """Indices of the boxes that stay, best first; boxes xyxy [n, 4] sorted by score; only those of a group meet."""
    if len(boxes) == 0:
        return torch.zeros(0, dtype=torch.long)
    corners = boxes.double().numpy()  # doubles: OpenCV's shift of each class then changes no overlap
    rects: Any = np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), axis=1)
    values: Any = scores.numpy()  # Any: OpenCV's annotations ask for lists, which are 10 times slower
    numbers: Any = groups.numpy().astype(np.int32)
    keep = cv2.dnn.NMSBoxesBatched(rects, values, numbers, 0.0, iou)
    return torch.as_tensor(np.sort(np.asarray(keep, dtype=np.int64).reshape(-1)))


def _suppress_apart(
    boxes: Tensor, groups: Tensor, most: float, power: float, picture: tuple[int, int], limit: int
) -> Tensor:
    """As ``_suppress``, but boxes whose centres are apart count as less overlapping (`Suppression`).

    Of a group no more than ``limit`` are looked for.
    """
    height, width = picture
    corners = (boxes.double() / torch.tensor([width, height, width, height], dtype=torch.float64)).T.numpy()
    order = groups.sort(stable=True).indices.numpy()
    parts = np.split(order, groups.bincount().cumsum(0).numpy()[:-1]) if len(order) else []
    large = [part for part in parts if part.size > PAIRED]
    stays = [part[_greedy(corners[:, part], most, power, limit)] for part in large]
    small = [part for part in parts if 0 < part.size <= PAIRED]
    stays += [_greedy_of_pairs(corners, small, most, power, limit)] if small else []
    return torch.as_tensor(np.sort(np.concatenate(stays))) if stays else torch.zeros(0, dtype=torch.long)


def _greedy_of_pairs(
    boxes: NDArray[np.float64], groups: Sequence[NDArray[np.int64]], most: float, power: float, limit: int
) -> NDArray[np.int64]:
    """What `_greedy` leaves of each of many small groups, whose pairs are compared all at once.

    Args:
        boxes: x1, y1, x2, y2 [4, n].
        groups: indices of boxes, best first.
        most: overlap of two that are one.
        power: of the distance.
        limit: of boxes of a group.
    """
    pairs = [part[np.stack(np.triu_indices(part.size, 1))] for part in groups]
    better, worse = np.concatenate(pairs, axis=1)
    sides = np.maximum(boxes[2:] - boxes[:2], 0.0)
    boxes = np.concatenate((boxes, sides[:1] * sides[1:]))
    overlap = _overlap(boxes[:, better], boxes[:, worse])
    near = np.flatnonzero(overlap > most)
    apart = _apart(boxes[:, better[near]], boxes[:, worse[near]])
    near = near[overlap[near] - apart**power > most]
    beaten_by = dict[int, list[int]]()
    for one, other in zip(better[near].tolist(), worse[near].tolist(), strict=True):
        beaten_by.setdefault(other, []).append(one)
    stays = list[int]()
    for part in groups:
        kept = set[int]()
        for box in part.tolist():
            if len(kept) < limit and not any(one in kept for one in beaten_by.get(box, ())):
                kept.add(box)
        stays += kept
    return np.array(stays, dtype=np.int64)


def _greedy(boxes: NDArray[np.float64], most: float, power: float, limit: int) -> list[int]:
    """Indices of the first ``limit`` boxes x1, y1, x2, y2 [4, n], best first, that no better one suppresses."""
    sides = np.maximum(boxes[2:] - boxes[:2], 0.0)
    left, stays, boxes = np.arange(boxes.shape[1]), list[int](), np.concatenate((boxes, sides[:1] * sides[1:]))
    while left.size and len(stays) < limit:
        stays.append(int(left[0]))
        one, left, boxes = boxes[:, 0], left[1:], boxes[:, 1:]
        overlap = _overlap(one, boxes)
        near = np.flatnonzero(overlap > most)  # distance only lessens an overlap
        if near.size:
            alive = np.ones(left.size, dtype=bool)
            alive[near] = overlap[near] - _apart(one, boxes[:, near]) ** power <= most
            left, boxes = left[alive], boxes[:, alive]
    return stays


def _overlap(one: NDArray[np.float64], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """IoU of a box x1, y1, x2, y2, area [5], or of as many [5, n], with each of others [5, n]: [n]."""
    x1, y1, x2, y2, area = one
    inter = np.maximum(np.minimum(x2, boxes[2]) - np.maximum(x1, boxes[0]), 0.0)
    inter *= np.maximum(np.minimum(y2, boxes[3]) - np.maximum(y1, boxes[1]), 0.0)
    found: NDArray[np.float64] = inter / (area + boxes[4] - inter + EPS)
    return found


def _apart(one: NDArray[np.float64], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """d² / c² of a box's centre [5], or of as many [5, n], and each of others' [5, n]: [n]."""
    (x1, y1, x2, y2, _), (left, top, right, bottom, _) = one, boxes
    apart = ((left + right - x1 - x2) / 2) ** 2 + ((top + bottom - y1 - y2) / 2) ** 2
    hull = (np.maximum(x2, right) - np.minimum(x1, left)) ** 2 + (np.maximum(y2, bottom) - np.minimum(y1, top)) ** 2
    found: NDArray[np.float64] = apart / np.maximum(hull, 1e-300)
    return found
