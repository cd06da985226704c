"""--act: which activations change, which stay, and that nothing else of a network does."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from models import Darknet
from tests.conftest import ROOT
from tests.quantization.random_nets import CONV, GATED, cfg_text, random_images, random_network
from utils.darknet import spec as s
from utils.darknet.cfg import read_cfg
from utils.darknet.network import Network
from utils.darknet.replace_activation import rewrite_activations
from utils.errors import InputError


def conv(activation: str) -> tuple[str, dict[str, object]]:
    return "convolutional", CONV | {"activation": activation}


MIXED = cfg_text(
    conv("mish"),
    conv("swish"),
    conv("h_swish"),
    conv("linear"),
    ("shortcut", {"from": -2, "activation": "leaky"}),
    ("se", {"squeeze": 2}),
    *GATED,
)


def kinds(network: Network) -> list[str]:
    return [layer.activation for layer in network.spec.activated.values()]


def test_every_hidden_activation_changes_but_hard_swish_gates_linear_and_heads():
    before = random_network(MIXED)
    after = rewrite_activations(before, "relu")
    assert kinds(after.network) == ["relu", "relu", "h_swish", "linear", "relu", "relu", "logistic", "linear", "linear"]
    assert after.network.state is before.state
    assert after.changed == Counter(mish=1, swish=1, leaky=1) and after.left == Counter(h_swish=1, gates=2)
    message = "1 mish, 1 swish, 1 leaky activations rewritten; 1 h_swish, 2 gates stay (--act relu=h_swish,gates takes"
    assert after.describe("relu").startswith(message)


@pytest.mark.parametrize("act, to", [("relu6", "relu6"), ("leaky-pow2", "leaky_pow2")])
def test_named_ones_change_and_no_others(act, to):
    after = rewrite_activations(random_network(MIXED), f"{act}=swish,h_swish").network
    assert kinds(after) == ["mish", to, to, "linear", "leaky", "relu", "logistic", "linear", "linear"]


def test_a_gate_that_is_named_changes_and_an_se_is_written_out_with_its_weights():
    before = random_network(MIXED)
    after = rewrite_activations(before, "relu6=gates").network
    assert not [layer for layer in after.spec.layers if isinstance(layer, s.SqueezeExcite)]
    assert kinds(after).count("relu6") == 2 and "logistic" not in kinds(after)
    layers = [  # hard_sigmoid and logistic back in the gates: the network as it was
        _with(layer, {7: "hard_sigmoid", 11: "logistic"}.get(i)) for i, layer in enumerate(after.spec.layers)
    ]
    same, first = Darknet(s.ModelSpec(layers=tuple(layers), net=after.spec.net)), Darknet(before.spec)
    for model, network in ((same, after), (first, before)):
        model.load_state_dict(network.state, strict=False)
        model.eval()
    x = random_images(1)
    torch.testing.assert_close(same(x), first(x))


def _with(layer: s.Layer, activation: str | None) -> s.Layer:
    if activation is None:
        return layer
    assert isinstance(layer, s.Activated) and layer.activation == "relu6"
    return replace(layer, activation=activation)


@pytest.mark.parametrize("name", ["yolov4", "yolov3-tiny", "yolov3-tiny-mobilenet-small", "yolov3-ghost"])
def test_a_shipped_network_has_nothing_else_left(name):
    spec = read_cfg(ROOT / f"cfg/{name}.cfg")
    after = rewrite_activations(Network(spec, {}), "leaky-pow2").network
    ends = {after.spec.layers[i].sources[0] for i in after.spec.heads}
    left = {layer.activation for i, layer in after.spec.activated.items() if i not in ends}
    assert left <= {"leaky_pow2", "linear", "h_swish", "logistic", "hard_sigmoid"}
    assert after.state == {} and len(after.spec.layers) == len(spec.layers)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        ("gelu", "--act: 'gelu' is unknown; use one of leaky-pow2, relu, relu6"),
        (
            "relu=glu",
            "--act relu=glu: 'glu' is unknown; behind the = use some of h_swish, hard_sigmoid, leaky, leaky-pow2, ",
        ),
        ("relu=linear", "--act relu=linear: 'linear' is unknown"),
        ("relu=", "--act relu=: '' is unknown"),
        ("relu=relu,mish", "--act relu=relu,mish: puts relu in its own place; leave relu out behind the ="),
        ("relu=relu6", r"--act relu=relu6: the network has no relu6 activation; name some of what it has \(1 mish, "),
    ],
)
def test_what_changes_nothing_or_is_unknown_is_refused(act, message):
    with pytest.raises(InputError, match=message):
        rewrite_activations(random_network(MIXED), act)


def test_a_network_of_that_activation_alone_is_refused():
    with pytest.raises(InputError, match="--act relu: the network has no other activation; leave --act away"):
        rewrite_activations(random_network(cfg_text(conv("relu"), conv("linear"))), "relu")
