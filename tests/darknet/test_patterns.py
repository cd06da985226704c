"""Constants of cut channels behind an [upsample] with zeros, where they are constants no more."""

from __future__ import annotations

import pytest
import torch

from models import build
from tests.pruning.nets import assert_same, image, random_network
from tests.pruning.test_absorb import NET
from tests.pruning.test_bias_carrier import EXACT, HEAD, ZEROS, everywhere, upward, wide
from utils.darknet.cfg import parse_cfg
from utils.darknet.channel_groups import trace
from utils.darknet.network import Network
from utils.darknet.patterns import patterns, share
from utils.darknet.spec import ModelSpec
from utils.pruning.absorb import absorb, zeroed
from utils.pruning.bias_carrier import carry, settle
from utils.pruning.choices import Beta
from utils.pruning.plan import ShortcutRule, plan_channels
from utils.pruning.surgery import cut, silence

POOL = "[maxpool]\nsize=2\nstride=2\n"
MET = {  # the pattern of layer 1 meets what fills its zeros in layer `int`; 1 to 3 carry it
    "pool": (ZEROS + POOL, 3),
    "mean": (ZEROS + "[avgpool]\n", 3),
    "reorg": (ZEROS + "[reorg]\nstride=2\n", 3),
    "concat": (ZEROS + wide(8) + "[route]\nlayers=-1,-2\n", 4),
    "sum": (ZEROS + wide(8) + "[shortcut]\nfrom=-2\nactivation=leaky\n", 4),
    "activation": (
        ZEROS + "[route]\nlayers=1\n" + ZEROS + "[shortcut]\nfrom=-3\nactivation=logistic\n",
        5,
    ),
    "kernel": (ZEROS + wide(8, "relu", 8).replace("batch_normalize=1\n", ""), 3),
    "transposed": (upward(8, "relu", 8).replace("batch_normalize=1\n", ""), 2),
}


def net_of(sections: str) -> Network:
    return random_network(parse_cfg(NET + wide(6) + wide(8) + sections + wide(6) + HEAD))


def spec_of(sections: str) -> ModelSpec:
    return parse_cfg(NET + wide(8) + wide(8) + sections)


@pytest.mark.parametrize("name", MET)
def test_channels_whose_zeros_are_filled_stay_and_the_rest_is_cut_exactly(name):
    sections, at = MET[name]
    net = net_of(sections)
    found, barriers = patterns(net.spec)
    assert list(barriers) == [at] and found[at] == ()
    wires = trace(net.spec)
    assert wires.locked[wires.outputs[1]].all() and not wires.locked[wires.outputs[0]].any()
    line = net.spec.layers[at].line
    assert any(reason.text == f"cfg line {line}: zeros between values meet what fills them" for reason in wires.reasons)
    plan, x = plan_channels(net, percent=0.5, tie=ShortcutRule.ANY), image(net, 2, 16)
    carried, wider = carry(net, plan)
    assert everywhere(net, wider, cut(carried, wider), x) < EXACT
    with torch.no_grad():
        small, quiet = (
            build(each).activations(x)[len(net.spec.layers) - 1] for each in (cut(net, plan), silence(net, plan))
        )
    assert_same([small], [quiet])


def test_a_pattern_says_which_zeros_came_in_and_what_was_copied():
    found, barriers = patterns(spec_of(ZEROS + ZEROS.replace("2", "3") + "[upsample]\nstride=2\n" + wide(4)))
    assert [found[i] for i in range(-1, 6)] == [(), (), (), (2,), (2, 3), (2, 3, -2), ()]
    assert not barriers and share(found[4]) == 1 / 36 and share(()) == 1
    plain, none = patterns(spec_of("[upsample]\nstride=2\n[upsample]\nstride=1\nzeros=1\n" + POOL))
    assert set(plain.values()) == {()} and not none


@pytest.mark.parametrize("sections", [ZEROS, upward(8), upward(8, size=4), ZEROS + "[upsample]\nstride=2\n"])
def test_a_bias_takes_the_mean_of_what_is_no_constant(sections):
    net = net_of(sections)
    plan = plan_channels(net, percent=0.5, tie=ShortcutRule.ANY)
    reader = 2 if "transposed" in sections else 2 + sections.count("upsample")
    keep = plan.keep[trace(net.spec).outputs[reader]]
    plan.keep[trace(net.spec).outputs[0]] = True  # only layer 1, which the reader reads, loses anything
    x = image(net, 1, 48)
    with torch.no_grad():
        full = build(zeroed(net, plan)).layers[str(reader)]
        small = build(cut(absorb(net, plan), plan)).layers[str(reader)]
        given = build(zeroed(net, plan)).activations(x)[net.spec.layers[reader].sources[0]]
        less = given[:, plan.keep[trace(net.spec).outputs[net.spec.layers[reader].sources[0]]]]
        wanted, found = full.bn(full.conv(given))[:, keep], small.bn(small.conv(less))
    edge = 12  # px, where zero padding counts
    apart = (wanted - found)[..., edge:-edge, edge:-edge].mean((2, 3))
    assert apart.abs().max() < 1e-4 * wanted.abs().max()


def test_carriers_are_needed_and_exact_behind_zeros():
    net = net_of(ZEROS)
    plan, x = plan_channels(net, percent=0.5, tie=ShortcutRule.ANY), image(net, 2, 16)
    carried, wider = settle(net, plan, Beta.CARRIER)
    wires = trace(net.spec)
    assert wider.carriers[wires.outputs[2]].any()
    assert everywhere(net, wider, cut(carried, wider), x) < EXACT
    dropped = cut(net, plan)
    assert everywhere(net, plan, dropped, x) > 100 * EXACT
