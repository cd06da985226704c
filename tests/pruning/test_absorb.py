from __future__ import annotations

import pytest
import torch

from models import build
from tests.pruning.nets import SHIPPED, TINY, assert_same, image, random_network, run, with_gammas
from utils.darknet.cfg import parse_cfg
from utils.darknet.channel_groups import trace
from utils.darknet.network import Network
from utils.pruning.absorb import absorb, constants
from utils.pruning.plan import Plan, ShortcutRule, plan_channels
from utils.pruning.scores import gammas
from utils.pruning.surgery import cut

NET = "[net]\nchannels=3\nwidth=16\nheight=16\n"


def conv(filters: int, act: str = "leaky", bn: int = 1, groups: int = 1) -> str:
    return f"[convolutional]\nbatch_normalize={bn}\nfilters={filters}\nsize=1\ngroups={groups}\nactivation={act}\n"


POINTWISE = {  # every reader is 1x1: what is absorbed is exact
    "chain": conv(8) + conv(8, "mish") + conv(8, "logistic") + conv(5, "linear", 0),
    "residual": conv(8)
    + conv(4)
    + conv(8)
    + "[shortcut]\nfrom=-3\nactivation=leaky\n"
    + conv(6)
    + conv(5, "linear", 0),
    "route": conv(8)
    + conv(8)
    + "[route]\nlayers=-1,-2\ngroups=2\ngroup_id=1\n[route]\nlayers=-1,0\n"
    + conv(5, "linear", 0),
    "pools": conv(8)
    + "[maxpool]\nsize=3\nstride=1\n[upsample]\nstride=2\n[maxpool]\nsize=2\n[dropout]\n[avgpool]\n"
    + conv(5, "linear", 0),
    "depthwise": conv(8) + conv(8, "h_swish", groups=8) + conv(8) + conv(8, "relu6", 0, 8) + conv(5, "linear", 0),
    "grouped": conv(8) + conv(12, groups=4) + conv(5, "linear", 0),
    "gate": conv(8, "swish")
    + "[avgpool]\n"
    + conv(8, "logistic")
    + "[scale_channels]\nfrom=-3\nactivation=linear\n"
    + conv(5, "linear", 0),
}


def without_gammas(net: Network, plan: Plan) -> Network:
    """Full width, the gammas of what goes at zero in every batch norm; no more, so not for gates."""
    wires = trace(net.spec)
    norms = [i for i, layer in enumerate(net.spec.layers) if getattr(layer, "bn", False)]
    return with_gammas(net, {i: net.state[f"layers.{i}.bn.weight"] * plan.keep[wires.outputs[i]] for i in norms})


@pytest.mark.parametrize("name", POINTWISE)
def test_absorbing_is_exact_for_1x1_readers(name):
    net = random_network(parse_cfg(NET + POINTWISE[name]))
    plan = plan_channels(net, percent=0.4, tie=ShortcutRule.LEADER)
    assert plan.removed > 0.1
    last, x = len(net.spec.layers) - 1, image(net, 2, 16)
    wide = build(without_gammas(net, plan)).activations(x)[last]
    assert_same([build(cut(absorb(net, plan), plan)).activations(x)[last]], [wide])
    with pytest.raises(AssertionError):
        assert_same([build(cut(net, plan)).activations(x)[last]], [wide])


@pytest.mark.parametrize("name", POINTWISE)
def test_constants_are_what_the_network_computes(name):
    net = random_network(parse_cfg(NET + POINTWISE[name]))
    plan = plan_channels(net, percent=0.4, tie=ShortcutRule.LEADER)
    wires = trace(net.spec)
    found = constants(net, plan.keep)
    for i, value in build(without_gammas(net, plan)).activations(image(net, 1, 16)).items():
        gone = ~plan.keep[wires.outputs[i]]
        torch.testing.assert_close(value[0, gone], found[i][gone, None, None].float().expand_as(value[0, gone]))
        assert not found[i][~gone].any()


def test_padded_reader_is_exact_away_from_the_border():
    net = random_network("plain")
    plan = plan_channels(net, percent=0.4, tie=ShortcutRule.ANY)
    x = image(net)
    wide = build(without_gammas(net, plan)).activations(x)[2]
    small = build(cut(absorb(net, plan), plan)).activations(x)[2]
    stay = plan.keep[trace(net.spec).outputs[2]]
    assert_same([small[:, :, 1:-1, 1:-1]], [wide[:, stay, 1:-1, 1:-1]])


SMALL = [p for p in [*TINY, *SHIPPED] if "tiny" in p.stem or (p in TINY and p.stem not in ("grouped", "slices"))]


@pytest.mark.parametrize("path", SMALL, ids=lambda p: p.stem)
def test_absorbing_comes_nearer_than_dropping(path):
    net = random_network(path)
    plan = plan_channels(net, percent=0.3, tie=ShortcutRule.ANY)
    x = image(net, 1, 64 if path.stem == "masks" else 128)  # a mean enlarged to the map is made for one size
    target = run(without_gammas(net, plan), x)

    def error(found) -> float:
        return sum(float((a - b).square().mean() / b.square().mean()) for a, b in zip(found, target, strict=True))

    assert error(run(cut(absorb(net, plan), plan), x)) < 0.5 * error(run(cut(net, plan), x))


def test_absorbing_leaves_its_input_alone():
    net = random_network("residual")
    before = {k: v.clone() for k, v in net.state.items()}
    absorb(net, plan_channels(net, percent=0.5, tie=ShortcutRule.ANY))
    assert all(torch.equal(v, before[k]) for k, v in net.state.items())


def test_nothing_cut_means_nothing_absorbed():
    net = random_network("residual")
    found = absorb(net, plan_channels(net, percent=0.0, tie=ShortcutRule.ANY))
    assert all(torch.equal(v, net.state[k]) for k, v in found.state.items())
    assert set(gammas(found)) == set(gammas(net))
