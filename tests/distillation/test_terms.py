"""Every term against its formula, spelled out in numpy, number by number."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.detection.helpers import head
from utils.darknet.spec import Region
from utils.detection.loss import Matches, match
from utils.distillation import features as f
from utils.distillation import outputs as o
from utils.distillation.outputs import View

T = 3.0
SIZE = (64, 96)


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def kl(p: np.ndarray, q: np.ndarray) -> float:
    return float((p * np.log(p / q)).sum())


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def none() -> Matches:
    empty = torch.zeros(0, dtype=torch.long)
    return Matches(empty, empty, empty, empty, empty)


def views(classes: int = 3, matches: bool = False, seed: int = 0) -> tuple[list[View], torch.Tensor]:
    """Two heads of three anchors on images of 64 x 96 px, and targets."""
    make = torch.Generator().manual_seed(seed)
    heads = (head((3, 4, 5), classes=classes), head((0, 1, 2), classes=classes, scale_x_y=1.5))
    grids = ((2, 3), (4, 6))
    raw = [[torch.randn(2, 3 * (5 + classes), *g, generator=make) for g in grids] for _ in range(2)]
    targets = torch.tensor([[0, 1, 0.3, 0.4, 0.7, 0.8], [1, 0, 0.6, 0.7, 0.2, 0.3], [1, 2, 0.2, 0.3, 0.3, 0.5]])
    found = match(raw[0], heads, targets, SIZE, 2.5) if matches else [none(), none()]
    split = lambda x: x.view(2, 3, 5 + classes, *x.shape[2:]).permute(0, 1, 3, 4, 2)  # noqa: E731
    made = [
        View(split(s), split(t), (h, h), m, torch.tensor([SIZE[1] / g[1], SIZE[0] / g[0]]))
        for s, t, h, m, g in zip(*raw, heads, found, grids, strict=True)
    ]
    return made, targets


def cells(view: View):
    """Every (image, anchor, row, column) with the student's and the teacher's numbers."""
    s, t = view.student.numpy().astype(float), view.teacher.numpy().astype(float)
    for place in np.ndindex(s.shape[:4]):
        yield place, s[place], t[place]


def box(values: np.ndarray, anchor: tuple[float, float], view: View) -> np.ndarray:
    """cx, cy from the cell's corner in cells, logarithms of w and h in cells."""
    reach = view.heads[0].scale_x_y
    centre = sigmoid(values[:2]) * reach - (reach - 1) / 2
    return np.concatenate([centre, np.log(np.exp(values[2:4]) * np.array(anchor) / view.stride.numpy())])


def test_class_term_is_the_softened_kl_of_objectness_and_classes_of_every_cell():
    made, _ = views()
    heads = []
    for view in made:
        values = [kl(softmax(t[4:] / T), softmax(s[4:] / T)) * T * T for _, s, t in cells(view)]
        heads.append(np.mean(values))
    assert o.class_term(made).item() == pytest.approx(np.mean(heads), rel=1e-5)


def test_class_term_does_not_see_the_box_offsets():
    made, _ = views()
    before = o.class_term(made)
    for view in made:
        view.student[..., :4] += 5
    assert torch.equal(o.class_term(made), before)


def bernoulli(t: float, s: float) -> float:
    p, q = sigmoid(t), sigmoid(s)
    return p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))


def test_objectness_term_is_the_kl_of_two_coins_a_cell():
    made, _ = views()
    heads = [np.mean([bernoulli(t[4], s[4]) for _, s, t in cells(view)]) for view in made]
    assert o.objectness_term(made).item() == pytest.approx(np.mean(heads), rel=1e-5)


def test_seen_terms_weigh_every_cell_with_the_teachers_objectness():
    made, _ = views()
    total = classes = boxes = 0.0
    for view in made:
        for place, s, t in cells(view):
            weight = sigmoid(t[4])
            total += weight
            classes += weight * sum(bernoulli(a, b) for a, b in zip(t[5:], s[5:], strict=True))
            anchor = view.heads[0].own_anchors[place[1]]
            one, other = box(s, anchor, view), box(t, anchor, view)
            boxes += weight * ((one - other) ** 2).sum() / 2
    assert o.seen_class_term(made).item() == pytest.approx(classes / total, rel=1e-5)
    assert o.seen_box_term(made).item() == pytest.approx(boxes / total, rel=1e-5)


def test_what_a_blind_teacher_says_of_boxes_counts_little():
    made, _ = views()
    for view in made:
        view.teacher[..., 4] = -12
    assert o.seen_box_term(made) < 0.01 and o.seen_class_term(made) < 0.01


def test_classes_of_one_distribution_are_compared_as_one():
    region = Region(sources=(0,), anchors=((1.0, 1.0), (2.0, 2.0)), classes=3, softmax=True)
    make = torch.Generator().manual_seed(3)
    s, t = (torch.randn(1, 2, 2, 2, 8, generator=make) for _ in range(2))
    view = View(s, t, (region, region), none(), torch.tensor([32.0, 32.0]))
    found = [(sigmoid(b[4]), kl(softmax(b[5:]), softmax(a[5:]))) for _, a, b in cells(view)]
    expected = sum(w * v for w, v in found) / sum(w for w, _ in found)
    assert o.seen_class_term([view]).item() == pytest.approx(expected, rel=1e-5)


def positives(made: list[View], targets: torch.Tensor):
    """Boxes in cells of student, teacher and target, one row each positive."""
    for view in made:
        m = view.matches
        h, w = view.student.shape[2:4]
        for image, anchor, row, column, target in zip(m.image, m.anchor, m.row, m.column, m.target, strict=True):
            own = view.heads[0].own_anchors[anchor]
            place = np.array([int(column), int(row), 0, 0])
            true = targets[target, 2:].numpy() * np.array([w, h, w, h])
            true[2:] = np.log(true[2:])
            s, t = (
                box(v[image, anchor, row, column].numpy().astype(float), own, view) + place
                for v in (view.student, view.teacher)
            )
            yield s, t, true


def test_direct_box_term_is_the_mean_distance_from_the_teacher_at_the_positives():
    made, targets = views(matches=True)
    rows = list(positives(made, targets))
    assert len(rows) > 5
    expected = np.mean([((s - t) ** 2).sum() for s, t, _ in rows])
    assert o.direct_box_term(made).item() == pytest.approx(expected, rel=1e-4)


def test_worse_box_term_counts_those_positives_where_the_student_is_worse():
    made, targets = views(matches=True)
    rows = [(((s - g) ** 2).sum(), ((t - g) ** 2).sum()) for s, t, g in positives(made, targets)]
    assert 0 < sum(s > t for s, t in rows) < len(rows)
    expected = sum(s for s, t in rows if s > t) / len(rows)
    assert o.worse_box_term(made, targets).item() == pytest.approx(expected, rel=1e-4)


def test_size_that_ran_away_does_not_drown_the_rest():
    made, targets = views(matches=True)
    for view in made:
        view.student[..., 2:4] = 80
    assert o.direct_box_term(made) < 500 and o.worse_box_term(made, targets) < 500 and o.seen_box_term(made) < 500


def test_no_positives_make_no_box_loss():
    made, targets = views()
    assert o.direct_box_term(made) == 0 and o.worse_box_term(made, targets) == 0


def test_decoded_heads_are_compared_as_the_logits_they_were():
    plain, decoded = head((0, 1, 2)), head((0, 1, 2), new_coords=True)
    make = torch.Generator().manual_seed(5)
    s, t = (torch.randn(1, 3, 2, 2, 8, generator=make) for _ in range(2))
    stride = torch.tensor([32.0, 32.0])
    one = View(s, t, (plain, plain), none(), stride)
    other = View(s.sigmoid(), t.sigmoid(), (decoded, decoded), none(), stride)
    for term in (o.class_term, o.objectness_term, o.seen_class_term):
        torch.testing.assert_close(term([other]), term([one]), rtol=1e-3, atol=1e-5)


def maps(s: int = 4, t: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    make = torch.Generator().manual_seed(seed)
    return torch.randn(2, s, 3, 5, generator=make), torch.randn(2, t, 3, 5, generator=make)


def attention(image: np.ndarray) -> np.ndarray:
    total = np.abs(image).sum(0)
    return total / total.mean()


def test_attention_term_is_the_softened_kl_of_two_maps():
    s, t = maps(4, 7)
    values = [
        kl(softmax(attention(b).ravel() / T), softmax(attention(a).ravel() / T)) * T * T
        for a, b in zip(s.double().numpy(), t.double().numpy(), strict=True)
    ]
    assert f.attention_term(s, t).item() == pytest.approx(np.mean(values), rel=1e-4)


def test_masked_attention_counts_objects_and_images_that_have_some():
    s, t = maps(4, 7)
    mask = torch.zeros(2, 3, 5, dtype=torch.bool)
    mask[1, 1:3, 2:4] = True
    a, b = (attention(x[1].double().numpy()) * mask[1].numpy() for x in (s, t))
    expected = kl(softmax(b.ravel() / T), softmax(a.ravel() / T)) * T * T
    assert f.attention_term(s, t, mask).item() == pytest.approx(expected, rel=1e-4)
    s.requires_grad_()
    f.attention_term(s, t, mask).backward()
    assert s.grad[0].abs().max() == 0 and s.grad[1].abs().max() > 0
    assert f.attention_term(s, t, torch.zeros_like(mask)) == 0


def test_attention_does_not_depend_on_width_or_scale():
    s, t = maps()
    wide = torch.cat((s, s, s), 1) * 7
    torch.testing.assert_close(f.attention_term(wide, t), f.attention_term(s, t))


def test_channel_term_is_a_kl_over_the_cells_of_each_channel():
    s, t = maps()
    values = [
        kl(softmax(t[n, c].double().numpy().ravel()), softmax(s[n, c].double().numpy().ravel()))
        for n in range(2)
        for c in range(4)
    ]
    assert f.channel_term(s, t).item() == pytest.approx(np.mean(values), rel=1e-4)


def test_generation_term_is_the_share_that_was_not_found_again():
    s, t = maps()
    a, b = s.double().numpy(), t.double().numpy()
    assert f.generation_term(s, t).item() == pytest.approx(((a - b) ** 2).mean() / (b**2).mean(), rel=1e-5)
    assert f.generation_term(t, t) == 0 and f.generation_term(torch.zeros_like(t), t).item() == pytest.approx(1)


def test_generator_hides_whole_cells_from_all_channels():
    torch.manual_seed(0)
    generator = f.Generator(3, 5)
    generator.generate = torch.nn.Identity()
    shown = generator(torch.rand(4, 3, 20, 20) + 1) != 0
    assert torch.equal(shown.all(1), shown.any(1)) and shown.float().mean().item() == pytest.approx(0.35, abs=0.05)
    assert isinstance(f.Generator(5, 5).align, torch.nn.Identity)
