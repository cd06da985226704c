"""The key antialiasing: a fixed blur behind a convolution or a pool, from the cfg to a cut network and its integers."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from models import Darknet, build
from tests.conftest import ROOT
from tests.darknet.opencv import opencv_outputs
from tests.pruning.nets import assert_same, image, random_network, run
from utils.darknet import spec as s
from utils.darknet.cfg import parse_cfg, read_cfg, write_cfg
from utils.darknet.counts import count
from utils.darknet.forward import without_tensors
from utils.darknet.network import Network
from utils.darknet.shapes import sizes
from utils.darknet.weights import read_weights, write_weights
from utils.errors import InputError
from utils.pruning.absorb import zeroed
from utils.pruning.bias_carrier import settle_and_cut
from utils.pruning.choices import Beta
from utils.pruning.plan import ShortcutRule, plan_channels
from utils.quantization.calibrate import calibrate
from utils.quantization.integer import IntConv
from utils.quantization.lower import lower
from utils.quantization.prepare import prepare
from utils.quantization.scheme import Scheme

CFG = ROOT / "tests" / "cfgs" / "blurred.cfg"
KERNELS = {3: [1, 2, 1, 2, 4, 2, 1, 2, 1], 2: [1, 1, 1, 1]}
CHAIN = "[net]\nwidth=32\nheight=32\n[convolutional]\nfilters=4\nsize=3\npad=1\nstride=2\nactivation=leaky\n{}\n"
NEXT = "[convolutional]\nfilters=6\nsize=1\nactivation=linear\n"


def by_hand(x: np.ndarray, size: int, stride: tuple[int, int]) -> np.ndarray:
    """Darknet's loop over the map [C, H, W], a value at a time."""
    pad = 1 if size == 3 else 0
    height, width = ((side + 2 * pad - size) // step + 1 for side, step in zip(x.shape[1:], stride, strict=True))
    out = np.zeros((len(x), height, width))
    for c, row, column in np.ndindex(out.shape):
        for k, (down, right) in enumerate(itertools.product(range(size), repeat=2)):
            y, z = row * stride[0] + down - pad, column * stride[1] + right - pad
            if 0 <= y < x.shape[1] and 0 <= z < x.shape[2]:
                out[c, row, column] += x[c, y, z] * KERNELS[size][k] / sum(KERNELS[size])
    return out


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("stride", [(1, 1), (2, 2), (2, 1)])
@pytest.mark.parametrize("side", [7, 8])
def test_a_blur_is_darknets_loop(size, stride, side):
    x = torch.randn(1, 3, side, side + 2, generator=torch.Generator().manual_seed(side))
    blur = s.Blur(sources=(-1,), size=size, stride=stride)
    found = without_tensors(blur, [x])[0].numpy()
    np.testing.assert_allclose(found, by_hand(x[0].numpy(), size, stride), atol=1e-6)
    assert sizes(s.ModelSpec(layers=(blur,)), side, side + 2)[0] == found.shape[1:]


def written_out(net: Network) -> Network:
    """Each blur as a [convolutional] with a group a channel, whose weights are in the weights file."""
    state, layers = dict(net.state), list(net.spec.layers)
    for i, layer in enumerate(net.spec.layers):
        if isinstance(layer, s.Blur):
            width = len(state[f"layers.{i - 1}.bn.bias"]) if f"layers.{i - 1}.bn.bias" in state else 10
            kernel = torch.tensor(KERNELS[layer.size]) / sum(KERNELS[layer.size])
            state[f"layers.{i}.conv.weight"] = kernel.view(1, 1, layer.size, layer.size).repeat(width, 1, 1, 1)
            state[f"layers.{i}.conv.bias"] = torch.zeros(width)
            pad = layer.size % 2
            layers[i] = s.Conv(
                sources=layer.sources, filters=width, size=layer.size, stride=layer.stride, pad=pad, groups=width
            )
    return Network(replace(net.spec, layers=tuple(layers)), state)


def test_opencv_computes_the_same_where_the_blurs_are_written_out(tmp_path):
    net = random_network(CFG)
    x = image(net)
    (found,) = opencv_outputs(written_out(net), x, tmp_path, ["conv_12"])
    torch.testing.assert_close(found, run(net, x)[0], rtol=1e-4, atol=1e-4)


def test_a_weights_file_has_no_blur_in_it(tmp_path):
    net = random_network(CFG)
    write_weights(tmp_path / "net.weights", net)
    plain = parse_cfg(write_cfg(net.spec).replace("antialiasing=1", "").replace("antialiasing=2", ""))
    for spec in (net.spec, plain):  # strides and blurs change no tensor
        state = read_weights(tmp_path / "net.weights", spec).state
        write_weights(tmp_path / "again.weights", Network(spec, state))
        assert (tmp_path / "again.weights").read_bytes() == (tmp_path / "net.weights").read_bytes()
    assert len(plain.layers) == len(net.spec.layers) - len([n for n in net.spec.layers if isinstance(n, s.Blur)])


def test_sections_are_counted_as_darknet_counts_them():
    """[shortcut] from=-2 of section 5 is section 3, a convolution of layers 5 and 6: its blurred map."""
    spec = read_cfg(CFG)
    at = next(i for i, layer in enumerate(spec.layers) if isinstance(layer, s.Shortcut))
    assert at == 9 and spec.layers[at].sources == (8, 6) and isinstance(spec.layers[6], s.Blur)
    assert parse_cfg(write_cfg(spec)) == spec
    absolute = parse_cfg(write_cfg(spec).replace("from=-2", "from=3"))
    assert absolute == spec


@pytest.mark.parametrize(("value", "size"), [("0", None), ("1", 3), ("2", 2), ("3", 3)])
def test_what_the_key_may_say(value, size):
    spec = parse_cfg(CHAIN.format(f"antialiasing={value}"))
    blurs = [layer for layer in spec.layers if isinstance(layer, s.Blur)]
    assert [blur.size for blur in blurs] == ([] if size is None else [size])
    assert spec.layers[0].stride == ((2, 2) if size is None else (1, 1))
    assert sizes(spec, 32, 32)[len(spec.layers) - 1] == (16, 16)


def test_the_convolution_costs_what_it_costs_at_a_stride_of_1():
    plain, blurred = (count(parse_cfg(CHAIN.format(word))).macs for word in ("", "antialiasing=1"))
    assert plain == 16 * 16 * 4 * 27 and blurred == 32 * 32 * 4 * 27 + 16 * 16 * 4 * 9


@pytest.mark.parametrize("section", ["[route]\nlayers=0\n", "[shortcut]\nfrom=-2\nactivation=linear\n"])
def test_who_names_a_section_that_its_blur_makes_smaller_is_told_what_helps(section):
    cfg = CHAIN.format("antialiasing=1")
    with pytest.raises(InputError, match=r"names the section of line 4, .* put a \[maxpool\] with size=1 and stride=1"):
        parse_cfg(cfg + "[convolutional]\nfilters=4\nsize=1\nactivation=linear\n" + section)
    helped = cfg + "[maxpool]\nsize=1\nstride=1\n[convolutional]\nfilters=4\nsize=1\nactivation=linear\n"
    spec = parse_cfg(helped + section.replace("layers=0", "layers=1"))
    assert 2 in spec.layers[-1].sources  # the pool, which hands on what it reads
    parse_cfg(CHAIN.format("antialiasing=1").replace("stride=2", "stride=1") + section.replace("from=-2", "from=0"))
    parse_cfg(cfg + "[implicit_add]\nfilters=4\n")  # which names nothing


MIXED = ("activation=leaky\nantialiasing=1\n\n[shortcut]", "activation=leaky\n\n[shortcut]")


@pytest.mark.parametrize("percent", [0.3, 0.7])
@pytest.mark.parametrize("tie", ShortcutRule)
@pytest.mark.parametrize("replaced", [("", ""), MIXED], ids=["blurred", "blurred and not"])
def test_a_cut_network_equals_the_silenced_one_at_dark_borders_too(percent, tie, replaced):
    """A sum of a blurred constant and a plain one is no constant's picture: no carrier can stand for it."""
    net = random_network(parse_cfg(write_cfg(read_cfg(CFG)).replace(*replaced)))
    plan = plan_channels(net, percent=percent, tie=tie)
    small, settled = settle_and_cut(net, plan, Beta.CARRIER)
    assert not settled.keep.all()
    assert_same(run(small, image(net)), run(zeroed(net, settled), image(net)))
    assert parse_cfg(write_cfg(small.spec)) == small.spec


def test_training_moves_what_the_blur_reads_and_no_blur():
    net = random_network(CFG)
    blurs = [i for i, layer in enumerate(net.spec.layers) if isinstance(layer, s.Blur)]
    model = build(net)
    model(image(net))[0].square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())
    prepared = prepare(net, [image(net)], Scheme(a_bit=8))
    for names in (dict(Darknet(net.spec).named_parameters()), dict(prepared.named_parameters())):
        assert not [name for name in names for i in blurs if f"layers.{i}." in name and "conv" in name]


def test_in_integers_a_blur_is_exact_sums_and_a_shift_between_powers_of_two():
    net = random_network(CFG)
    network = lower(calibrate(net, [image(net)], Scheme(style="pow2", a_bit=8, equalise=False, correct_bias=False)))
    for i, layer in enumerate(net.spec.layers):
        if isinstance(layer, s.Blur):
            op = network.ops[i]
            assert isinstance(op, IntConv) and not op.bias.any()
            assert op.weight.unique(dim=0).flatten().tolist() == KERNELS[layer.size]
            assert set(op.requantiser.multiplier.tolist()) == {1}


def test_a_blur_that_no_section_can_have_is_not_written():
    spec = read_cfg(CFG)
    twice = (*spec.layers[:2], s.Blur(sources=(1,)))
    pool = s.MaxPool(sources=(-1,), stride=1)
    read_too = (pool, s.Blur(sources=(0,)), s.Route(sources=(0,)))
    uneven = (pool, s.Blur(sources=(0,), stride=(2, 1)))
    for layers in ((s.Blur(sources=(-1,)),), twice, read_too, uneven):
        with pytest.raises(ValueError, match="a cfg can only say that by antialiasing="):
            write_cfg(replace(spec, layers=layers))
    assert "antialiasing=1" in write_cfg(replace(spec, layers=(pool, s.Blur(sources=(0,)))))
