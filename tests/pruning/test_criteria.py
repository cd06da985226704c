from __future__ import annotations

import numpy as np
import pytest
import torch

from models import build
from tests.pruning.nets import SHIPPED, TINY, image, random_network, with_gammas
from utils.darknet import spec as s
from utils.darknet.cfg import read_cfg
from utils.darknet.channel_groups import trace
from utils.darknet.network import Network
from utils.errors import InputError
from utils.pruning.criteria import CRITERIA, TaylorScore, fpgm, l1, random, taylor
from utils.pruning.plan import ShortcutRule, plan_channels
from utils.pruning.scores import gammas, strengths
from utils.pruning.surgery import cut


def backward(net: Network, seed: int = 0):
    """A model with the gradients of some loss of its heads."""
    model = build(net)
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    sum(head.square().mean() for head in model(image(net, 2, 64, seed))).backward()
    return model


def bn_gradients(model) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if ".bn." in name}


@pytest.mark.parametrize("path", TINY, ids=lambda p: p.stem)
def test_every_score_speaks_of_the_same_channels_as_gamma_and_can_be_cut_by(path):
    net = random_network(path)
    model = backward(net)
    collected = TaylorScore()
    collected.collect(model)
    for score in (*CRITERIA.values(), random(0), collected.score):
        found = score(net)
        assert {i: v.shape for i, v in found.items()} == {i: v.shape for i, v in gammas(net).items()}
        assert all(v.dtype == torch.float32 and v.isfinite().all() and (v >= 0).all() for v in found.values())
        plan = plan_channels(net, percent=0.5, tie=ShortcutRule.ANY, score=score)
        assert 0 < plan.removed <= 0.5
        cut(net, plan)


def test_l1_norm_is_that_of_the_filters_in_units_of_the_layer():
    net = random_network("depthwise")
    for i, found in l1(net).items():
        norms = np.abs(net.state[f"layers.{i}.conv.weight"].numpy().astype(float)).sum((1, 2, 3))
        np.testing.assert_allclose((found / found.mean()).numpy(), norms / norms.mean(), rtol=1e-5)


@pytest.mark.parametrize("score", [l1, fpgm])
@pytest.mark.parametrize("name", ["plain", "depthwise", "residual"])
def test_average_channel_is_as_strong_in_every_layer_also_before_a_depthwise_one(name, score):
    """Without that, half of the channels of yolov3-mobilenet would be 73 % of those before depthwise layers."""
    net = random_network(name)
    for strength in strengths(net.spec, trace(net.spec), score(net)).values():
        assert strength.mean().item() == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize("score", [l1, fpgm])
def test_scale_of_a_layer_does_not_decide_whether_it_is_cut(score):
    net = random_network("plain")
    larger = Network(net.spec, {**net.state, "layers.0.conv.weight": net.state["layers.0.conv.weight"] * 100})
    plans = [plan_channels(each, percent=0.5, tie=ShortcutRule.ANY, score=score) for each in (net, larger)]
    assert torch.equal(plans[0].keep, plans[1].keep)


@pytest.mark.parametrize("score", [l1, fpgm])
def test_layer_of_zeros_scores_zero_not_nan(score):
    net = random_network("plain")
    dead = Network(net.spec, {**net.state, "layers.0.conv.weight": torch.zeros_like(net.state["layers.0.conv.weight"])})
    assert torch.equal(score(dead)[0], torch.zeros(8))


def test_geometric_median_score_sums_the_distances_to_all_other_filters():
    net = random_network("plain")
    for i, found in fpgm(net).items():
        flat = net.state[f"layers.{i}.conv.weight"].numpy().astype(float).reshape(len(found), -1)
        far = np.array([sum(np.sqrt(((a - b) ** 2).sum()) for b in flat) for a in flat])
        np.testing.assert_allclose(found.numpy(), far / far.mean(), rtol=1e-5)


def test_geometric_median_prefers_the_filter_that_others_stand_in_for():
    net = random_network("plain")
    weight = torch.eye(8)[:, :3].repeat(1, 1)[:, :, None, None].expand(8, 3, 3, 3).clone()
    weight[7] = weight[:3].mean(0)  # in the midst of the others, and by no means the smallest
    weight *= torch.tensor([1.0, 1, 1, 1, 1, 1, 1, 5])[:, None, None, None]
    weight[3:7] = 2 * weight[7] * torch.tensor([0.4, 0.5, 0.5, 0.6])[:, None, None, None]
    found = fpgm(Network(net.spec, {**net.state, "layers.0.conv.weight": weight}))[0]
    assert found.argmin().item() in (4, 5)  # equal filters
    assert l1(Network(net.spec, {**net.state, "layers.0.conv.weight": weight}))[0].argmin().item() in (0, 1, 2)


def test_filters_of_different_groups_are_compared_over_the_whole_input():
    net = random_network("grouped")
    i, layer = next((i, a) for i, a in enumerate(net.spec.layers) if isinstance(a, s.Conv) and a.groups > 1)
    weight = net.state[f"layers.{i}.conv.weight"].numpy().astype(float)
    width = weight.shape[1]
    whole = np.zeros((len(weight), width * layer.groups, *weight.shape[2:]))
    for c, kernel in enumerate(weight):
        g = c // (len(weight) // layer.groups)
        whole[c, g * width : (g + 1) * width] = kernel
    flat = whole.reshape(len(weight), -1)
    far = np.linalg.norm(flat[:, None] - flat[None], axis=2).sum(1)
    found = fpgm(net)[i]
    np.testing.assert_allclose((found / found.mean()).numpy(), far / far.mean(), rtol=1e-5)


def test_equal_kernels_of_a_depthwise_layer_do_not_stand_in_for_each_other():
    net = random_network("depthwise")
    i = min(trace(net.spec).depthwise)
    key = f"layers.{i}.conv.weight"
    kernels = net.state[key].clone()
    kernels[1] = kernels[0] = kernels.abs().amax() * 2 * torch.ones_like(kernels[0])
    found = fpgm(Network(net.spec, {**net.state, key: kernels}))[i]
    assert found[0] == found[1] == found.max()


def test_taylor_is_the_change_of_the_loss_when_a_gate_behind_the_batch_norm_closes():
    """The oracle is autograd: a gate of ones multiplied in behind the batch norm, its gradient squared."""
    net = random_network("plain")
    model = backward(net)
    found = taylor(net, {key: [g] for key, g in bn_gradients(model).items()})
    gated, gates = build(net), {}
    for name, module in gated.named_modules():
        if name.endswith(".bn"):
            gate = torch.ones(len(module.weight), requires_grad=True)
            gates[int(name.split(".")[1])] = gate
            module.register_forward_hook(lambda _m, _x, y, gate=gate: y * gate[:, None, None])
    sum(head.square().mean() for head in gated(image(net, 2, 64, 0))).backward()
    assert gates.keys() == found.keys()
    for i, gate in gates.items():
        torch.testing.assert_close(found[i], gate.grad.abs(), rtol=1e-3, atol=1e-8)


def test_taylor_squares_each_batch_before_it_averages():
    net = random_network("plain")
    ones = {key: torch.ones(8) for key in net.state if ".bn.weight" in key or ".bn.bias" in key}
    found = taylor(net, {key: [3 * g, -4 * g] for key, g in ones.items()})
    both = net.state["layers.0.bn.weight"] + net.state["layers.0.bn.bias"]
    torch.testing.assert_close(found[0], both.abs() * (25 / 2) ** 0.5)


def test_collected_gradients_score_as_given_ones():
    net = random_network("residual")
    collected, given = TaylorScore(), {}
    for seed in range(3):
        model = backward(net, seed)
        collected.collect(model)
        for key, gradient in bn_gradients(model).items():
            given.setdefault(key, []).append(gradient)
    expected = taylor(net, given)
    for i, found in collected.score(net).items():
        torch.testing.assert_close(found, expected[i])


def test_taylor_channel_that_the_loss_does_not_depend_on_goes_first():
    net = random_network("plain")
    weight = net.state["layers.2.conv.weight"].clone()
    weight[:, 3] = 0  # nobody reads channel 3 of layer 0
    net = Network(net.spec, {**net.state, "layers.2.conv.weight": weight})
    net = with_gammas(net, {0: torch.tensor([0.1, 0.1, 0.1, 9, 0.1, 0.1, 0.1, 0.1])})
    collected = TaylorScore()
    collected.collect(backward(net))
    assert collected.score(net)[0].argmin() == 3
    assert gammas(net)[0].argmax() == 3


def test_gradients_of_another_network_or_none_at_all_are_refused():
    net, collected = random_network("plain"), TaylorScore()
    with pytest.raises(InputError, match="saw no batch"):
        collected.score(net)
    with pytest.raises(InputError, match="call backward before"):
        collected.collect(build(net))
    with pytest.raises(InputError, match=r"layers.0.bn.weight: 0 gradients"):
        taylor(net, {})
    with pytest.raises(InputError, match="of 5 channels, the layer has 8"):
        taylor(net, {key: [torch.ones(5)] for key in net.state if ".bn." in key})
    collected.collect(backward(net))
    with pytest.raises(InputError, match="of another network"):
        collected.score(cut(net, plan_channels(net, percent=0.5, tie=ShortcutRule.ANY)))


def test_loss_that_is_not_finite_is_not_collected():
    model = backward(random_network("plain"))
    next(p for name, p in model.named_parameters() if name.endswith("0.bn.bias")).grad[2] = torch.nan
    collected = TaylorScore()
    with pytest.raises(InputError, match="no finite gradient at layer 0"):
        collected.collect(model)
    assert collected.batches == 0


def test_random_score_is_its_seed_and_draws_a_wire_once():
    net = random_network("depthwise")
    wires = trace(net.spec)
    first, again, other = random(1)(net), random(1)(net), random(2)(net)
    assert all(torch.equal(first[i], again[i]) for i in first)
    assert not any(torch.equal(first[i], other[i]) for i in wires.voters)
    found = strengths(net.spec, wires, first)
    assert all(torch.equal(found[i], first[i]) for i in wires.voters)


def test_depthwise_layers_weigh_as_much_as_others_in_normalised_scores():
    """Raw L1 norms of depthwise kernels (9 weights) are far under those of others: their minimum would always win."""
    net = random_network("depthwise")
    wires = trace(net.spec)
    found = strengths(net.spec, wires, l1(net))
    i = next(j for j in wires.voters if any(net.spec.layers[d].sources == (j,) for d in wires.depthwise))
    share = (found[i] == l1(net)[i]).float().mean().item()
    assert 0 < share < 1  # neither of the two layers decides alone


@pytest.mark.parametrize("name", ["yolov3-tiny"])
def test_scores_of_a_full_size_network_take_moments(name):
    spec = read_cfg(next(path for path in SHIPPED if path.stem == name))
    net = random_network(spec)
    assert all(len(fpgm(net)[i]) == len(l1(net)[i]) for i in (0, 2))
