"""Additive powers of two: which levels there are, that they train as integers, that spikes equal those."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch

from benchmarks import fast_snn
from tests.classification.test_data import write_set
from tests.classification.test_scripts import CFG, run
from tests.conftest import ROOT
from tests.pruning.nets import random_network
from tests.quantization.random_nets import cfg_text, random_images
from utils.config.train import TrainConfig
from utils.darknet.cfg import parse_cfg, read_cfg
from utils.errors import InputError
from utils.quantization.activation_qparams import edge_bits, trace_edges
from utils.quantization.apot import magnitudes, nearest_level, rounded_weight, stored_bits
from utils.quantization.calibrate import calibrate
from utils.quantization.executor import IntegerExecutor
from utils.quantization.integer import IntConv
from utils.quantization.lower import lower
from utils.quantization.prepare import prepare
from utils.quantization.scheme import Scheme
from utils.quantization.stages import stages_of
from utils.quantization.validate import depthwise_layers, outer_layers
from utils.spiking.layerwise import LayerwiseExecutor
from utils.spiking.spike_schedule import encode


def published(bits: int) -> set[float]:
    """Equation 5 of the paper for two terms (and its text for odd bits), largest level 1."""
    halves = {2: ({1}, set()), 3: ({1, 2, 3}, set()), 4: ({1, 2, 4}, {3}), 5: ({1, 3, 5}, {2, 4, 6})}[bits]
    first, second = ([0.0, *(2.0**-power for power in powers)] for powers in halves)
    sums = {a + b for a, b in product(first, second)}
    return {value / max(sums) for value in sums}


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_levels_are_the_published_ones_as_whole_numbers(bits):
    levels = magnitudes(bits)
    assert {level / levels[-1] for level in levels} == published(bits) and len(levels) == 2 ** (bits - 1)
    assert levels[-1] < 2 ** (stored_bits(bits) - 1)


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_the_nearest_level_is_the_nearest(bits):
    ratio = torch.linspace(-1.2, 1.2, 4001)[:, None] * magnitudes(bits)[-1]
    all_levels = torch.tensor([sign * level for level in magnitudes(bits) for sign in (-1.0, 1.0)])
    wanted = (ratio - all_levels).abs().amin(1)
    found = nearest_level(ratio[:, 0], bits)
    assert torch.equal((ratio[:, 0] - found).abs(), wanted) and set(found.tolist()) <= set(all_levels.tolist())


def test_the_clip_learns_by_the_published_gradient():
    """d/d alpha is the sign outside, and level - weight over alpha inside; ours is of the scale, alpha / top."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(4, 3, 3, 3, generator=generator, requires_grad=True)
    scale = torch.full((1, 1, 1, 1), 0.1, requires_grad=True)
    given = torch.randn(4, 3, 3, 3, generator=generator)
    (rounded_weight(weight, scale, scale.detach(), 4, learn=True) * given).sum().backward()
    top = magnitudes(4)[-1]
    ratio = weight.detach() / (0.1 * top)
    level = nearest_level(weight.detach() / 0.1, 4) / top
    of_clip = (given * torch.where(ratio.abs() > 1, ratio.sign(), level - ratio)).sum()
    share = 1 / (weight.numel() * top) ** 0.5
    torch.testing.assert_close(scale.grad.flatten()[0], of_clip * top * share)
    torch.testing.assert_close(weight.grad, given * (ratio.abs() <= 1))


@pytest.mark.parametrize(("learn", "sign"), [(False, False), (True, False), (True, True)])
def test_training_computes_the_integers_and_spikes_equal_them(learn, sign):
    given = random_network(read_cfg(ROOT / "tests/cfgs/residual.cfg"))
    size = (given.spec.height, given.spec.width)
    x = (torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1)) * 255).round() / 255
    model = prepare(given, [x], Scheme(style="apot", w_bit=4, a_bit=3, sign_bit=sign), learn=learn).train()
    for value in model(x):
        value.square().mean().backward()
        break
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    model.at(1.0)  # statistics frozen: what is trained is what is measured
    trained = [value.detach() for value in model(x)]
    integer = model.integer()
    levels, outer = set(magnitudes(4)), {*outer_layers(integer.spec), *depthwise_layers(integer.spec)}
    inner = [i for i, op in integer.ops.items() if isinstance(op, IntConv) and i not in outer]
    assert inner
    for i in inner:
        assert set(integer.ops[i].weight.abs().unique().tolist()) <= levels and integer.ops[i].w_bit == 5
    measured = IntegerExecutor(integer)(x)
    for mine, theirs in zip(trained, measured, strict=True):
        off = (mine - theirs).abs() > 1e-4 * theirs.abs().max()  # a sum that float32 puts on the other side of a tie
        assert float(off.float().mean()) < 0.02
    for spikes, wanted in zip(LayerwiseExecutor(encode(integer))(x), measured, strict=True):
        assert torch.equal(spikes, wanted)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_with_a_bit_for_the_sign_levels_reach_as_far_on_either_side_and_a_window_is_no_longer(bits):
    conv = {"filters": 8, "size": 3, "stride": 1, "pad": 1, "batch_normalize": 1}
    block = [("convolutional", conv | {"activation": word}) for word in ("relu", "linear")]
    both = ("route", {"layers": "-1,-2"})  # ties levels of either sign to others
    text = cfg_text(*block[:1], *block, ("shortcut", {"from": -3, "activation": "relu"}), *block, both, *block)
    given, x = random_network(parse_cfg(text)), random_images(2, seed=1)
    most, lowest = 2**bits - 1, set()
    made = calibrate(given, [x], Scheme(a_bit=bits, sign_bit=True))
    for i, grid in made.grids.items():
        if i >= 0:
            lowest.add(grid.qmin)
            assert grid.qmax == most, f"layer {i}"
    assert lowest == {0, -most}
    network = encode(lower(made))
    assert network.window == most
    for spikes, wanted in zip(LayerwiseExecutor(network)(x), IntegerExecutor(network.integer)(x), strict=True):
        assert torch.equal(spikes, wanted)


def test_eight_bits_and_bits_of_a_layer_s_own_have_no_bit_for_the_sign():
    edges = trace_edges(read_cfg(ROOT / "tests/cfgs/resnet.cfg"))
    assert edge_bits(edges, Scheme(a_bit=8)) == edge_bits(edges, Scheme(a_bit=8, sign_bit=True))
    signed = next(i for i in edges.producers if edges.signed[i])
    own = Scheme(a_bit=3, sign_bit=True, layer_bits=((signed, 8, 5),))
    assert edge_bits(edges, own)[signed] == 5 and edge_bits(edges, replace(own, layer_bits=()))[signed] == 4


def test_the_recipe_says_what_nobody_says_otherwise():
    config = TrainConfig.from_given({"recipe": "fast-snn", "weights": "a.pt", "lr": 0.1}, {})
    assert (config.quantized, config.learn_scales, config.progressive, config.lr) == ("apot", True, (32, 4, 3, 2), 0.1)
    assert config.sign_bit and not replace(config, sign_bit=False).sign_bit
    with pytest.raises(InputError, match="--progressive 32: floats come first"):
        TrainConfig.from_given({"recipe": "fast-snn"}, {})
    with pytest.raises(InputError, match="--progressive 32: no stage behind the floats; say which"):
        stages_of(4, (32,), Scheme(w_bit=2, a_bit=2))
    with pytest.raises(InputError, match="8 bits in style apot, which adds two powers of two; use 2 to 5"):
        Scheme(style="apot", w_bit=8)


def test_the_recipe_trains_4_3_and_2_bits_and_what_it_leaves_becomes_spikes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_set(tmp_path / "set", size=32)
    (tmp_path / "net.cfg").write_text(CFG)
    data = ("--data", "set", "--workers", 0)
    floats = run("train", "--cfg", "net.cfg", *data, "--epochs", 1).paths("last*.pt")[0]
    trained = run("train", "--weights", floats, *data, "--epochs", 3, "--recipe", "fast-snn", "--name", "q")
    assert [row["w_bit"] for row in trained.metrics["stages"]] == [4, 3, 2]
    made = run("convert_snn", "--weights", tmp_path / "weights/last_q.pt", *data)
    assert made.metrics["spiking"]["top1"] == made.metrics["quantised"]["top1"]
    files = ["weights/last_q-4.int.pt", "weights/last_q-3.int.pt", "weights/last_q.int.pt"]
    words = ["--weights", str(floats), "--trained", *files, "--data", "set", "--images", "4", "--tune", "3", "1"]
    lines = fast_snn.measured(fast_snn.parser().parse_args(words))
    for bits in (4, 3, 2):
        rows = [line for line in lines if line.bits == bits]
        exact = [line for line in rows if line.neuron in ("layer by layer", "settled")]
        assert all(line.off == 0 and line.score == rows[0].score for line in exact) and len(exact) == 2
        limited = [(line.neuron, line.tuned, line.steps) for line in rows[3:]]
        assert limited == [(name, tuned, 2**bits - 1) for name in ("signed", "unsigned") for tuned in (False, True)]
