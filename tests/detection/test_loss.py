from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from tests.detection.helpers import head, random_heads, raw_of
from utils.detection.boxes import OVERLAPS, cxcywh_to_xyxy
from utils.detection.decode import decode
from utils.detection.loss import LossWeights, YoloLoss, match, prior_biases

SIZE = (96, 128)
GRIDS = ((3, 4), (6, 8))


def two_heads(**options):
    return head((3, 4, 5), **options), head((0, 1, 2), **options)


def random_targets(batch: int, count: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    rows = torch.rand(count, 6, generator=g)
    rows[:, 0] = torch.randint(0, batch, (count,), generator=g)
    rows[:, 1] = torch.randint(0, 3, (count,), generator=g)
    rows[:, 4:] = rows[:, 4:] * 0.4 + 0.05
    return rows


def raw_from_scratch(heads, batch=1):
    raw = [torch.zeros(batch, len(h.mask) * (5 + h.classes), *grid) for h, grid in zip(heads, GRIDS, strict=True)]
    for tensor, one in zip(raw, heads, strict=True):
        tensor.unflatten(1, (len(one.mask), -1))[:, :, 4] = 0.0 if one.new_coords else -20.0
    return raw


def slow_loss(raw, heads, targets, size, weights):
    """The definition, cell by cell and target by target."""
    box = classification = objectness = 0.0
    matches = 0
    shape = torch.tensor([size[1], size[0]] * 2)
    aims = [torch.zeros(r.shape[0], len(h.mask), *r.shape[2:]) for r, h in zip(raw, heads, strict=True)]
    decoded = [
        decode([r], [h], size).view(r.shape[0], len(h.mask), *r.shape[2:], -1) for r, h in zip(raw, heads, strict=True)
    ]
    for row in targets:
        true = row[2:] * shape
        misfits = {
            (k, a): max(max(w / true[2], true[2] / w), max(h / true[3], true[3] / h)).item()
            for k, one in enumerate(heads)
            for a, (w, h) in enumerate(one.own_anchors)
        }
        for (k, a), misfit in misfits.items():
            if misfit >= weights.ratio and misfit > min(misfits.values()):
                continue
            rows, columns = raw[k].shape[2:]
            reach = (heads[k].scale_x_y - 1) / 2
            for y in range(rows):
                for x in range(columns):
                    dx, dy = row[2] * columns - x, row[3] * rows - y
                    inside = 0 <= dx < 1, 0 <= dy < 1
                    near = -reach < dx < 1 + reach, -reach < dy < 1 + reach
                    if not (all(inside) or (inside[0] and near[1]) or (inside[1] and near[0])):
                        continue
                    found = decoded[k][int(row[0]), a, y, x]
                    overlap = OVERLAPS[weights.overlap](cxcywh_to_xyxy(found[None, :4]), cxcywh_to_xyxy(true[None]))[0]
                    label = F.one_hot(row[1].long(), heads[k].classes).float()
                    box += 1 - overlap
                    classification += F.binary_cross_entropy(found[5:], label, reduction="sum")
                    matches += 1
                    aim = aims[k][int(row[0]), a, y]
                    share = weights.overlap_share
                    aim[x] = max(aim[x].item(), 1 - share + share * max(overlap.item(), 0.0))
    for k in range(len(heads)):
        objectness += F.binary_cross_entropy(decoded[k][..., 4], aims[k], reduction="mean")
    return (
        weights.box * box / matches,
        weights.objectness * objectness,
        weights.classification * classification / matches,
    )


@pytest.mark.parametrize(("scale_x_y", "new_coords"), [(1.0, False), (1.2, False), (2.0, False), (2.0, True)])
@pytest.mark.parametrize("overlap", ["ciou", "giou"])
def test_vectorised_loss_equals_its_definition(scale_x_y, new_coords, overlap):
    heads = two_heads(scale_x_y=scale_x_y, new_coords=new_coords)
    raw, targets = random_heads(GRIDS, heads, batch=3), random_targets(3, 12)
    weights = LossWeights(overlap=overlap, overlap_share=0.7)
    losses = YoloLoss(heads, weights)(raw, targets, SIZE)
    expected = slow_loss(raw, heads, targets, SIZE, weights)
    for ours, theirs in zip((losses.box, losses.objectness, losses.classification), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(losses.total, sum(expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("scale_x_y", "new_coords"), [(1.0, False), (1.05, False), (2.0, True)])
def test_perfect_predictions_cost_nothing(scale_x_y, new_coords):
    heads = two_heads(scale_x_y=scale_x_y, new_coords=new_coords)
    raw, target = raw_from_scratch(heads), torch.tensor([[0, 2, 0.33, 0.41, 0.2, 0.3]])
    true = target[0, 2:] * torch.tensor([SIZE[1], SIZE[0]] * 2)
    for tensor, one, matched in zip(raw, heads, match(raw, heads, target, SIZE, 2.5), strict=True):
        view = tensor.unflatten(1, (len(one.mask), -1))
        stride = torch.tensor([SIZE[1] / tensor.shape[3], SIZE[0] / tensor.shape[2]])
        for a, y, x in zip(matched.anchor, matched.row, matched.column, strict=True):
            cell, anchor = torch.tensor([x, y]).float(), torch.tensor(one.own_anchors[a])
            view[0, a, :4, y, x] = raw_of(true, cell, anchor, stride, one)
            sure = torch.tensor([1.0, 0.0, 0.0, 1.0])  # objectness, three classes
            view[0, a, 4:, y, x] = sure if new_coords else sure * 40 - 20
    losses = YoloLoss(heads)(raw, target, SIZE)
    assert losses.total.item() == pytest.approx(0, abs=1e-5)


def test_two_equal_images_cost_what_one_costs():
    heads = two_heads()
    raw, targets = random_heads(GRIDS, heads, batch=1), random_targets(1, 5)
    again = targets.clone()
    again[:, 0] = 1
    one = YoloLoss(heads)(raw, targets, SIZE).terms()
    two = YoloLoss(heads)([r.repeat(2, 1, 1, 1) for r in raw], torch.cat((targets, again)), SIZE).terms()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value)


def test_order_of_targets_does_not_matter():
    heads = two_heads()
    raw, targets = random_heads(GRIDS, heads), random_targets(2, 30)
    there, back = (YoloLoss(heads)(raw, t, SIZE).total for t in (targets, targets.flip(0)))
    torch.testing.assert_close(there, back)


def test_without_targets_only_objectness_is_left():
    heads = two_heads()
    raw = [r.requires_grad_() for r in random_heads(GRIDS, heads)]
    losses = YoloLoss(heads)(raw, torch.zeros(0, 6), SIZE)
    losses.total.backward()
    assert losses.box == losses.classification == 0 and losses.total == losses.objectness > 0
    for tensor, one in zip(raw, heads, strict=True):
        gradient = tensor.grad.unflatten(1, (len(one.mask), -1))
        assert (gradient[:, :, 4] > 0).all() and gradient[:, :, :4].abs().max() == 0


def test_every_target_has_an_anchor_however_odd_its_shape():
    heads = two_heads()
    targets = torch.tensor([[0, 0, 0.5, 0.5, 0.99, 0.01], [0, 1, 0.5, 0.5, 0.004, 0.004], [1, 2, 0.999, 1.0, 0.1, 0.1]])
    found = match(random_heads(GRIDS, heads), heads, targets, SIZE, 2.5)
    assert {int(t) for m in found for t in m.target} >= {0, 1}
    for m, grid in zip(found, GRIDS, strict=True):
        assert (m.row < grid[0]).all() and (m.column < grid[1]).all()


def test_a_centre_on_the_last_border_belongs_to_the_last_cell():
    heads = two_heads()
    found = match(random_heads(GRIDS, heads), heads, torch.tensor([[0, 0, 1.0, 1.0, 0.2, 0.2]]), SIZE, 2.5)
    cells = {(int(r), int(c)) for m in found for r, c in zip(m.row, m.column, strict=True)}
    assert cells and cells <= {(grid[0] - 1, grid[1] - 1) for grid in GRIDS}


def test_neighbours_answer_only_where_their_formulas_reach():
    target = torch.tensor([[0, 0, 0.30, 0.55, 0.2, 0.25]])  # head of 6 x 8 cells: column 2.4, row 3.3
    cells = {}
    for scale in (1.0, 1.5, 2.0):
        heads = two_heads(scale_x_y=scale)
        m = match(random_heads(GRIDS, heads), heads, target, SIZE, 2.5)[1]
        cells[scale] = {(int(c), int(r)) for c, r in zip(m.column, m.row, strict=True)}
    assert cells == {1.0: {(2, 3)}, 1.5: {(2, 3)}, 2.0: {(2, 3), (1, 3), (2, 2)}}


def test_bf16_heads_under_autocast_are_compared_in_float32():
    heads = two_heads()
    raw = [r.bfloat16() for r in random_heads(GRIDS, heads)]
    targets = random_targets(2, 9)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = YoloLoss(heads)(raw, targets, SIZE)
    assert inside.total.dtype is torch.float32
    torch.testing.assert_close(inside.total, YoloLoss(heads)([r.float() for r in raw], targets, SIZE).total)


def test_of_two_targets_in_one_place_the_better_fit_sets_the_objectness():
    heads = two_heads()
    raw, near = random_heads(GRIDS, heads, batch=1), torch.tensor([[0, 0, 0.33, 0.41, 0.2, 0.3]])
    far = near * torch.tensor([1, 1, 1, 1, 1.2, 0.8])
    weights = LossWeights(overlap_share=0.8)
    for targets in (torch.cat((near, far)), torch.cat((far, near, near))):
        ours = YoloLoss(heads, weights)(raw, targets, SIZE).objectness
        torch.testing.assert_close(ours, slow_loss(raw, heads, targets, SIZE, weights)[1])


def test_objectness_does_not_pull_at_the_boxes():
    heads = two_heads()
    raw = [r.requires_grad_() for r in random_heads(GRIDS, heads)]
    YoloLoss(heads, LossWeights(box=0.0, classification=0.0))(raw, random_targets(2, 9), SIZE).total.backward()
    for tensor, one in zip(raw, heads, strict=True):
        gradient = tensor.grad.unflatten(1, (len(one.mask), -1))
        assert gradient[:, :, :4].abs().max() == 0 and gradient[:, :, 4].abs().max() > 0


def test_inputs_are_left_as_they_were():
    heads = two_heads()
    raw, targets = random_heads(GRIDS, heads), random_targets(2, 9)
    before = [r.clone() for r in raw], targets.clone()
    YoloLoss(heads)(raw, targets, SIZE)
    assert all(torch.equal(a, b) for a, b in zip(raw, before[0], strict=True)) and torch.equal(targets, before[1])


def test_balance_weighs_the_heads():
    heads = two_heads()
    raw, none = random_heads(GRIDS, heads), torch.zeros(0, 6)
    alone = [YoloLoss([h])([r], none, SIZE).objectness for h, r in zip(heads, raw, strict=True)]
    both = YoloLoss(heads, LossWeights(balance=(0.4, 4.0)))(raw, none, SIZE).objectness
    torch.testing.assert_close(both, 0.4 * alone[0] + 4.0 * alone[1])


@pytest.mark.parametrize(
    ("weights", "fact"),
    [(LossWeights(overlap="diou"), "known: iou, giou, ciou"), (LossWeights(balance=(1.0,)), "1 balances for 2 heads")],
)
def test_weights_that_do_not_fit_are_refused(weights, fact):
    with pytest.raises(ValueError, match=fact):
        YoloLoss(two_heads(), weights)


def test_a_head_with_prior_biases_starts_with_few_objects_and_no_favourite():
    one = head((0, 1, 2), classes=4)
    raw = prior_biases(one, objectness=0.02).view(1, -1, 1, 1).expand(1, -1, 2, 2)
    decoded = decode([raw], [one], (64, 64))[0]
    torch.testing.assert_close(decoded[:, 4], torch.full((12,), 0.02))
    torch.testing.assert_close(decoded[:, 5:], torch.full((12, 4), 0.6 / 4))
    torch.testing.assert_close(decoded[::4, 2:4], torch.tensor(one.own_anchors))


def test_descending_the_loss_finds_the_boxes():
    heads = two_heads()
    targets = torch.tensor([[0, 1, 0.3, 0.4, 0.25, 0.3], [1, 2, 0.7, 0.6, 0.6, 0.7]])
    raw = [r.mul(0.1).requires_grad_() for r in random_heads(GRIDS, heads)]
    optimizer = torch.optim.Adam(raw, lr=0.1)
    for _ in range(240):
        optimizer.zero_grad()
        YoloLoss(heads)(raw, targets, SIZE).total.backward()
        optimizer.step()
    decoded = decode([r.detach() for r in raw], heads, SIZE)
    for i, row in enumerate(targets):
        best = decoded[i, decoded[i, :, 4].argmax()]
        torch.testing.assert_close(best[:4], row[2:] * torch.tensor([SIZE[1], SIZE[0]] * 2), rtol=0, atol=2.5)
        assert best[5:].argmax() == row[1] and math.isclose(best[4].item(), 1.0, abs_tol=0.1)
