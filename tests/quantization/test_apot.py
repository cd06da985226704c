"""Additive powers of two: which levels there are, that they train as integers, that spikes equal those."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from benchmarks import fast_snn
from tests.classification.test_data import write_set
from tests.classification.test_scripts import CFG, run
from tests.conftest import ROOT
from tests.pruning.nets import random_network
from utils.config.train import TrainConfig
from utils.darknet.cfg import read_cfg
from utils.errors import InputError
from utils.quantization.apot import magnitudes, nearest_level, rounded_weight, stored_bits
from utils.quantization.executor import IntegerExecutor
from utils.quantization.integer import IntConv
from utils.quantization.prepare import prepare
from utils.quantization.scheme import Scheme
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


@pytest.mark.parametrize("learn", [False, True])
def test_training_computes_the_integers_and_spikes_equal_them(learn):
    given = random_network(read_cfg(ROOT / "tests/cfgs/residual.cfg"))
    size = (given.spec.height, given.spec.width)
    x = (torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1)) * 255).round() / 255
    model = prepare(given, [x], Scheme(style="apot", w_bit=4, a_bit=3), learn=learn).train()
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


def test_the_recipe_says_what_nobody_says_otherwise():
    config = TrainConfig.from_given({"recipe": "fast-snn", "weights": "a.pt", "lr": 0.1}, {})
    assert (config.quantized, config.learn_scales, config.progressive, config.lr) == ("apot", True, (32, 4, 3, 2), 0.1)
    with pytest.raises(InputError, match="--progressive 32: floats come first"):
        TrainConfig.from_given({"recipe": "fast-snn"}, {})
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
