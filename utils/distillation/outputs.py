"""Terms that compare what two heads say: objectness, classes, boxes.

A ``View`` is one pair of heads whose outputs mean the same. Terms over cells are means over a head's cells, then over
the heads, as in the objectness loss; terms over objects are means over the positives of all heads. So none of them
depends on the batch, on the number of objects or on the size of the grids. ``mean`` is that of a number over the
processes that share a batch: what is counted, positives and weights, is then counted over all of them.

Boxes are compared as (cx, cy, ln w, ln h), centres in cells: the logarithm makes large and small boxes worth the same,
and keeps a size that has run away, which is an exponential, from drowning everything else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.darknet.spec import Detect, Region
from utils.detection.decode import anchors_px, boxes_px, is_decoded, scores
from utils.detection.hierarchy import log_probabilities
from utils.detection.loss import Matches

TEMPERATURE = 3.0  # the reference's, throughout
SMALLEST = 1e-6
Mean = Callable[[Any], Any]  # of a number, or of a tensor of one, which no device has to be waited for


def alone(value: Any) -> Any:
    """The mean over a single process."""
    return value


@dataclass(frozen=True)
class View:
    """One pair of heads whose outputs can be compared.

    ``student`` and ``teacher``: raw [N, A, H, W, 5 + classes] in the order of the student's anchors; ``matches``: the
    student's cells and anchors that answer for a target; ``stride``: px per cell, (x, y), [2].
    """

    student: Tensor
    teacher: Tensor
    heads: tuple[Detect, Detect]
    matches: Matches
    stride: Tensor


def softened_kl(student: Tensor, teacher: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """T² · KL(softmax(t/T) ‖ softmax(s/T)) over the last axis; T² keeps the gradient's size whatever T is.

    Source: Hinton et al., Distilling the Knowledge in a Neural Network, 2015, section 2 (arXiv 1503.02531).
    """
    s, t = F.log_softmax(student / temperature, dim=-1), F.log_softmax(teacher / temperature, dim=-1)
    return (t.exp() * (t - s)).sum(-1) * temperature**2


def binary_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(t ‖ s) of the probabilities that two logits mean, number by number; its slope is σ(s) - σ(t)."""
    aim = teacher.sigmoid()
    with_logits = F.binary_cross_entropy_with_logits
    return with_logits(student, aim, reduction="none") - with_logits(teacher, aim, reduction="none")


def class_term(views: Sequence[View]) -> Tensor:
    """Softened KL of [objectness, classes] of every cell; box offsets have no part in it."""
    parts = [softened_kl(_logits(v.student, v.heads[0]), _logits(v.teacher, v.heads[1])).mean() for v in views]
    return torch.stack(parts).mean()


def objectness_term(views: Sequence[View]) -> Tensor:
    """KL of every cell's objectness, a probability of its own."""
    parts = [
        binary_kl(_logits(v.student, v.heads[0])[..., 0], _logits(v.teacher, v.heads[1])[..., 0]).mean() for v in views
    ]
    return torch.stack(parts).mean()


def seen_class_term(views: Sequence[View], mean: Mean = alone) -> Tensor:
    """KL of the classes, each cell as important as the teacher's objectness there.

    Source: Mehta and Ozturk, Object detection at 200 Frames Per Second, 2018, section 3.2 (arXiv 1805.06361); a KL in
    place of their squared difference.
    """
    return _by_objectness(views, [_class_kl(v) for v in views], mean)


def seen_box_term(views: Sequence[View], mean: Mean = alone) -> Tensor:
    """‖s - t‖² / 2 of the boxes, each cell as important as the teacher's objectness there.

    That is the KL of two Gaussians of unit variance. Where the teacher sees nothing its boxes were never trained, and
    imitating them would be learning noise.
    """
    return _by_objectness(views, [_distance(_boxes(view, 0), _boxes(view, 1)) / 2 for view in views], mean)


def direct_box_term(views: Sequence[View], mean: Mean = alone) -> Tensor:
    """‖s - t‖² of the boxes, mean over the positives."""
    distances = [_distance(_hits(view, 0), _hits(view, 1)) for view in views]
    return torch.cat(distances).sum() / _positives(views, mean)


def worse_box_term(views: Sequence[View], targets: Tensor, mean: Mean = alone) -> Tensor:
    """‖s - gt‖² of those positives where the student is worse than the teacher, mean over all positives.

    Source: Chen et al., Learning Efficient Object Detection Models with Knowledge Distillation, NIPS 2017, equation 4,
    with a margin of 0.
    """
    total = views[0].student.new_zeros(())
    for view in views:
        height, width = view.student.shape[2:4]
        true = targets[view.matches.target, 2:6] * targets.new_tensor([width, height, width, height])
        own, others = (_distance(_hits(view, who), _logarithmic(true)) for who in (0, 1))
        total = total + own[own > others].sum()
    return total / _positives(views, mean)


def _positives(views: Sequence[View], mean: Mean) -> float:
    return mean(sum(len(view.matches.target) for view in views)) or 1


def _distance(one: Tensor, other: Tensor) -> Tensor:
    """Squared distance of boxes [..., 4]: [...]."""
    return (one - other).square().sum(-1)


def _hits(view: View, who: int) -> Tensor:
    """Boxes of the positives, [M, 4]; of the student (0) or the teacher (1)."""
    m, head = view.matches, view.heads[who]
    values = (view.student, view.teacher)[who][m.image, m.anchor, m.row, m.column, :4]
    cells = torch.stack((m.column, m.row), dim=1).float()
    return _logarithmic(boxes_px(values, cells, _anchors(view)[m.anchor], torch.ones_like(view.stride), head))


def _boxes(view: View, who: int) -> Tensor:
    """Every box, its centre from its own cell's corner, [N, A, H, W, 4]; of the student (0) or the teacher (1)."""
    values, corner = (view.student, view.teacher)[who][..., :4], torch.zeros_like(view.stride)
    anchors = _anchors(view).view(1, -1, 1, 1, 2)
    return _logarithmic(boxes_px(values, corner, anchors, torch.ones_like(view.stride), view.heads[who]))


def _logarithmic(boxes: Tensor) -> Tensor:
    """(cx, cy, w, h) in cells -> (cx, cy, ln w, ln h)."""
    return torch.cat((boxes[..., :2], boxes[..., 2:].clamp(min=SMALLEST).log()), dim=-1)


def _anchors(view: View) -> Tensor:
    """The anchors in cells, [A, 2]: both heads have the same, in the student's order here."""
    return anchors_px(view.heads[0], view.stride) / view.stride


def _logits(values: Tensor, head: Detect) -> Tensor:
    """Objectness and classes as logits, [..., 1 + classes]."""
    return torch.logit(values[..., 4:], eps=1e-4) if is_decoded(head) else values[..., 4:]


def _class_kl(view: View) -> Tensor:
    """KL of the classes of every cell, [N, A, H, W]: of one distribution, or of each class by itself."""
    s, t = (_logits(v, head)[..., 1:] for v, head in zip((view.student, view.teacher), view.heads, strict=True))
    parents = view.heads[0].parents
    if parents:
        wanted, found = log_probabilities(t, parents), log_probabilities(s, parents)
        return (wanted.exp() * (wanted - found)).sum(-1)
    if isinstance(view.heads[0], Region) and view.heads[0].softmax:
        return softened_kl(s, t, 1.0)
    return binary_kl(s, t).sum(-1)


def _by_objectness(views: Sequence[View], values: Sequence[Tensor], mean: Mean) -> Tensor:
    """Mean of [N, A, H, W] over all heads, weighted by the teacher's objectness.

    The sum of the weights counts the objects as the teacher sees them. It is taken as 1 at least: pictures without any
    would else teach their noise at full strength.
    """
    weights = [scores(view.teacher[..., 4:], view.heads[1])[..., 0] for view in views]
    total = torch.stack([(w * value).sum() for w, value in zip(weights, values, strict=True)]).sum()
    return total / mean(torch.stack([w.sum() for w in weights]).sum()).clamp(min=1)
