"""Activations of old cfgs: each is Darknet's formula, number by number, and its ONNX form is that too."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from benchmarks.random_network import random_network
from tests.conftest import ROOT
from tests.quantization.random_nets import cfg_text
from utils.darknet import choices
from utils.darknet.activations import ACROSS, ACTIVATIONS, RARE
from utils.darknet.cfg import parse_cfg, read_cfg
from utils.darknet.replace_activation import rewrite_activations
from utils.errors import InputError
from utils.export.onnx_check import run, session
from utils.export.onnx_curves import CURVES
from utils.export.onnx_graph import Graph, check
from utils.quantization.activation_qparams import QParams
from utils.quantization.tables import make_table
from utils.spiking.spike_schedule import check_spiking_spec

FORMULAS = {  # of activations.h, in words of one number
    "elu": lambda x: x if x >= 0 else math.exp(x) - 1,
    "gelu": lambda x: 0.5 * x * (1 + math.tanh(0.797885 * x + 0.035677 * x**3)),
    "hard_mish": lambda x: x if x > 0 else x * x / 2 + x if x > -2 else 0,
    "hardtan": lambda x: -1 if x < -1 else 1 if x > 1 else x,
    "lhtan": lambda x: 0.001 * x if x < 0 else 0.001 * (x - 1) + 1 if x > 1 else x,
    "loggy": lambda x: 2 / (1 + math.exp(-x)) - 1,
    "plse": lambda x: 0.01 * (x + 4) if x < -4 else 0.01 * (x - 4) + 1 if x > 4 else 0.125 * x + 0.5,
    "ramp": lambda x: x * (x > 0) + 0.1 * x,
    "relie": lambda x: x if x > 0 else 0.01 * x,
    "selu": lambda x: 1.0507 * (x if x >= 0 else 1.6732 * (math.exp(x) - 1)),
    "stair": lambda x: math.floor(x / 2) + (0 if math.floor(x) % 2 == 0 else x - math.floor(x)),
    "tanh": lambda x: (math.exp(2 * x) - 1) / (math.exp(2 * x) + 1),
}
X = torch.linspace(-7, 7, 281)


@pytest.mark.parametrize("name", FORMULAS)
def test_each_is_darknets_formula_in_floats_in_onnx_and_in_a_table_of_levels(name):
    wanted = torch.tensor([FORMULAS[name](float(x)) for x in X])
    torch.testing.assert_close(ACTIVATIONS[name](X), wanted, rtol=1e-5, atol=1e-5)
    graph = Graph()
    made = CURVES[name](graph, "x", "y")
    helper = graph.onnx.helper
    ends = [helper.make_tensor_value_info(end, graph.onnx.TensorProto.FLOAT, [len(X)]) for end in ("x", made)]
    model = graph.model(ends[:1], ends[1:])
    check(model)
    (found,) = run(session(model), {"x": X.numpy()}).values()
    np.testing.assert_allclose(found, wanted.numpy(), rtol=1e-4, atol=1e-5)
    before, after = QParams(1 / 16, -128, 127), QParams(1 / 20, -512, 511)
    levels = [math.floor(FORMULAS[name](p / 16) * 20 + 0.5) for p in range(-128, 128)]
    assert (make_table(name, before, after) - torch.tensor(levels)).abs().max() <= 1  # a half is rounded once a side


def test_they_are_all_and_known_where_no_torch_is():
    assert set(FORMULAS) == set(RARE) == set(choices.RARE)


def test_revleaky_is_leaky_and_sums_over_channels_are_refused_by_name():
    text = cfg_text(("convolutional", {"filters": 4, "activation": "revleaky"}))
    assert parse_cfg(text).layers[0].activation == "leaky"
    for name in ACROSS:
        with pytest.raises(InputError, match=f"line 8: activation={name} divides each value by a sum over channels"):
            parse_cfg(text.replace("revleaky", name))


def test_what_the_refusal_of_spikes_says_makes_a_network_that_spikes():
    spec = read_cfg(ROOT / "tests/cfgs/rare.cfg")
    with pytest.raises(InputError, match=r"activation=ramp has no spiking form; .*train.py --act relu"):
        check_spiking_spec(spec)
    made = rewrite_activations(random_network(spec), "relu").network
    check_spiking_spec(made.spec)
    assert {layer.activation for layer in made.spec.activated.values()} == {"relu", "linear"}
