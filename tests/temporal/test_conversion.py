"""A quantised network as the start of an ilif: its floats again, and its thresholds."""

from __future__ import annotations

import pytest
import torch

from models import Darknet, build, network_of
from tests.temporal.nets import CFGS
from utils.darknet.cfg import read_cfg
from utils.darknet.network import Network
from utils.darknet.neuron_cfg import with_neurons
from utils.quantization.calibrate import calibrate
from utils.quantization.dequantise import dequantise
from utils.quantization.executor import IntegerExecutor
from utils.quantization.lower import lower
from utils.quantization.scheme import Scheme


def quantised(name, bits, style):
    spec = read_cfg(CFGS / f"{name}.cfg")
    layers = tuple(
        layer
        if not hasattr(layer, "activation") or layer.activation == "linear"
        else type(layer)(**{**vars(layer), "activation": "relu"})
        for layer in spec.layers
    )
    spec = type(spec)(layers=layers, net=spec.net)
    torch.manual_seed(0)
    x = torch.randint(0, 256, (4, 3, spec.height, spec.width)).float() / 255
    model = Darknet(spec)
    model.train()(x)
    made = calibrate(network_of(model), [x], Scheme(style=style, w_bit=8, a_bit=bits))
    return lower(made), x


@pytest.mark.parametrize("style", ["google", "pow2"])
def test_one_step_of_as_many_levels_is_the_quantised_network(style):
    """T = 1 and D = the highest level: rounding, clipping and all, at float precision."""
    integer, x = quantised("plain", 4, style)
    floats = dequantise(integer)
    levels = {i: integer.grids[i].qmax for i in floats.highest}
    (most,) = set(levels.values())
    thresholds = {i: top / most for i, top in floats.highest.items()}
    spec = with_neurons(floats.network.spec, "ilif", 1, levels=most, thresholds=thresholds)
    model = build(Network(spec, floats.network.state))
    wanted = IntegerExecutor(integer)(x)
    with torch.no_grad():
        for found, expected in zip(model(x), wanted, strict=True):
            off = (found - expected).abs() / expected.abs().max()
            assert float(off.mean()) < 2e-3, "a level at a tie may fall to either side"
            assert float((off < 1e-4).float().mean()) > 0.9
