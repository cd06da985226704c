"""What a detector that never looks at a picture would reach: in each one the mean training box of every class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from utils.detection.augment import to_corners
from utils.detection.average_precision import Array, average_precision
from utils.detection.boxes import pairwise_iou


@dataclass(frozen=True)
class TrivialBaseline:
    """``map50`` of those boxes on the validation images, all of one score; ``overlapped``: the share of the validation
    boxes that the box of their class overlaps with an IoU above 0.5.
    """

    map50: float
    overlapped: float


def trivial_baseline(train: Sequence[Array], valid: Sequence[Array], names: Sequence[str]) -> TrivialBaseline:
    """How far blind boxes get; what a network is worth begins above that.

    Args:
        train: one [n, 5] an image: class, cx, cy, w, h (0..1 of it).
        valid: likewise; at least one box in all of them.
        names: the classes' names.
    """
    rows = np.concatenate([np.zeros((0, 5)), *train])
    known = [label for label in range(len(names)) if (rows[:, 0] == label).any()]
    means = np.array([rows[rows[:, 0] == label].mean(0) for label in known]).reshape(-1, 5)
    boxes = to_corners(means)
    blind = np.concatenate([boxes[:, 1:], np.ones((len(boxes), 1)), boxes[:, :1]], 1)
    truth = [to_corners(np.asarray(each, np.float64)) for each in valid]
    everything = np.concatenate(truth)
    over = pairwise_iou(torch.from_numpy(everything[:, 1:]), torch.from_numpy(boxes[:, 1:])).numpy()
    hit = ((over > 0.5) & (everything[:, :1] == boxes[None, :, 0])).any(1)
    map50 = average_precision(truth, [blind] * len(truth), names, max_boxes=max(100, len(blind))).map50
    return TrivialBaseline(map50, float(hit.mean()) if len(hit) else 0.0)
