from __future__ import annotations

import pytest
import torch

from models import Darknet, build
from tests.pruning.nets import image, random_network
from utils.errors import InputError
from utils.pruning.recalibrate import recalibrate


def statistics(net, i: int):
    return net.state[f"layers.{i}.bn.running_mean"], net.state[f"layers.{i}.bn.running_var"]


def test_statistics_are_those_of_all_images_together():
    net = random_network("plain")
    x = image(net, 7) + torch.arange(7).view(7, 1, 1, 1)  # means differ from batch to batch
    found = recalibrate(net, build, [x[:2], x[2:4], x[4:]])
    before_norm = build(net).layers["0"].conv(x)
    mean, variance = statistics(found, 0)
    torch.testing.assert_close(mean, before_norm.mean((0, 2, 3)))
    torch.testing.assert_close(variance, before_norm.var((0, 2, 3)))


@pytest.mark.parametrize("name", ["tiny", "spp", "depthwise", "gates"])
def test_one_batch_gives_what_torch_measures_in_training_mode(name):
    net = random_network(name)
    x = image(net, 4)
    model = build(net)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.train()
            module.momentum = None
            module.reset_running_stats()
    model(x)
    found = recalibrate(net, build, [x])
    for key, value in model.state_dict().items():
        if "running" in key:
            torch.testing.assert_close(found.state[key], value)


def test_nothing_but_statistics_changes_and_the_input_stays():
    net = random_network("tiny")
    before = {k: v.clone() for k, v in net.state.items()}
    found = recalibrate(net, build, [image(net, 2)])
    assert found.spec == net.spec
    assert all(torch.equal(v, before[k]) for k, v in net.state.items())
    assert {k for k, v in found.state.items() if not torch.equal(v, before[k])} == {k for k in before if "running" in k}


def test_every_output_has_mean_beta_and_deviation_gamma_afterwards():
    net = random_network("plain")
    x = image(net, 4)
    model: Darknet = build(recalibrate(net, build, [x]))
    seen = {}
    model.layers["2"].bn.register_forward_hook(lambda module, inputs, output: seen.update(out=output))
    model(x)
    torch.testing.assert_close(seen["out"].mean((0, 2, 3)), net.state["layers.2.bn.bias"], atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(seen["out"].std((0, 2, 3)), net.state["layers.2.bn.weight"], atol=1e-4, rtol=1e-3)


def test_no_images_are_refused():
    with pytest.raises(InputError, match="there were no images"):
        recalibrate(random_network("plain"), build, [])


def test_one_value_a_channel_is_refused_by_name():
    with pytest.raises(InputError, match=r"layers\.9\.bn: one value a channel has no variance"):
        net = random_network("gates")
        recalibrate(net, build, [image(net, 1)])
