from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from models import Darknet, build
from tests.pruning.nets import random_network
from utils.darknet import spec as s
from utils.darknet.cfg import parse_cfg, write_cfg
from utils.darknet.counts import count
from utils.darknet.network import Checkpoint, Network, load_checkpoint, save_checkpoint
from utils.darknet.weights import read_weights, tensors, write_weights
from utils.errors import InputError

THREE = "[net]\nchannels=4\nwidth=8\nheight=8\n" + "[dropout]\n" * 3 + "[shortcut]\nfrom=-2,-3\n"


def darknet_loop(inputs: list[np.ndarray], weights: list[float], normalization: str) -> np.ndarray:
    """shortcut_multilayer_cpu on one image, number by number; ``weights`` as they stand in the file."""
    size, channels = inputs[0].size, inputs[0].shape[0]
    layer_step = len(weights) // len(inputs)
    step = size // layer_step
    flat, out = [x.ravel() for x in inputs], np.zeros(size)
    assert layer_step in (1, channels)
    for i in range(size):
        own = [weights[i // step + k * layer_step] for k in range(len(inputs))]
        if normalization == "relu":
            own = [max(w, 0.0) for w in own]
        if normalization == "softmax":
            own = [math.exp(w - max(own)) for w in own]
        total = 1.0 if normalization == "none" else sum(own) + 0.0001
        out[i] = sum(w / total * x[i] for w, x in zip(own, flat, strict=True))
    return out.reshape(inputs[0].shape)


@pytest.mark.parametrize("normalization", ["none", "relu", "softmax"])
@pytest.mark.parametrize("kind", ["per_feature", "per_channel"])
def test_weighted_sum_equals_darknets(kind, normalization):
    layer = s.Shortcut(sources=(1, 0, -1), weights_type=kind, weights_normalization=normalization)
    spec = s.ModelSpec(
        layers=(s.Dropout(sources=(-1,)), s.MaxPool(sources=(0,), size=3, stride=1, pad=2), layer),
        net=(("channels", "4"),),
    )
    make = torch.Generator().manual_seed(0)
    weights = torch.randn(layer.weights_shape(4), generator=make)
    x = torch.rand(1, 4, 3, 5, generator=make)
    with torch.no_grad():
        out = build(Network(spec, {"layers.2.weights": weights})).activations(x)
    inputs = [out[j][0].double().numpy() for j in layer.sources]
    expected = darknet_loop(inputs, weights.flatten().tolist(), normalization)
    np.testing.assert_allclose(out[2][0].numpy(), expected, rtol=1e-5, atol=1e-6)


def test_fresh_weights_are_ones():
    model = Darknet(parse_cfg(THREE + "weights_type=per_channel\n")).eval()
    x = torch.rand(1, 4, 8, 8)
    torch.testing.assert_close(model.activations(x)[3], 3 * x)


@pytest.mark.parametrize("kind", ["per_feature", "per_channel"])
def test_keys_survive_writing_and_reading(kind):
    spec = parse_cfg(THREE + f"weights_type={kind}\nweights_normalization=softmax\nactivation=relu\n")
    assert spec.layers[3] == s.Shortcut(
        sources=(2, 1, 0), weights_type=kind, weights_normalization="softmax", activation="relu"
    )
    assert parse_cfg(write_cfg(spec)) == spec


def test_darknets_second_names_are_known():
    spec = parse_cfg(THREE + "weights_type=per_layer\nweights_normalization=avg_relu\n")
    assert (spec.layers[3].weights_type, spec.layers[3].weights_normalization) == ("per_feature", "relu")


@pytest.mark.parametrize("key", ["weights_type", "weights_normalization"])
def test_an_unknown_word_names_the_line_and_the_known_ones(key):
    with pytest.raises(InputError, match=rf"line 10: {key}=per_chanel is none of none, "):
        parse_cfg(THREE + f"{key}=per_chanel\n")


def test_weights_stand_in_the_file_source_by_source_behind_what_comes_before(tmp_path):
    net = random_network("weighted")
    again = read_weights(write_weights(tmp_path / "a.weights", net), net.spec)
    assert again.state.keys() == net.state.keys()
    assert all(torch.equal(again.state[key], value) for key, value in net.state.items())
    order = [key for _, key, _ in tensors(net.spec)]
    first = net.spec.layers.index(next(layer for layer in net.spec.layers if isinstance(layer, s.Shortcut)))
    assert order.index(f"layers.{first}.weights") == order.index(f"layers.{first - 1}.conv.weight") + 1
    file = np.frombuffer((tmp_path / "a.weights").read_bytes(), "<f4", offset=20)
    before = sum(math.prod(shape) for i, _, shape in tensors(net.spec) if i < first)
    assert file[before : before + 2].tolist() == net.state[f"layers.{first}.weights"].tolist()


def test_a_checkpoint_keeps_the_weights(tmp_path):
    net = random_network("weighted")
    again = load_checkpoint(save_checkpoint(tmp_path / "a.pt", Checkpoint(net))).network
    x = torch.rand(1, 3, 64, 64)
    for a, b in zip(build(again)(x), build(net)(x), strict=True):
        assert torch.equal(a, b)


def test_weights_are_counted_and_learn():
    net = random_network("weighted")
    model = Darknet(net.spec)
    assert count(net.spec).params == sum(p.numel() for p in model.parameters())
    model(torch.rand(2, 3, 64, 64))[0].square().sum().backward()
    found = [p.grad for name, p in model.named_parameters() if name.endswith(".weights")]
    assert len(found) == 4 and all(grad is not None and grad.abs().sum() > 0 for grad in found)
