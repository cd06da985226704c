from __future__ import annotations

import pytest
import torch

from tests.detection.helpers import raw_of
from utils.darknet.spec import Region, Yolo
from utils.detection.decode import decode
from utils.detection.loss import LossWeights, YoloLoss, match, prior_biases

SIZE, GRID = (96, 128), (3, 4)
STRIDE = 32.0
ANCHORS = ((0.5, 0.75), (1.5, 1.0), (2.25, 2.5))
TARGETS = torch.tensor([[0, 1, 0.33, 0.41, 0.2, 0.3], [1, 2, 0.7, 0.6, 0.6, 0.7], [1, 0, 0.1, 0.9, 0.1, 0.2]])


def region(softmax: bool = True) -> Region:
    return Region(sources=(0,), anchors=ANCHORS, classes=3, softmax=softmax)


def random_raw(seed: int = 0) -> torch.Tensor:
    return torch.randn(2, 24, *GRID, generator=torch.Generator().manual_seed(seed))


def perfect(one: Region) -> torch.Tensor:
    """The raw head whose boxes are the targets: sure of them, and of nothing else."""
    raw = torch.zeros(2, 24, *GRID)
    view = raw.unflatten(1, (3, 8))
    view[:, :, 4] = -20
    (matched,) = match([raw], [one], TARGETS, SIZE, LossWeights().ratio)
    for n, a, y, x, t in zip(matched.image, matched.anchor, matched.row, matched.column, matched.target, strict=True):
        true = TARGETS[t, 2:] * torch.tensor([SIZE[1], SIZE[0]] * 2)
        anchor, stride = torch.tensor(ANCHORS[a]) * STRIDE, torch.tensor([STRIDE, STRIDE])
        cell = torch.tensor([x, y]).float()
        yolo = Yolo(sources=(0,), mask=(0,), anchors=((1.0, 1.0),), classes=3)
        view[n, a, :4, y, x] = raw_of(true, cell, anchor, stride, yolo)
        view[n, a, 4, y, x] = 20
        view[n, a, 5:, y, x] = torch.eye(3)[int(TARGETS[t, 1])] * 40 - 20
    return raw


def test_region_without_softmax_costs_what_a_yolo_with_anchors_in_px_costs():
    px = tuple((w * STRIDE, h * STRIDE) for w, h in ANCHORS)
    yolo = Yolo(sources=(0,), mask=(0, 1, 2), anchors=px, classes=3)
    raw = random_raw()
    ours, theirs = (YoloLoss([one])([raw], TARGETS, SIZE).terms() for one in (region(False), yolo))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert torch.equal(decode([raw], [region(False)], SIZE), decode([raw], [yolo], SIZE))


@pytest.mark.parametrize("softmax", [True, False])
def test_perfect_predictions_cost_nothing(softmax):
    one = region(softmax)
    assert YoloLoss([one])([perfect(one)], TARGETS, SIZE).total.item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("softmax", [True, False])
def test_loss_falls_as_boxes_and_classes_approach_the_truth(softmax):
    one = region(softmax)
    start, end = random_raw(), perfect(one)
    losses = [YoloLoss([one])([start + t * (end - start)], TARGETS, SIZE) for t in torch.linspace(0, 1, 6).tolist()]
    for name in ("total", "box", "classification"):
        values = [losses_.terms()[name].item() for losses_ in losses]
        assert values == sorted(values, reverse=True) and values[0] > values[-1] + 0.1


def test_class_loss_with_softmax_is_the_surprise_at_the_true_class():
    one, raw = region(), random_raw()
    (matched,) = match([raw], [one], TARGETS, SIZE, LossWeights().ratio)
    decoded = decode([raw], [one], SIZE).view(2, 3, *GRID, 8)
    rows = decoded[matched.image, matched.anchor, matched.row, matched.column, 5:]
    chance = rows[torch.arange(len(rows)), TARGETS[matched.target, 1].long()]
    expected = LossWeights().classification * -chance.log().mean()
    torch.testing.assert_close(YoloLoss([one])([raw], TARGETS, SIZE).classification, expected)


def test_anchors_are_grid_cells_whatever_the_image_size():
    one = region()
    targets = torch.tensor([[0, 1, 0.4, 0.4, 1.5 / 4, 1.0 / 3]])  # the second anchor, as a share of the 4 x 3 cells
    for scale in (1, 2, 5):
        (matched,) = match([random_raw()], [one], targets, (SIZE[0] * scale, SIZE[1] * scale), 1.1)
        assert matched.anchor.tolist() == [1]


def test_descending_the_loss_finds_the_boxes():
    one, raw = region(), random_raw().mul(0.1).requires_grad_()
    optimizer = torch.optim.Adam([raw], lr=0.2)
    for _ in range(150):
        optimizer.zero_grad()
        YoloLoss([one])([raw], TARGETS, SIZE).total.backward()
        optimizer.step()
    found = decode([raw.detach()], [one], SIZE)
    for image, label, *box in TARGETS.tolist():
        best = found[int(image)]
        score = best[:, 4] * best[:, 5 + int(label)]
        true = torch.tensor(box) * torch.tensor([SIZE[1], SIZE[0]] * 2)
        near = ((best[:, :4] - true).abs() < 3).all(1)
        assert score[near].max() > 0.8


def test_a_fresh_region_starts_with_few_objects_and_no_favourite():
    one = region()
    raw = prior_biases(one, objectness=0.02).view(1, -1, 1, 1).expand(1, -1, *GRID)
    decoded = decode([raw], [one], SIZE)[0]
    torch.testing.assert_close(decoded[:, 4], torch.full((36,), 0.02))
    torch.testing.assert_close(decoded[:, 5:], torch.full((36, 3), 1 / 3))
    torch.testing.assert_close(decoded[::12, 2:4], torch.tensor(ANCHORS) * STRIDE)
