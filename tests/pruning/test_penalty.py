from __future__ import annotations

import pytest
import torch

from models import build
from tests.pruning.nets import SHIPPED, TINY, image, random_network
from utils.darknet import spec as s
from utils.darknet.cfg import read_cfg
from utils.darknet.channel_groups import trace
from utils.errors import InputError
from utils.pruning.blocks import layer_gammas
from utils.pruning.penalty import SparsityPenalty, StrengthSchedule, initial_gammas, prunable_gammas, reach
from utils.pruning.plan import ShortcutRule, decide


def gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("tie", ShortcutRule)
@pytest.mark.parametrize("path", TINY, ids=lambda p: p.stem)
def test_penalty_touches_exactly_the_prunable_gammas(path, tie):
    net = random_network(path)
    model = build(net)
    sum(head.square().sum() for head in model(image(net))).backward()
    before = gradients(model)
    SparsityPenalty(net.spec, tie, 0.25)(model.named_parameters())
    masks = prunable_gammas(net.spec, tie)
    assert masks or tie is ShortcutRule.KEEP  # every wire of a network may be tied
    for name, grad in gradients(model).items():
        i = int(name.split(".")[1])
        expected = before[name].clone()
        if name.endswith("bn.weight") and i in masks:
            expected += 0.25 * net.state[name].sign() * masks[i]
        assert torch.equal(grad, expected)


@pytest.mark.parametrize("tie", ShortcutRule)
@pytest.mark.parametrize("path", [*TINY, *SHIPPED], ids=lambda p: p.stem)
def test_penalised_channels_are_those_the_plan_offers(path, tie):
    spec = read_cfg(path)
    wires, masks = trace(spec), prunable_gammas(spec, tie)
    frozen = wires.locked | wires.tied if tie is ShortcutRule.KEEP else wires.locked
    scores = {i: torch.ones(len(wires.outputs[i])) for i in wires.voters}
    if not masks:
        with pytest.raises(InputError, match="nothing to prune"):
            decide(wires, scores, percent=0.5, tie=tie)
        return
    offered = {row.layer for row in decide(wires, scores, percent=0.5, tie=tie).rows}
    assert offered == set(masks) - wires.depthwise
    for i in offered:
        assert torch.equal(masks[i], ~frozen[wires.outputs[i]])


def test_penalty_spares_the_locked_channels_of_a_layer_that_has_others():
    layers = (
        s.Conv(sources=(-1,), filters=5, bn=True),
        s.Route(sources=(-1, 0)),
        s.Route(sources=(1,), groups=2),  # ties three of the five channels to the image
        s.Conv(sources=(2,), filters=5),
    )
    net = random_network(s.ModelSpec(layers=layers))
    model = build(net)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    SparsityPenalty(net.spec, ShortcutRule.ANY, 1.0)(model.named_parameters())
    assert model.layers["0"].bn.weight.grad.tolist() == [1, 0, 0, 0, 1]


def test_penalty_is_blind_to_names_that_wrappers_add():
    net = random_network("plain")
    model = build(net)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    SparsityPenalty(net.spec, ShortcutRule.ANY, 1.0)(("module._orig_mod." + n, p) for n, p in model.named_parameters())
    assert model.layers["0"].bn.weight.grad.abs().sum() == 8


def test_gammas_without_gradient_are_left_out():
    net = random_network("plain")
    model = build(net)
    SparsityPenalty(net.spec, ShortcutRule.ANY, 1.0)(model.named_parameters())
    assert all(p.grad is None for p in model.parameters())


def test_penalty_alone_brings_every_prunable_gamma_to_zero_and_no_other():
    net = initial_gammas(random_network("residual"), 0.5)
    model = build(net)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    penalty = SparsityPenalty(net.spec, ShortcutRule.KEEP, 0.5)
    for _ in range(20):
        for p in model.parameters():
            p.grad = torch.zeros_like(p)
        penalty(model.named_parameters())
        optimizer.step()
    for i, layer in enumerate(net.spec.layers):
        if isinstance(layer, s.Conv) and layer.bn:
            expected = 0.0 if i in penalty.masks else 0.5
            assert (model.layers[str(i)].bn.weight - expected).abs().max() <= 0.05 + 1e-6


def test_penalty_for_layer_pruning_presses_on_whole_branches_and_nothing_else():
    net = random_network("ghost")
    model = build(net)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    masks = layer_gammas(net.spec)
    SparsityPenalty(net.spec, masks, 0.25)(model.named_parameters())
    pressed = {name for name, p in model.named_parameters() if p.grad.any()}
    assert pressed == {f"layers.{i}.bn.weight" for i in (4, 5, 12, 13, 20, 21)}
    assert torch.equal(model.layers["4"].bn.weight.grad, torch.full((4,), 0.25))
    assert masks.keys() == layer_gammas(net.spec).keys()


def test_strength_decays_to_a_hundredth_after_half_of_the_run():
    spec = random_network("plain").spec
    constant, decay = (SparsityPenalty(spec, ShortcutRule.ANY, 0.1, schedule) for schedule in StrengthSchedule)
    assert [constant.strength(p) for p in (0, 0.49, 0.5, 1)] == [0.1] * 4
    assert [decay.strength(p) for p in (0, 0.49, 0.5, 1)] == pytest.approx([0.1, 0.1, 0.001, 0.001])


def test_reach_is_how_far_a_free_gamma_gets():
    rates = [0.1] * 50 + [0.01] * 50
    gamma = torch.nn.Parameter(torch.tensor(10.0))
    optimizer = torch.optim.SGD([gamma], lr=0.1, momentum=0.5)
    for rate in rates:
        optimizer.param_groups[0]["lr"] = rate
        gamma.grad = torch.tensor(0.3)
        optimizer.step()
    assert 10 - gamma.item() == pytest.approx(reach(0.3, rates, 0.5), rel=0.02)


def test_initial_gammas_are_one_value_and_the_rest_stays():
    net = random_network("tiny")
    found = initial_gammas(net, 0.5)
    for key, value in found.state.items():
        assert (value == 0.5).all() if key.endswith("bn.weight") else torch.equal(value, net.state[key])
    assert not (net.state["layers.0.bn.weight"] == 0.5).any()


def test_negative_penalty_is_refused():
    with pytest.raises(InputError, match="must not be negative, got -1"):
        SparsityPenalty(random_network("plain").spec, ShortcutRule.ANY, -1)
