"""The teacher at work: equal networks learn nothing, the batch does not count, what cannot be taught is refused."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

import utils.distillation.distiller as distillation
from tests.distillation.nets import TARGETS, again, cfg, images, network, taught
from utils.detection.loss import YoloLoss
from utils.distillation.distiller import Distiller, tapped
from utils.distillation.strategies import TERMS
from utils.errors import InputError

ALL = tuple(TERMS)
EXACT = tuple(name for name in TERMS if name != "mgd")  # its generator starts at random: equal features are no minimum


def gradient(value: torch.Tensor, parameters) -> torch.Tensor:
    found = torch.autograd.grad(value, list(parameters), retain_graph=True, allow_unused=True)
    return torch.cat([g.flatten() for g in found if g is not None])


def test_equal_networks_have_nothing_to_learn():
    spec = cfg()
    student, x = network(spec), images()
    distiller, values = taught(student, copy.deepcopy(student), EXACT, x)
    assert list(values) == [f"kd_{name}" for name in EXACT] and not distiller.parameters()
    for name, value in values.items():
        assert value.item() == pytest.approx(0, abs=1e-6), name
        if value.requires_grad:
            assert gradient(value, student.parameters()).abs().max() < 1e-5, name


def test_different_networks_have():
    student, teacher, x = network(cfg()), network(cfg(width=9), seed=1), images()
    _, values = taught(student, teacher, ALL, x)
    for name, value in values.items():
        assert value.isfinite() and value > 1e-5, name
        assert gradient(value, student.parameters()).abs().max() > 0, name


def test_a_term_counts_as_its_gain_says(monkeypatch):
    student, teacher, x = network(cfg()), network(cfg(), seed=1), images()
    _, values = taught(student, teacher, EXACT, x)
    monkeypatch.setattr(
        distillation, "TERMS", {name: replace(term, gain=3 * term.gain) for name, term in TERMS.items()}
    )
    _, thrice = taught(student, teacher, EXACT, x)
    assert {name: value.item() for name, value in thrice.items()} == pytest.approx(
        {name: 3 * value.item() for name, value in values.items()}, rel=1e-5
    )


def test_generator_of_what_was_not_hidden_reaches_its_minimum_of_zero():
    student, x = network(cfg()), images()
    distiller = Distiller(student.spec, copy.deepcopy(student), student.spec, ["mgd"])
    for helper in distiller.helpers.values():
        helper.masked, helper.generate = 0.0, torch.nn.Identity()
    (value,) = again(distiller, student, x).values()
    assert value == 0 and gradient(value, student.parameters()).abs().max() == 0


def test_teacher_is_left_alone():
    student, teacher, x = network(cfg()), network(cfg(width=9), seed=1), images()
    teacher.train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    _, values = taught(student.train(), teacher, ALL, x)
    sum(values.values()).backward()
    assert not teacher.training and all(p.grad is None and not p.requires_grad for p in teacher.parameters())
    assert all(torch.equal(value, teacher.state_dict()[name]) for name, value in before.items())
    assert all(p.grad is not None for p in student.parameters())


def test_teacher_makes_no_graph():
    student, teacher, x = network(cfg()), network(cfg(), seed=1), images()
    grad = []
    teacher.layers["0"].register_forward_hook(lambda *_: grad.append(torch.is_grad_enabled()))
    taught(student, teacher, ("class",), x)
    assert grad == [False]


def test_nothing_stays_hooked_to_either_network():
    student, teacher, x = network(cfg()), network(cfg(), seed=1), images()
    taught(student, teacher, ALL, x)
    assert not any(m._forward_pre_hooks for net in (student, teacher) for m in net.modules())
    with pytest.raises(RuntimeError), tapped(student, [0]):
        raise RuntimeError
    assert not student.layers["0"]._forward_pre_hooks


@pytest.mark.parametrize("name", EXACT)
def test_doubled_batch_leaves_the_value(name):
    student, teacher, x = network(cfg()), network(cfg(), seed=1), images()
    distiller, once = taught(student, teacher, (name,), x)
    double = torch.cat((TARGETS, TARGETS + torch.tensor([len(x), 0, 0, 0, 0, 0])))
    twice = again(distiller, student, torch.cat((x, x)), double)
    torch.testing.assert_close(twice, once, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", EXACT)
def test_what_processes_make_of_their_shares_averages_to_the_whole_batch(name):
    student, teacher, x = network(cfg()), network(cfg(), seed=1), images(4)
    targets = torch.cat((TARGETS, torch.tensor([[2, 1, 0.4, 0.3, 0.3, 0.4]])))  # the shares have 3 and 1, image 3 none
    _, whole = taught(student, teacher, (name,), x, targets)
    shares = [(x[k::2], targets[targets[:, 0] % 2 == k] * torch.tensor([0.5, 1, 1, 1, 1, 1])) for k in range(2)]
    shares[1][1][:, 0] = 0
    counts = []
    for part, own in shares:
        listener = Distiller(student.spec, teacher, teacher.spec, (name,), mean=lambda v: counts.append(float(v)) or v)
        again(listener, student, part, own)
    assert TERMS[name].boxes <= (len(set(counts)) == 2), "each counts its own"
    mean = sum(counts) / max(1, len(counts))  # attention counts once a head, the others once
    values = []
    for part, own in shares:
        distiller = Distiller(student.spec, teacher, teacher.spec, (name,), mean=lambda _: torch.tensor(mean))
        values.append(again(distiller, student, part, own)[f"kd_{name}"])
    torch.testing.assert_close(sum(values) / 2, whole[f"kd_{name}"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["seen_class", "seen_box", *(name for name, term in TERMS.items() if term.boxes)])
def test_what_is_counted_is_counted_over_all_processes(name):
    student, teacher, x = network(cfg()), network(cfg(), seed=1), images()
    values = []
    for counted in (8.0, 16.0):
        own = Distiller(
            student.spec, teacher, teacher.spec, (name,), mean=lambda _, counted=counted: torch.tensor(counted)
        )
        values.append(again(own, student, x)[f"kd_{name}"])
    torch.testing.assert_close(values[0], 2 * values[1])


@pytest.mark.parametrize("name", EXACT)
def test_duplicated_targets_leave_the_value(name):
    student, teacher, x = network(cfg()), network(cfg(), seed=1), images()
    distiller, once = taught(student, teacher, (name,), x)
    twice = again(distiller, student, x, TARGETS.repeat(3, 1))
    torch.testing.assert_close(twice, once, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", [name for name, term in TERMS.items() if term.boxes])
def test_images_without_objects_do_not_thin_out_what_objects_teach(name):
    student, teacher, x = network(cfg()), network(cfg(), seed=1), images()
    distiller, once = taught(student, teacher, (name,), x)
    more = again(distiller, student, torch.cat((x, images(3, seed=9))))
    torch.testing.assert_close(more, once, rtol=1e-4, atol=1e-6)


def reordered(net, order):
    """The same network with its heads in another order in the cfg."""
    other = network(cfg(heads=order))
    own = (32, 16, 8)
    for key, value in other.state_dict().items():
        layer = int(key.split(".")[1])
        source = layer if layer < 5 else 5 + 4 * own.index(order[(layer - 5) // 4]) + (layer - 5) % 4
        value.copy_(net.state_dict()[key.replace(f"layers.{layer}.", f"layers.{source}.")])
    return other


@pytest.mark.parametrize("order", [(8, 16, 32), (16, 32, 8)])
def test_order_of_the_heads_does_not_matter(order):
    net, teacher, x = network(cfg()), network(cfg(), seed=1), images()
    student = reordered(net, order)
    assert torch.equal(student(x)[order.index(8)], net(x)[2])
    _, once = taught(net, teacher, EXACT, x)
    _, other = taught(student, reordered(teacher, order[::-1]), EXACT, x)
    torch.testing.assert_close(other, once, rtol=1e-4, atol=1e-6)


def test_teacher_whose_anchors_stand_in_another_order_teaches_the_same():
    student, x = network(cfg()), images()
    turned = network(cfg(anchors="14,9, 8,10, 30,20, 12,12, 50,50, 25,40"))
    for (name, value), own in zip(turned.state_dict().items(), student.state_dict().values(), strict=True):
        head = value.shape[:1] == (16,) and ".conv." in name
        value.copy_(torch.cat((own[8:], own[:8])) if head else own)
    _, values = taught(student, turned, ("class", "seen_box", "box"), x)
    assert max(value.item() for value in values.values()) < 1e-6


def test_adapters_stand_where_widths_differ_and_learn_but_are_not_the_students():
    student, teacher, x = network(cfg()), network(cfg(width=9), seed=1), images()
    own = set(student.state_dict())
    distiller, values = taught(student, teacher, ("cwd",), x)
    shapes = {tuple(p.shape) for p in distiller.parameters()}
    assert shapes == {(18, 12, 1, 1), (18,)} and len(distiller.parameters()) == 6
    assert set(student.state_dict()) == own
    before = values["kd_cwd"].item()
    optimizer = torch.optim.Adam(distiller.parameters(), lr=0.03)
    for _ in range(30):
        optimizer.zero_grad()
        again(distiller, student, x)["kd_cwd"].backward()
        optimizer.step()
    assert again(distiller, student, x)["kd_cwd"] < 0.7 * before


def test_weight_scales_every_term():
    student, teacher, x = network(cfg()), network(cfg(), seed=1), images()
    _, once = taught(student, teacher, EXACT, x)
    distiller = Distiller(student.spec, teacher, teacher.spec, EXACT, weight=0.25)
    for name, value in again(distiller, student, x).items():
        torch.testing.assert_close(value, 0.25 * once[name])


def test_other_classes_leave_the_features():
    student, teacher, x = network(cfg()), network(cfg(classes=5), seed=1), images()
    distiller, values = taught(student, teacher, ("box", "class", "attention"), x)
    assert set(values) == {"kd_attention"} and "not the outputs at stride 32: 3 and 5 classes" in distiller.message
    with pytest.raises(InputError, match="nothing can be distilled"):
        Distiller(student.spec, teacher, teacher.spec, ["class"])


def test_teacher_with_fewer_heads_teaches_those_it_has():
    student, teacher, x = network(cfg()), network(cfg(heads=(16, 32)), seed=1), images()
    distiller, values = taught(student, teacher, EXACT, x)
    assert all(value.isfinite() for value in values.values())
    fine = student.layers["15"].conv.weight  # the head at stride 8
    assert [name for name, p in student.named_parameters() if p is fine]
    found = torch.autograd.grad(sum(values.values()), [fine, student.layers["7"].conv.weight], allow_unused=True)
    assert found[0] is None or found[0].abs().max() == 0
    assert found[1].abs().max() > 0 and "1 of the student's heads" in distiller.message


def test_teachers_boxes_stand_for_labels_on_images_that_have_none():
    student, teacher, x = network(cfg()), network(cfg(), seed=1), images(4)
    for stride, layer in ((32, 7), (16, 11), (8, 15)):
        bias = teacher.layers[str(layer)].conv.bias
        bias.data[[4, 12]] += 3 if stride == 32 else -20
        bias.data[[5, 13]] += 5
    distiller, values = taught(student, teacher, ("box", "object_attention", "class"), x, TARGETS, labelled=2)
    with torch.no_grad():
        answers = teacher(x)
    found = distiller._found(answers, (64, 96), 2)
    assert len(found) and set(found[:, 0].tolist()) <= {2.0, 3.0}
    assert (found[:, 2:] >= 0).all() and (found[:, 2:] <= 1).all()
    expected = again(distiller, student, x, torch.cat((TARGETS, found)))
    torch.testing.assert_close(values, expected)
    alone = again(distiller, student, x)
    assert alone["kd_class"] == values["kd_class"] and alone["kd_box"] != values["kd_box"]


def test_imitating_brings_the_student_nearer_to_the_teacher():
    student, teacher, x = network(cfg()).train(), network(cfg(width=9), seed=1), images(4)
    distiller = Distiller(student.spec, teacher, teacher.spec, ("objectness", "seen_class", "seen_box"))
    optimizer = torch.optim.Adam(student.parameters(), lr=0.01)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        losses.append(sum(again(distiller, student, x).values()))
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.5 * losses[0]


def test_terms_join_the_labels_loss_without_changing_it():
    student, teacher, x = network(cfg()), network(cfg(), seed=1), images()
    heads = [student.spec.layers[i] for i in student.spec.heads]
    distiller = Distiller(student.spec, teacher, teacher.spec, EXACT)
    with distiller.watching(student):
        raw = student(x)
    before = YoloLoss(heads)(raw, TARGETS, (64, 96)).total
    distiller(x, raw, TARGETS)
    assert YoloLoss(heads)(raw, TARGETS, (64, 96)).total == before
