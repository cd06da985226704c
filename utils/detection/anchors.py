"""Anchors fitted to the boxes of a set: k-means with 1 - IoU as the distance, then genetic refinement.

Boxes and anchors are (width, height) in px of the network's image; both are thought of as having one centre.

Source: Redmon and Farhadi, YOLO9000, CVPR 2017, section 2 (arXiv 1612.08242), for the distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from utils.data.transforms import fit
from utils.detection.dataset import DetectionDataset
from utils.errors import InputError

MOST = 20_000  # boxes that the search looks at; more change the anchors by less than a pixel
ROUNDS = 300  # of k-means at most; it ends by itself long before
STARTS = 10  # of k-means, from other boxes each time: one in three ends with two means in one cluster


@dataclass(frozen=True)
class Fit:
    """How well anchors fit boxes.

    ``mean_iou`` of each box with its best anchor; ``recall``: share of boxes with an anchor that no side differs from
    by ``ratio`` times or more (the rule by which training matches); ``recall_iou``: with one of IoU above 0.5.
    """

    mean_iou: float
    recall: float
    recall_iou: float


def box_sizes(dataset: DetectionDataset) -> np.ndarray:
    """(width, height) of every box, px of the network's image: float64 [n, 2]."""
    rows = []
    for shape, boxes in zip(dataset.shapes(), dataset.boxes, strict=True):
        height, width = fit(shape, dataset.size, dataset.how).scaled
        rows.append(boxes[:, 3:5].astype(np.float64) * (width, height))
    return np.concatenate(rows) if rows else np.zeros((0, 2))


def overlaps(boxes: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """IoU of boxes [n, 2] and anchors [k, 2] round one centre: [n, k]."""
    inter = np.minimum(boxes[:, None], anchors[None]).prod(2)
    return inter / (boxes.prod(1)[:, None] + anchors.prod(1)[None] - inter)


def measure(boxes: np.ndarray, anchors: np.ndarray, ratio: float) -> Fit:
    """How well anchors [k, 2] fit boxes [n, 2]."""
    best = overlaps(boxes, anchors).max(1)
    times = boxes[:, None] / anchors[None]
    nearest = np.maximum(times, 1 / times).max(2).min(1)
    return Fit(float(best.mean()), float((nearest < ratio).mean()), float((best > 0.5).mean()))


def find_anchors(
    boxes: np.ndarray,
    count: int,
    *,
    generations: int = 1000,
    seed: int = 0,
    known: Sequence[tuple[float, float]] = (),
) -> np.ndarray:
    """Anchors [count, 2] for boxes [n, 2], px, by area, of a tenth of a pixel.

    Args:
        boxes: (width, height) px, all above 0.
        count: of anchors.
        generations: of the refinement; 0: k-means alone.
        seed: of every random choice.
        known: anchors to beat, if there are ``count`` of them: they are refined instead where they fit better.

    Raises:
        InputError: there are fewer different boxes than anchors.
    """
    rng = np.random.Generator(np.random.PCG64(seed))
    if len(np.unique(boxes.round(1), axis=0)) < count:
        raise InputError(f"{len(boxes)} boxes, fewer than {count} of different size; {count} anchors need more boxes")
    sample = boxes[rng.choice(len(boxes), MOST, replace=False)] if len(boxes) > MOST else boxes
    anchors = max((k_means(sample, count, rng) for _ in range(STARTS)), key=lambda means: _fitness(sample, means))
    if len(known) == count and _fitness(sample, np.array(known)) > _fitness(sample, anchors):
        anchors = np.array(known, dtype=np.float64)
    anchors = _refine(sample, anchors, generations, rng).round(1).clip(0.1)
    return anchors[np.argsort(anchors.prod(1), kind="stable")]


def k_means(boxes: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Means [count, 2] of the boxes [n, 2] that are nearest to each, the distance being 1 - IoU; a local optimum."""
    means = boxes[rng.integers(len(boxes))][None]
    while len(means) < count:  # the next one far from those there are, as k-means++ does
        distance = (1 - overlaps(boxes, means).max(1)) ** 2
        share = distance / distance.sum()
        means = np.concatenate([means, boxes[rng.choice(len(boxes), p=share)][None]])
    nearest = np.full(len(boxes), -1)
    for _ in range(ROUNDS):
        before, nearest = nearest, overlaps(boxes, means).argmax(1)
        if (before == nearest).all():
            break
        means = np.stack([boxes[nearest == i].mean(0) if (nearest == i).any() else means[i] for i in range(count)])
    return means


def _refine(boxes: np.ndarray, anchors: np.ndarray, generations: int, rng: np.random.Generator) -> np.ndarray:
    """Change some sides by some per cent, keep what fits better, again and again."""
    best = _fitness(boxes, anchors)
    for _ in tqdm(range(generations), "refining anchors", delay=2, leave=False, disable=None):
        change = np.exp(rng.normal(0, 0.1, anchors.shape) * (rng.random(anchors.shape) < 0.3))
        child = anchors * change
        value = _fitness(boxes, child)
        if value > best:
            best, anchors = value, child
    return anchors


def _fitness(boxes: np.ndarray, anchors: np.ndarray) -> float:
    return float(overlaps(boxes, anchors).max(1).mean())
