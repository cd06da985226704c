"""Recurrent layers and [sequence] in a cfg and in a weights file; what is refused, and by which words."""

from __future__ import annotations

import pytest
import torch

from models import Darknet, build, network_of
from tests.conftest import ROOT
from tests.sequences.nets import UNITS, net, text
from utils.darknet.cfg import parse_cfg, read_cfg
from utils.darknet.counts import count
from utils.darknet.weights import read_weights, write_weights
from utils.darknet.writer import write_cfg
from utils.errors import InputError

CFGS = sorted((ROOT / "cfg" / "sequences").glob("*.cfg"))
DARKNETS = """\
[net]
inputs=256
batch=128
time_steps=576
[lstm]
batch_normalize=1
output=1024
[connected]
output=256
activation=leaky
[softmax]
[cost]
type=sse
"""  # the layout of its lstm.train.cfg


@pytest.mark.parametrize("cfg", CFGS, ids=lambda path: path.stem)
def test_a_shipped_cfg_is_written_as_it_was_read_and_runs(cfg):
    spec = read_cfg(cfg)
    assert parse_cfg(write_cfg(spec)) == spec
    assert Darknet(spec)(torch.rand(2, 3, spec.channels, 1, 1))[0].shape[:2] == (2, 3)


@pytest.mark.parametrize("keys", ["", "sends=membrane\nstep_norm=4\nv_th=0.3\n"])
@pytest.mark.parametrize("kind", UNITS)
def test_weights_come_back_as_they_were_written_and_make_the_same_network(tmp_path, kind, keys):
    spec = net(kind, keys="" if kind == "lstm" else keys)
    model = Darknet(spec).train()
    x = torch.rand(3, 10, 2, 1, 1)
    model(x)  # moves the statistics of norms
    network = network_of(model)
    path = write_weights(tmp_path / "net.weights", network)
    state = read_weights(path, spec).state
    assert state.keys() == network.state.keys() and all(torch.equal(state[key], network.state[key]) for key in state)
    assert torch.equal(build(network)(x)[0], model.eval()(x)[0])
    assert path.stat().st_size == 20 + 4 * sum(value.numel() for value in state.values())


def test_parameters_are_those_of_the_module_and_macs_those_of_one_step():
    for kind in UNITS:
        spec = net(kind, keys="" if kind == "lstm" else "step_norm=5\n")
        counts = count(spec, (1, 1))
        assert counts.params == sum(parameter.numel() for parameter in Darknet(spec).parameters())
        each = {"ltc": 2 * 6 + 6 * 6 + 2 * 12 * 6, "lif": 2 * 6 + 6 * 6, "lstm": 4 * (2 * 6 + 6 * 6)}[kind]
        assert counts.macs == each + 6


@pytest.mark.parametrize("kind", ["lstm", "ltc_rnn", "lif_rnn"])
def test_a_state_between_images_has_no_place(kind):
    with pytest.raises(InputError, match=rf"c line 2: \[{kind}\] keeps a state .* end the cfg in \[sequence\]"):
        parse_cfg(f"[net]\n[{kind}]\noutput=4\n", "c")


def test_darknets_own_recurrent_cfg_is_refused_by_its_layer_and_not_by_a_key():
    with pytest.raises(InputError, match=r"lstm.cfg line 5: \[lstm\] keeps a state from one image to the next"):
        parse_cfg(DARKNETS, "lstm.cfg")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("input=frames\n", ""), r"line 1: a network that ends in \[sequence\] needs input=frames and timesteps="),
        (("timesteps=10\n", ""), r"line 1: a network that ends in \[sequence\] needs input=frames"),
        (("[ltc_rnn]\noutput=6\n", ""), r"\[sequence\] reads a network that keeps no state from step to step"),
        (("output=6\n", ""), r"line 8: \[ltc_rnn\] needs output="),
        (("output=6\n", "output=6\nsends=rate\n"), "sends=rate is none of spikes, membrane"),
        (("output=6\n", "output=6\nmembrane_decay=0.5\n"), "membrane_decay= acts with activation=lif, .*this is ltc"),
        (("output=6\n", "output=6\nstep_norm=11\n"), "line 10: step_norm=11: training sees timesteps=10"),
        (("output=6\n", "output=6\ngate=full\n"), r"unknown key 'gate' in \[ltc_rnn\]"),
        (("batch=4\n", "batch=4\nmembrane_bits=4\n"), "membrane_bits= acts with activation=lif, plif, ilif, and no layer"),
        (("data=adding", "data=digits"), "data=digits beside predicts=value"),
        (("data=adding", "order=rows"), "order= is of pictures, which predicts=value has not"),
    ],
)  # fmt: skip
def test_what_a_cfg_can_not_mean_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        parse_cfg(text("ltc").replace(*change), "c")


@pytest.mark.parametrize("key", ["surrogate_width=2", "signed=1", "membrane_start=0.5", "membrane_bits=4"])
def test_a_key_for_all_neurons_that_recurrent_ones_have_no_form_of_is_refused(key):
    """[net] would say it of the convolution alone, and the layer beside it would go without."""
    spiking = "[convolutional]\nfilters=4\nsize=1\nactivation=lif\n"
    both = text("lif").replace("[lif_rnn]", f"{spiking}[lif_rnn]")
    said = rf"c line 3: {key.partition('=')[0]}= in \[net\] is for every lif, and \[lif_rnn\] has no such key"
    with pytest.raises(InputError, match=said):
        parse_cfg(both.replace("batch=4\n", f"batch=4\n{key}\n"), "c")
    assert parse_cfg(both.replace("activation=lif\n", f"activation=lif\n{key}\n"), "c").neurons
    other = text("ltc").replace("[ltc_rnn]", f"{spiking}[ltc_rnn]").replace("batch=4\n", f"batch=4\n{key}\n")
    assert parse_cfg(other, "c").neurons, "an ltc is not meant"


def test_a_recurrent_layer_reads_values_and_no_maps():
    with pytest.raises(InputError, match="cfg line 8: a recurrent layer reads 1x1 px at every step, this one 1x4"):
        count(net("ltc"), (1, 4))
