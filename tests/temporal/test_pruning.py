"""Networks with neurons are cut as any other: gates go with the channels that they belong to."""

from __future__ import annotations

import pytest
import torch

from models import Darknet, network_of
from tests.pruning.nets import assert_same, image, run
from tests.temporal.nets import spiking
from utils.darknet.cfg import parse_cfg, write_cfg
from utils.darknet.counts import parameters
from utils.darknet.network import Network
from utils.darknet.spec import ModelSpec
from utils.pruning.absorb import constants, zeroed
from utils.pruning.bias_carrier import Beta, settle
from utils.pruning.plan import ShortcutRule, plan_channels
from utils.pruning.surgery import cut, silence

GATED = {"full": "gate=full\n", "pointwise": "gate=pointwise\n", "depthwise": ""}


def network(spec: ModelSpec, low: float = -0.3, high: float = 0.9) -> Network:
    """Gammas in 0..1, betas in low..high, statistics away from zero, gates that are open at random."""
    torch.manual_seed(3)
    state = network_of(Darknet(spec)).state
    ranges = {"bn.weight": (0, 1), "bn.bias": (low, high), "running_mean": (-0.2, 0.2), "running_var": (0.05, 0.2)}
    for key, value in state.items():
        for name, (least, most) in ranges.items():
            if key.endswith(name):
                value.uniform_(least, most)
    return Network(spec, state)


def gated(name: str, gate: str) -> ModelSpec:
    text = write_cfg(spiking(name, "ltc"))
    return parse_cfg(text.replace("replaces=", f"{GATED[gate]}replaces="))


@pytest.mark.parametrize("name", ["plain", "residual", "csp", "spp"])
@pytest.mark.parametrize("kind", ["lif", "plif", "ilif", "ltc"])
def test_the_cut_network_is_the_silenced_one(name, kind):
    net = network(spiking(name, kind))
    plan = plan_channels(net, percent=0.5, tie=ShortcutRule.ANY)
    small, x = cut(net, plan), image(net, 2)
    assert parameters(small.spec) < parameters(net.spec)
    assert parse_cfg(write_cfg(small.spec)) == small.spec
    assert_same(run(small, x), run(silence(net, plan), x), 1e-4)


@pytest.mark.parametrize("gate", GATED)
def test_gates_join_the_channels_of_their_layer(gate):
    net = network(gated("residual", gate))
    plan = plan_channels(net, percent=0.5, tie=ShortcutRule.ANY)
    small, x = cut(net, plan), image(net, 2)
    for i, layer in small.spec.kernels.items():
        if i in small.spec.neurons:
            weight = small.state[f"layers.{i}.neuron.tau_m.weight"]
            assert len(weight) == layer.filters
            assert weight.shape[1] == (1 if gate == "depthwise" else layer.filters)
    assert_same(run(small, x), run(silence(net, plan), x), 1e-4)
    with pytest.raises(AssertionError):
        assert_same(run(small, x), run(net, x), 1e-4)


@pytest.mark.parametrize("kind", ["lif", "ilif", "ltc"])
def test_channels_that_stay_under_the_threshold_are_cut_without_loss(kind):
    net = network(spiking("residual", kind), low=-0.4, high=0.1)
    plan = plan_channels(net, percent=0.4, tie=ShortcutRule.ANY)
    assert not any(sent.any() for sent in constants(net, plan.keep).values())
    ready, plan = settle(net, plan, Beta.CARRIER)
    x = image(net, 2)
    assert_same(run(cut(ready, plan), x), run(zeroed(net, plan), x), 1e-4)


def test_what_a_cut_channel_fires_is_given_to_its_readers_as_its_mean():
    """A beta above the threshold fires at every step behind a hard reset: a constant, absorbed exactly."""
    net = network(spiking("plain", "lif"), low=0.51, high=0.9)
    plan = plan_channels(net, percent=0.3, tie=ShortcutRule.ANY)
    sent = constants(net, plan.keep)
    assert {float(value) for i in net.spec.neurons for value in sent[i]} == {0.0, 1.0}
    ready, settled = settle(net, plan, Beta.CARRIER)
    x = image(net, 2)
    assert_same(run(cut(ready, settled), x), run(zeroed(net, plan), x), 1e-4)
    with pytest.raises(AssertionError):
        assert_same(run(cut(net, plan), x), run(zeroed(net, plan), x), 1e-4)
