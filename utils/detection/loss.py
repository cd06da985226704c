"""The anchor-based YOLO loss: which cells answer for a target, and how wrong they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.darknet.spec import Detect, Region
from utils.detection.boxes import OVERLAPS, cxcywh_to_xyxy
from utils.detection.decode import anchors_px, boxes_px, is_decoded, order, split, strides
from utils.detection.hierarchy import path_loss
from utils.errors import InputError

LEAST_SPREAD = 1e-2  # of a [Gaussian_yolo]: nothing is surer than a hundredth of a cell
DENSITY_EPSILON = 1e-9  # Darknet's, so that a box far off costs no infinity


@dataclass(frozen=True)
class LossWeights:
    """Gains and the matching rule.

    Probed on digit scenes at 128 px, two heads, 500 steps of 16 images: a class loss that is a mean over the ten
    classes (a tenth of this one) left mAP@.5 at 0.13, because what a class is was not learned at all; the sum gives
    0.48. Matching by ratio instead of IoU > 0.2, and gains of this size instead of 3.54 / 64.3 / 37.4, took another
    network of that size from 0.50 to 0.84. Their common factor follows YOLO's custom, a loss summed over the images of
    a step, so that the usual learning rates (0.01), decays (5e-4) and sparsity strengths (0.001) mean what they mean
    elsewhere; here it does not depend on the batch.
    """

    box: float = 0.6  # of 1 - overlap, mean over the matches
    objectness: float = 0.5  # of BCE, mean over a head's cells: the few coarse ones weigh as much as the many fine ones
    classification: float = 0.3  # of BCE, mean over the matches, sum over classes: more classes never learn slower
    ratio: float = 2.5  # an anchor matches when no side of the target is this many times longer or shorter
    uncertainty: float = 0.05  # of a [Gaussian_yolo]'s spreads: a tenth of its boxes' share, times uc_normalizer
    overlap: str = "ciou"  # a name in boxes.OVERLAPS
    overlap_share: float = 1.0  # objectness aims at (1 - share) + share * overlap: its score then ranks by fit
    balance: tuple[float, ...] | None = None  # gain of each head's objectness; None: 1


@dataclass(frozen=True)
class Losses:
    """Scalars with gains applied, mean per image; ``total`` is their sum and the only one with a gradient."""

    total: Tensor
    box: Tensor
    objectness: Tensor
    classification: Tensor

    def terms(self) -> dict[str, Tensor]:
        """The four by name, ``total`` first."""
        return dict(vars(self))


@dataclass(frozen=True)
class Matches:
    """Which predictions of one head answer for which targets, [M] each."""

    image: Tensor
    anchor: Tensor
    row: Tensor
    column: Tensor
    target: Tensor  # index into the targets


class YoloLoss:
    """Box overlap, objectness and class losses of all heads.

    Called with raw heads [N, A * (5 + classes), H, W], targets [M, 6] (image, class, cx, cy, w, h; 0..1) and the
    network image's (height, width). Computed in float32 whatever the heads' type is.

    The value does not depend on the batch size: objectness is a mean over each head's cells, box and class losses
    are means over the matches, so two equal images cost what one costs. Where several processes share a batch, ``mean``
    says what the mean of a number over them is, so that theirs average to the loss of the whole batch.
    """

    def __init__(
        self,
        heads: Sequence[Detect],
        weights: LossWeights | None = None,
        *,
        mean: Callable[[float], float] | None = None,
    ) -> None:
        self.heads, self.mean = tuple(heads), mean
        self.weights = weights or LossWeights()
        if (turned := next((head for head in heads if head.turned), None)) is not None:
            raise InputError(
                f"cfg line {turned.line}: [yolo_bdp] learns from objects with a point that is their front, which no "
                "labels here have; train it as [yolo], with filters= of 5 and the classes for each anchor before it"
            )
        if self.weights.overlap not in OVERLAPS:
            raise ValueError(f"overlap {self.weights.overlap!r}; known: {', '.join(OVERLAPS)}")
        if self.weights.balance is not None and len(self.weights.balance) != len(self.heads):
            raise ValueError(f"{len(self.weights.balance)} balances for {len(self.heads)} heads")

    def __call__(self, raw: Sequence[Tensor], targets: Tensor, input_size: tuple[int, int]) -> Losses:
        """The losses of a batch; without targets only objectness is left."""
        with torch.autocast(raw[0].device.type, enabled=False):
            return self._losses([tensor.float() for tensor in raw], targets.to(raw[0].device).float(), input_size)

    def _losses(self, raw: Sequence[Tensor], targets: Tensor, input_size: tuple[int, int]) -> Losses:
        weights = self.weights
        matches = match(raw, self.heads, targets, input_size, weights.ratio)
        found = sum(len(m.target) for m in matches)
        total_matches = max(1, found) if self.mean is None else self.mean(found) or 1
        cells = [tensor[:, 0].numel() * len(head.own_anchors) for tensor, head in zip(raw, self.heads, strict=True)]
        box = objectness = classification = raw[0].new_zeros(())
        for i, (tensor, head, matched) in enumerate(zip(raw, self.heads, matches, strict=True)):
            values = split(tensor, head)  # [N, A, H, W, 5 + classes]
            hit = values[matched.image, matched.anchor, matched.row, matched.column]  # [M, 5 + classes]
            overlap = OVERLAPS[weights.overlap](*_box_pairs(hit, matched, head, tensor, targets, input_size))
            box = box + (1 - overlap).sum()
            if head.spreads:
                gain = weights.uncertainty / weights.box
                box = box + gain * spread_loss(hit, matched, head, tensor, targets, input_size)
            kinds = hit[:, 5 : 5 + head.classes]
            classification = classification + _class_loss(kinds, targets[matched.target, 1], head)
            gain = (weights.balance[i] if weights.balance else 1.0) / cells[i]
            objectness = objectness + gain * self._objectness(values[..., 4], overlap.detach(), matched, head)
        box = weights.box / total_matches * box
        classification = weights.classification / total_matches * classification
        objectness = weights.objectness * objectness
        total = box + objectness + classification
        return Losses(total, box.detach(), objectness.detach(), classification.detach())

    def _objectness(self, values: Tensor, overlap: Tensor, matched: Matches, head: Detect) -> Tensor:
        """Sum of the BCE over one head's cells; ``values`` [N, A, H, W], ``overlap`` [M] of the matches."""
        share = self.weights.overlap_share
        wanted = (1 - share) + share * overlap.clamp(min=0)
        _, anchors, height, width = values.shape
        flat = ((matched.image * anchors + matched.anchor) * height + matched.row) * width + matched.column
        # of several targets in one place the best fit decides, in whatever order they come
        aim = values.new_zeros(values.numel()).scatter_reduce(0, flat, wanted, "amax").view_as(values)
        return _bce(values, aim, head)


def match(
    raw: Sequence[Tensor], heads: Sequence[Detect], targets: Tensor, input_size: tuple[int, int], ratio: float
) -> list[Matches]:
    """Assign targets to predictions, by shape and by reach; one Matches per head.

    An anchor answers for a target when both sides differ by less than ``ratio`` times; the nearest of all anchors
    always does, so no target is lost. A cell answers when its formulas can reach the target's centre: its own cell,
    and a neighbour whose border is nearer than the head's ``reach``.
    """
    size = targets.new_tensor([input_size[1], input_size[0]])
    wh = targets[:, 4:6] * size  # [M, 2] px
    misfit = [  # [M, A] each
        _misfit(wh, anchors_px(head, targets.new_tensor(strides(tensor, input_size))))
        for tensor, head in zip(raw, heads, strict=True)
    ]
    nearest = torch.cat(misfit, dim=1).min(dim=1).values[:, None] if len(targets) else misfit[0]
    found = []
    for tensor, head, worst in zip(raw, heads, misfit, strict=True):
        fits = (worst < ratio) | (worst <= nearest)
        target, anchor = torch.nonzero(fits, as_tuple=True)  # [K]
        grid = targets.new_tensor([tensor.shape[3], tensor.shape[2]])
        place = targets[target, 2:4] * grid  # [K, 2] in cells
        own = torch.minimum(place.floor(), grid - 1)  # a centre on the last border is in the last cell
        within = place - own
        reach = head.reach
        kept, cells = [torch.arange(len(target), device=target.device)], [own]
        for dx, dy in ((-1, 0), (1, 0), (0, -1), (0, 1)) if reach > 0 else ():
            near = (within < reach) if dx + dy < 0 else (within > 1 - reach)
            rows = torch.nonzero(near[:, 0] if dx else near[:, 1]).squeeze(1)
            kept.append(rows)
            cells.append(own[rows] + targets.new_tensor([dx, dy]))
        index, cell = torch.cat(kept), torch.cat(cells)
        inside = ((cell >= 0) & (cell < grid)).all(dim=1)
        index, cell = index[inside], cell[inside].long()
        target, anchor = target[index], anchor[index]
        found.append(Matches(targets[target, 0].long(), anchor, cell[:, 1], cell[:, 0], target))
    return found


def _misfit(wh: Tensor, anchors: Tensor) -> Tensor:
    """How many times longer or shorter the worse side of each target [M, 2] is than each anchor's [A, 2]: [M, A]."""
    times = wh[:, None].clamp(min=1e-3) / anchors[None]
    return torch.maximum(times, 1 / times).amax(dim=2)


def _box_pairs(
    hit: Tensor, matched: Matches, head: Detect, tensor: Tensor, targets: Tensor, input_size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Predicted and true boxes of the matches, xyxy px, [M, 4] each."""
    cells = torch.stack((matched.column, matched.row), dim=1).float()
    stride = hit.new_tensor(strides(tensor, input_size))
    predicted = boxes_px(hit[:, :4], cells, anchors_px(head, stride)[matched.anchor], stride, head)
    size = hit.new_tensor([input_size[1], input_size[0]])
    true = targets[matched.target, 2:6] * size.repeat(2)
    return cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(true)


def spread_loss(
    hit: Tensor, matched: Matches, head: Detect, tensor: Tensor, targets: Tensor, input_size: tuple[int, int]
) -> Tensor:
    """Sum over matches and coordinates of -log of the normal density of the truth, whose deviation is what learns.

    The means learn from the overlap; here they are held, as in Darknet with any iou_loss but mse. Coordinates are those
    of the head: x and y in cells, w and h as logarithms of anchors.

    Source: Choi et al., Gaussian YOLOv3, equation 5 (arXiv 1904.04620); delta_gaussian_yolo_box.
    """
    own = hit[:, :4].detach()
    grid = targets.new_tensor([tensor.shape[3], tensor.shape[2]])
    cells = torch.stack((matched.column, matched.row), dim=1).float()
    anchors = anchors_px(head, hit.new_tensor(strides(tensor, input_size)))[matched.anchor]
    true = targets[matched.target, 2:6]
    size = hit.new_tensor([input_size[1], input_size[0]])
    centre = own[:, :2].sigmoid() * (1 + 2 * head.reach) - head.reach - (true[:, :2] * grid - cells)
    extent = own[:, 2:] - (true[:, 2:] * size / anchors).clamp(min=1e-6).log()
    deviation = hit[:, -4:].sigmoid().clamp(min=LEAST_SPREAD)
    apart = torch.cat((centre, extent), dim=1) / deviation
    density = torch.exp(-apart.square() / 2) / (deviation * math.sqrt(2 * math.pi))
    gain = float(dict(head.options).get("uc_normalizer", 1.0))
    return -gain * torch.log(density + DENSITY_EPSILON).sum()


def _class_loss(values: Tensor, labels: Tensor, head: Detect) -> Tensor:
    """Sum over matches and classes of the BCE; of a [region] with softmax, sum over matches of the cross entropy,
    with a hierarchy of those of a class and of all above it.

    A single class is trained too: its probability multiplies the score in every Darknet reader, so it must become 1
    (a softmax of one is 1 already).
    """
    if head.parents:
        return path_loss(values, labels, head.parents)
    if isinstance(head, Region) and head.softmax:
        return F.cross_entropy(values, labels.long(), reduction="sum")
    return _bce(values, F.one_hot(labels.long(), head.classes).to(values.dtype), head)


def _bce(values: Tensor, aim: Tensor, head: Detect) -> Tensor:
    """Sum of binary cross entropies; decoded heads have been through the logistic already."""
    if is_decoded(head):
        return F.binary_cross_entropy(values.clamp(0, 1), aim, reduction="sum")
    return F.binary_cross_entropy_with_logits(values, aim, reduction="sum")


def prior_biases(head: Detect, *, objectness: float = 0.01) -> Tensor:
    """Biases for the convolution before a fresh head: boxes at the anchors, few objects, no favourite class.

    Args:
        head: the head.
        objectness: share of cells that hold an object; without it the first steps are spent on unlearning a half.

    Returns:
        [anchors * each] float32, logits.

    Source: Lin et al., Focal Loss, ICCV 2017, section 4.1 (arXiv 1708.02002).
    """
    own = torch.zeros(len(head.own_anchors), head.each)
    own[:, 4] = math.log(objectness / (1 - objectness))
    chance = 0.6 / head.classes
    own[:, 5 : 5 + head.classes] = math.log(chance / (1 - chance))
    if head.spreads or head.turned:
        own[:, order(head)] = own.clone()
    return own.flatten()
