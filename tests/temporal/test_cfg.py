"""What a cfg says of neurons: read, written back, put in the place of activations and taken out, or refused."""

from __future__ import annotations

import pytest
import torch

from models import Darknet, network_of
from tests.temporal.nets import CFGS, HIDDEN, small
from utils.darknet.cfg import parse_cfg, read_cfg, write_cfg
from utils.darknet.neuron_cfg import with_neurons, without_neurons
from utils.darknet.weights import read_weights, write_weights
from utils.errors import InputError

KEYS = (
    "v_th=0.25\nmembrane_decay=.5\nreset=soft\nreset_gradient=1\nsurrogate=atan\nmembrane_bits=8\nreplaces=leaky\n"
    "weight_quant=binary\n"
)
SAID = HIDDEN.replace("timesteps=3", "timesteps=3\nv_th=0.75\nmembrane_decay=0.125").format("lif\n" + KEYS)


def test_what_a_layer_says_counts_before_what_the_net_says():
    spec = parse_cfg(SAID)
    first, second = spec.neurons.values()
    assert (first.v_th, first.membrane_decay, first.reset) == (0.75, 0.125, "hard")
    assert (second.v_th, second.membrane_decay, second.reset, second.surrogate) == (0.25, 0.5, "soft", "atan")
    assert (second.reset_gradient, second.membrane_bits, second.timesteps) == (True, 8, 3)
    assert spec.kernels[2].weight_quant == "binary"


def test_a_time_constant_is_the_decay_that_it_stands_for():
    said = HIDDEN.replace("timesteps=3", "timesteps=3\ntau=4").format("lif\ntau=2")
    assert [neuron.membrane_decay for neuron in parse_cfg(said).neurons.values()] == [0.75, 0.5]
    assert parse_cfg(write_cfg(parse_cfg(said))) == parse_cfg(said)
    assert parse_cfg(HIDDEN.format("lif\ntau=1")).neurons.popitem()[1].membrane_decay == 0


def test_neurons_are_written_as_they_are_read():
    for spec in (parse_cfg(SAID), small("ltc\ngate=full\nadaptive=0"), small("ilif\nlevels=7"), small("plif")):
        assert parse_cfg(write_cfg(spec)) == spec


@pytest.mark.parametrize("name", ["plain", "residual", "csp", "spp", "transposed"])
def test_putting_neurons_in_and_taking_them_out_changes_nothing(name):
    spec = read_cfg(CFGS / f"{name}.cfg")
    made = with_neurons(spec, "lif", 4)
    assert without_neurons(made) == spec
    assert all(made.layers[i] == layer for i, layer in spec.activated.items() if layer.activation == "linear")
    assert parse_cfg(write_cfg(made)) == made


@pytest.mark.parametrize("activation", ["plif", "ltc", "ltc\ngate=full", "ltc\ngate=pointwise\nadaptive=0"])
def test_what_neurons_learn_is_in_a_weights_file(activation, tmp_path):
    spec = small(activation)
    torch.manual_seed(1)
    network = network_of(Darknet(spec))
    state = read_weights(write_weights(tmp_path / "n.weights", network), spec).state
    learned = {key for key in network.state if "num_batches" not in key}
    assert state.keys() == learned
    assert all(torch.equal(state[key], network.state[key]) for key in learned)
    assert any("neuron" in key for key in learned)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HIDDEN.format("lif").replace("timesteps=3\n", ""), r"a network with neurons \(lif\) needs timesteps="),
        (HIDDEN.format("lif").replace("=3\n[conv", "=0\n[conv", 1), "timesteps=0 must be one whole number from 1 up"),
        (HIDDEN.format("lif").replace("=3\n[conv", "=x\n[conv", 1), "line 4: timesteps=x must be whole numbers"),
        (HIDDEN.format("lif\nlevels=4"), r"line 20: levels= acts with activation=ilif, this is lif; leave it away"),
        (HIDDEN.format("relu\nv_th=1"), "v_th= acts with activation=lif, plif, ilif, ltc, this is relu"),
        (HIDDEN.format("lif\nmembrane_bits=1"), "membrane_bits=1: a membrane has 2 to 16 bits"),
        (
            HIDDEN.format("lif").replace("=3\n[conv", "=3\nreadout=first\n[conv", 1),
            "readout=first is none of mean, last",
        ),
        ("[net]\nreadout=last\n[convolutional]\nfilters=2\nactivation=relu\n", "readout= acts with activation=lif"),
        (HIDDEN.format("ilif\nsigned=1"), "signed= acts with activation=lif, plif, this is ilif; leave it away"),
        (
            HIDDEN.format("relu").replace("lif", "ilif").replace("[net]", "[net]\nsigned=1"),
            "signed= acts with activation=lif",
        ),
        (HIDDEN.format("lif\nv_th=0"), "v_th=0 must be from more than 0"),
        (HIDDEN.format("lif\nreset_gradient=2"), "reset_gradient=2 must be 0 or 1"),
        (HIDDEN.format("lif\nv_th=inf"), "v_th=inf must be from more than 0"),
        (HIDDEN.format("lif\nmembrane_decay=1.5"), "membrane_decay=1.5 must be from 0 to 1"),
        (HIDDEN.format("lif\ntau=0.5"), "tau=0.5 must be 1 or more, in steps; membrane_decay is 1 - 1 / tau"),
        (HIDDEN.format("plif\ntau=1"), "tau=1 must be more than 1"),
        (HIDDEN.format("lif\ntau=2\nmembrane_decay=0.5"), "tau= and membrane_decay= are one thing"),
        (HIDDEN.format("ltc\ntau=2"), "tau= acts with activation=lif, plif, ilif, li, this is ltc"),
        (HIDDEN.format("lif\nreset=maybe"), "reset=maybe is none of hard, soft"),
        (HIDDEN.format("lif\nsurrogate=atam"), "surrogate=atam is none of .*did you mean 'atan'"),
        (HIDDEN.format("lf"), "unknown activation 'lf'; did you mean 'lif'"),
        (
            HIDDEN.format("lif").replace("[net]", "[net]\nlevels=3"),
            r"line 2: levels= acts with activation=ilif, and no",
        ),
        ("[net]\ntimesteps=4\n[convolutional]\nfilters=2\nactivation=relu\n", "timesteps= acts with activation=lif"),
        ("[net]\ntimesteps=4\n[transposed_convolutional]\nfilters=2\nactivation=ltc\n", "can not have activation=ltc"),
        (HIDDEN.format("lif\nweight_quant=ternary"), "weight_quant=ternary is none of none, binary"),
    ],
)
def test_what_makes_no_sense_is_refused_by_line(text, message):
    with pytest.raises(InputError, match=message):
        parse_cfg(text)


def test_neurons_are_not_put_where_they_can_not_be():
    with pytest.raises(InputError, match="the network has neurons of its own"):
        with_neurons(small(), "lif", 4)
    with pytest.raises(InputError, match="a gate scales what it reads"):
        with_neurons(read_cfg(CFGS / "gates.cfg"), "lif", 4)
    with pytest.raises(InputError, match="no hidden activation to replace"):
        with_neurons(parse_cfg("[net]\n[convolutional]\nfilters=2\nactivation=linear\n"), "lif", 4)
    with pytest.raises(InputError, match="replaces= does not say"):
        without_neurons(small())
