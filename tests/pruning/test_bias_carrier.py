from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from models import build
from tests.pruning.nets import SHIPPED, TINY, assert_same, image, random_network, run
from tests.pruning.test_absorb import NET, conv, without_gammas
from tests.pruning.test_random_graphs import GRID, graphs, prunable
from utils.darknet import spec as s
from utils.darknet.cfg import parse_cfg, read_cfg, write_cfg
from utils.darknet.channel_groups import trace
from utils.darknet.counts import parameters
from utils.darknet.network import Network
from utils.darknet.weights import read_weights, write_weights
from utils.pruning.absorb import constants, zeroed
from utils.pruning.bias_carrier import appoint, carry, settle
from utils.pruning.choices import Beta
from utils.pruning.plan import Plan, ShortcutRule, plan_channels
from utils.pruning.residuals import residuals
from utils.pruning.surgery import cut, narrow

KERNELS = "[convolutional]\nbatch_normalize=1\nfilters={}\nsize=3\npad=1\ngroups={}\nactivation={}\n"
EXACT = 1e-5  # of a layer's largest value


def wide(filters: int, act: str = "leaky", groups: int = 1) -> str:
    return KERNELS.format(filters, groups, act)


def upward(filters: int, act: str = "leaky", groups: int = 1, size: int = 3) -> str:
    return (
        wide(filters, act, groups)
        .replace("[conv", "[transposed_conv")
        .replace("size=3\npad=1", f"size={size}\nstride=2\npadding={(size - 1) // 2}")
    )


ZEROS = "[upsample]\nstride=2\nzeros=1\n"
HEAD = conv(5, "linear", 0)
PADDED = {  # every reader that loses something is 3x3 and padded
    "chain": wide(8) + wide(8, "mish") + wide(8, "logistic") + wide(8, "relu6") + HEAD,
    "residual": wide(8) + wide(6) + wide(8) + "[shortcut]\nfrom=-3\nactivation=leaky\n" + wide(6) + HEAD,
    "twice": wide(8) + "[route]\nlayers=-1,-1\n" + wide(6) + HEAD,
    "slices": wide(8)
    + wide(8)
    + "[route]\nlayers=-1,-2\ngroups=2\ngroup_id=1\n[route]\nlayers=-1,0\n"
    + wide(5)
    + HEAD,
    "depthwise": wide(8) + wide(8, "h_swish", 8) + wide(8) + HEAD,
    "ghost": conv(8) + wide(8, "relu", 8) + "[route]\nlayers=-1,-2\n" + wide(8) + HEAD,
    "grouped": wide(8) + wide(12, groups=4) + wide(6) + wide(6) + HEAD,
    "squeeze": wide(8) + "[se]\nreduction=2\n" + wide(6) + HEAD,
    "gate": wide(8, "swish")
    + "[avgpool]\n"
    + conv(8, "logistic", 0)
    + "[scale_channels]\nfrom=-3\nactivation=linear\n"
    + wide(5)
    + HEAD,
    "transposed": wide(8) + upward(8) + upward(6, "mish", size=4) + wide(6, "logistic") + HEAD,
    "transposed groups": wide(8) + upward(12, groups=4) + wide(8) + upward(8, "logistic", 8) + wide(6) + wide(6) + HEAD,
    "zeros": wide(8, "mish") + ZEROS + wide(8) + ZEROS + ZEROS + upward(6) + HEAD,
    "zeros and none": wide(6) + ZEROS + wide(6) + "[route]\nlayers=-1,-2\n" + wide(8) + wide(4) + HEAD,
    "zeros twice the same": wide(6) + ZEROS + "[route]\nlayers=-2\n" + ZEROS + "[shortcut]\nfrom=-3\n"
    "activation=leaky\n" + wide(6) + HEAD,
    "zeros squeezed": wide(8) + ZEROS + "[se]\nreduction=2\n" + wide(6) + HEAD,
    "zeros copied": wide(8) + ZEROS + "[upsample]\nstride=2\n" + wide(6) + HEAD,
}


def everywhere(net: Network, plan: Plan, small: Network, x: Tensor) -> float:
    """Worst error of any layer's alive channels, as a share of its largest value."""
    wires, worst = trace(net.spec), 0.0
    with torch.no_grad():
        full, cut_ = build(zeroed(net, plan)).activations(x), build(small).activations(x)
    for i, value in full.items():
        alive = plan.alive[wires.outputs[i]]
        if alive.any():
            value, found = value[:, alive], cut_[i][:, alive[plan.keep[wires.outputs[i]]]]
            worst = max(worst, float((value - found).abs().max() / value.abs().max()))
    return worst


@pytest.mark.parametrize("name", PADDED)
def test_carriers_are_exact_where_a_bias_is_wrong_at_the_border(name):
    net = random_network(parse_cfg(NET + PADDED[name]))
    plan, x = plan_channels(net, percent=0.5, tie=ShortcutRule.ANY), image(net, 2, 16)
    carried, wider = settle(net, plan, Beta.CARRIER)
    assert wider.carriers.any() and not plan.keep[wider.carriers].any()
    assert everywhere(net, wider, cut(carried, wider), x) < EXACT
    absorbed, same = settle(net, plan, Beta.BIAS)
    assert same is plan
    assert everywhere(net, plan, cut(absorbed, plan), x) > 100 * EXACT


def test_bias_is_wrong_at_the_border_only():
    net = random_network("plain")
    plan = plan_channels(net, percent=0.4, tie=ShortcutRule.ANY)
    x, stay = image(net), plan.keep[trace(net.spec).outputs[2]]
    with torch.no_grad():
        full = build(zeroed(net, plan)).activations(x)[2][:, stay]
        small = build(cut(settle(net, plan, Beta.BIAS)[0], plan)).activations(x)[2]
    assert_same([small[:, :, 1:-1, 1:-1]], [full[:, :, 1:-1, 1:-1]])
    assert (small - full).abs()[:, :, 0].max() > 1e-3 * full.abs().max()


@pytest.mark.parametrize("tie", ShortcutRule)
@pytest.mark.parametrize("path", TINY, ids=lambda p: p.stem)
def test_cut_network_equals_the_zeroed_one_under_every_tie(path, tie):
    net = random_network(path)
    if tie is ShortcutRule.KEEP and not prunable(net.spec):
        pytest.skip("all its wires are tied")
    for percent, multiple in ((0.5, 1), (0.8, 4)):
        plan = plan_channels(net, percent=percent, tie=tie, multiple=multiple)
        carried, plan = carry(net, plan)
        assert everywhere(net, plan, cut(carried, plan), image(net)) < EXACT


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_cut_network_equals_the_zeroed_one_on_every_shipped_cfg(path):
    net = random_network(path)
    plan = plan_channels(net, percent=0.8, tie=ShortcutRule.ANY, multiple=8)
    carried, wider = carry(net, plan)
    small, x = cut(carried, wider), image(net)
    assert_same(run(small, x), run(zeroed(net, wider), x))
    assert parameters(small.spec) == parameters(narrow(net.spec, wider)) < 0.7 * parameters(net.spec)
    assert not any(row.after % 8 for row in wider.rows if row.after < row.before)


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    spec=graphs().filter(prunable),
    percent=st.sampled_from([0.3, 0.6, 0.95]),
    tie=st.sampled_from(ShortcutRule),
    multiple=st.sampled_from([1, 1, 3]),
)
def test_random_graphs_equal_their_zeroed_selves(spec, percent, tie, multiple):
    net = random_network(spec)
    carried, plan = carry(net, plan_channels(net, percent=percent, tie=tie, multiple=multiple))
    small = cut(carried, plan)
    assert everywhere(net, plan, small, image(net, 2, GRID)) < EXACT
    assert parse_cfg(write_cfg(small.spec)) == small.spec
    if multiple > 1:
        assert not any(row.after % multiple for row in plan.rows if row.after < row.before)


def test_cut_network_comes_back_from_cfg_and_weights(tmp_path):
    net = random_network("residual")
    small = cut(*settle(net, plan_channels(net, percent=0.6, tie=ShortcutRule.ANY), Beta.CARRIER))
    (tmp_path / "small.cfg").write_text(write_cfg(small.spec))
    spec = read_cfg(tmp_path / "small.cfg")
    again = Network(spec, read_weights(write_weights(tmp_path / "small.weights", small), spec).state)
    for a, b in zip(run(again, image(net)), run(small, image(net)), strict=True):
        assert torch.equal(a, b)


def test_zeroed_network_is_the_one_with_gammas_at_zero():
    net = random_network(parse_cfg(NET + PADDED["depthwise"]))
    plan, x = plan_channels(net, percent=0.5, tie=ShortcutRule.ANY), image(net, 1, 16)
    a, b = (build(make(net, plan)).activations(x) for make in (zeroed, without_gammas))
    assert all(torch.equal(a[i], b[i]) for i in a)


def test_zeroing_reaches_the_border_behind_a_depthwise_convolution():
    net = random_network(parse_cfg(NET + PADDED["depthwise"]))
    plan = plan_channels(net, percent=0.5, tie=ShortcutRule.ANY)
    gone = ~plan.keep[trace(net.spec).outputs[1]]
    with torch.no_grad():
        sent = build(zeroed(net, plan)).activations(image(net, 1, 16))[1][0, gone]
    assert gone.any()
    torch.testing.assert_close(sent, constants(net, plan.keep)[1][gone, None, None].float().expand_as(sent))


def test_one_carrier_serves_a_whole_residual_chain():
    block = conv(4) + wide(8) + "[shortcut]\nfrom=-3\nactivation=linear\n"
    net = random_network(parse_cfg(NET + wide(8) + block * 3 + wide(6) + HEAD))
    wires = trace(net.spec)
    plan = plan_channels(net, percent=0.0, tie=ShortcutRule.ANY)
    keep = plan.keep.clone()
    keep[wires.outputs[0][:4]] = False  # the chain; the blocks' inner channels stay
    plan = replace(plan, keep=keep)
    carried, wider = carry(net, plan)
    assert int(wider.carriers.sum()) == 1
    chain = wires.outputs[0]
    sent = constants(carried, wider.alive, wires)
    ends = [i for i, layer in enumerate(net.spec.layers) if isinstance(layer, s.Shortcut)]
    assert [float(sent[i][wider.carriers[chain]]) for i in (0, *ends)] == [1.0] * 4
    assert everywhere(net, wider, cut(carried, wider), image(net, 1, 16)) < EXACT


def test_carriers_send_one_however_faint_the_constants_are():
    net = random_network(parse_cfg(NET + PADDED["chain"]))
    faint = Network(net.spec, {k: v * 1e-6 if k.endswith("bn.bias") else v for k, v in net.state.items()})
    carried, plan = carry(faint, plan_channels(faint, percent=0.5, tie=ShortcutRule.ANY))
    sent = constants(carried, plan.alive)
    wires = trace(net.spec)
    for i in (0, 1):
        assert sent[i][plan.carriers[wires.outputs[i]]].tolist() == pytest.approx([1.0])
    assert everywhere(faint, plan, cut(carried, plan), image(net, 1, 16)) < EXACT


def test_no_constants_need_no_carrier():
    net = random_network(parse_cfg(NET + wide(8, "relu") + wide(8, "relu") + HEAD))
    silent = Network(net.spec, {k: -v.abs() if k.endswith("bn.bias") else v for k, v in net.state.items()})
    plan = plan_channels(silent, percent=0.5, tie=ShortcutRule.ANY)
    carried, wider = carry(silent, plan)
    assert not wider.carriers.any() and torch.equal(wider.keep, plan.keep)
    assert everywhere(silent, wider, cut(carried, wider), image(net, 1, 16)) < EXACT


def test_the_only_channel_that_goes_stays_instead_of_a_carrier():
    net = random_network(parse_cfg(NET + wide(8) + HEAD))
    plan = plan_channels(net, percent=0.125, tie=ShortcutRule.ANY)
    assert int(plan.keep.sum()) == trace(net.spec).count - 1
    carried, wider = carry(net, plan)
    assert wider.keep.all() and not wider.carriers.any()
    assert all(torch.equal(carried.state[key], value) for key, value in net.state.items())


def test_a_carrier_takes_the_place_of_a_channel_kept_for_rounding():
    net = random_network(parse_cfg(NET + wide(16) + wide(16) + HEAD))
    plan = plan_channels(net, percent=0.6, tie=ShortcutRule.ANY, multiple=8)
    wires, wider = trace(net.spec), appoint(net, plan)
    assert plan.rows[0].above < 8
    assert [row.after for row in wider.rows] == [row.after for row in plan.rows] == [8, 8]
    for i in (0, 1):
        assert int(wider.carriers[wires.outputs[i]].sum()) == 1
        strongest = net.state[f"layers.{i}.bn.weight"].topk(7).indices
        assert wider.alive[wires.outputs[i][strongest]].all()


def test_full_width_by_rounding_loses_nothing():
    net = random_network(parse_cfg(NET + wide(10) + wide(16) + HEAD))
    plan = plan_channels(net, percent=0.0, tie=ShortcutRule.ANY, multiple=8)
    assert plan.rows[0].after == 10
    keep = plan.keep.clone()
    keep[trace(net.spec).outputs[0][:2]] = False  # 8 stay, a carrier makes it 9, the next multiple is over the width
    wider = appoint(net, replace(plan, keep=keep))
    assert wider.rows[0].after == 10 and not wider.carriers.any()


def test_carriers_are_predicted_without_touching_a_weight():
    net = random_network("gates")
    plan = plan_channels(net, percent=0.5, tie=ShortcutRule.ANY, multiple=2)
    predicted = appoint(net, plan)
    carried, wider = carry(net, plan)
    assert torch.equal(predicted.keep, wider.keep) and torch.equal(predicted.carriers, wider.carriers)
    assert appoint(net, predicted) is predicted
    assert cut(carried, wider).spec == narrow(net.spec, predicted)


def test_uneven_constants_of_a_bare_depthwise_convolution_go_to_the_bias():
    bare = "[convolutional]\nfilters=8\nsize=3\npad=1\ngroups=8\nactivation=leaky\n"
    net = random_network(parse_cfg(NET + wide(8) + bare + conv(6) + HEAD))
    plan = plan_channels(net, percent=0.4, tie=ShortcutRule.ANY)
    carried, wider = carry(net, plan)
    assert not wider.carriers[trace(net.spec).outputs[0]].any()
    x, last = image(net, 1, 16), 3
    with torch.no_grad():
        full = build(zeroed(net, wider)).activations(x)[last]
        small = build(cut(carried, wider)).activations(x)[last]
    assert_same([small[:, :, 1:-1, 1:-1]], [full[:, :, 1:-1, 1:-1]])
    found = residuals(net, plan, [x], build, Beta.CARRIER)
    assert found[2] > 10 * EXACT


def test_residuals_are_zero_with_carriers_and_told_for_the_bias():
    net = random_network("residual")
    plan, images = plan_channels(net, percent=0.5, tie=ShortcutRule.ANY), [image(net), image(net, seed=2)]
    biased = residuals(net, plan, images, build)
    assert len(biased) > 3
    assert max(biased.values()) > 1e-3
    carried = residuals(net, plan, images, build, Beta.CARRIER)
    assert carried.keys() <= biased.keys()
    assert max(carried.values()) < EXACT


def test_dropping_gives_back_what_it_got():
    net = random_network("plain")
    plan = plan_channels(net, percent=0.5, tie=ShortcutRule.ANY)
    assert settle(net, plan, Beta.DROP) == (net, plan)


@pytest.mark.parametrize("name", ["residual", "gates", "grouped"])
def test_carried_network_can_be_cut_again(name):
    net = random_network(name)
    small = cut(*carry(net, plan_channels(net, percent=0.3, tie=ShortcutRule.ANY)))
    carried, plan = carry(small, plan_channels(small, percent=0.4, tie=ShortcutRule.ANY))
    assert everywhere(small, plan, cut(carried, plan), image(net)) < EXACT


def test_carrying_leaves_its_input_alone_and_shares_what_stays():
    net = random_network("residual")
    before = {k: v.clone() for k, v in net.state.items()}
    plan = plan_channels(net, percent=0.5, tie=ShortcutRule.KEEP)
    keep = plan.keep.clone()
    carried, _ = carry(net, plan)
    assert torch.equal(plan.keep, keep)
    assert all(torch.equal(v, before[k]) for k, v in net.state.items())
    shared = [k for k, v in net.state.items() if carried.state[k] is v]
    assert any("conv.weight" in k for k in shared)
