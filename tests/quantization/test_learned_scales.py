"""Scales that learn: which do, and how far a step takes them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from tests.conftest import ROOT
from tests.pruning.nets import random_network
from utils.darknet.cfg import read_cfg
from utils.quantization.fakeconv import FakeConv
from utils.quantization.observers import MOST_MOVED, Scale, hold_scales
from utils.quantization.prepare import prepare
from utils.quantization.scheme import Scheme
from utils.quantization.validate import depthwise_layers, outer_layers


@pytest.mark.parametrize("slope", [1e3, -1e3, 1e-4])
def test_no_step_carries_a_learned_scale_far_nor_through_zero(slope):
    model = nn.ModuleList([Scale(torch.tensor([0.005, 0.1]), learn=True), Scale(torch.ones(1))])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.04, momentum=0.937, nesterov=True)
    plain = model[0].scale.detach().clone()
    hold_scales(model, optimizer)
    for _ in range(5):
        was = model[0].scale.detach().clone()
        model[0].scale.grad = torch.full((2,), slope)
        optimizer.step()
        ratio = model[0].scale.detach() / was
        assert bool((ratio <= MOST_MOVED * 1.0001).all() and (ratio >= 0.9999 / MOST_MOVED).all())
    moved = abs(float(model[0].scale.detach()[1] - plain[1]))
    assert moved > 0.03 if abs(slope) > 1 else 0 < moved < 1e-3, "small steps are left alone"


def test_outer_layers_with_bits_to_spare_follow_their_weights_and_the_others_learn():
    given = random_network(read_cfg(ROOT / "tests/cfgs/residual.cfg"))
    x = (torch.rand(2, 3, given.spec.height, given.spec.width) * 255).round() / 255
    for scheme in (Scheme(style="apot", w_bit=4, a_bit=3), Scheme(w_bit=4, a_bit=3), Scheme(w_bit=8, a_bit=3)):
        model = prepare(given, [x], scheme, learn=True)
        outer = {*outer_layers(model.spec), *depthwise_layers(model.spec)} if scheme.w_bit < 8 else set()
        for i, layer in ((int(key), layer) for key, layer in model.layers.items() if isinstance(layer, FakeConv)):
            assert layer.steps.follows == (i in outer) and layer.steps.learn != layer.steps.follows, f"layer {i}"
