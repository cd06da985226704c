"""Equalising, correcting biases, and measuring what fewer bits cost, each against what one would measure oneself."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.quantization.random_nets import CONV, GATED, LEAKY, cfg_text, random_images, random_network, rich_cfg
from utils.darknet.activations import ACTIVATIONS
from utils.darknet.expand import expand
from utils.darknet.spec import Conv
from utils.quantization.activation_qparams import QParams, edge_bits, trace_edges
from utils.quantization.bias import correct_bias
from utils.quantization.calibrate import calibrate
from utils.quantization.equalise import equalise, trace_wires
from utils.quantization.executor import IntegerExecutor
from utils.quantization.histogram import collect, float_edges
from utils.quantization.lower import lower
from utils.quantization.ranges import choose_scales
from utils.quantization.scheme import Scheme
from utils.quantization.sensitivity import BitCost, BitUnit, DamageRow, descend, relative_error, sensitivity, units_of
from utils.quantization.tables import tabled_layers
from utils.quantization.weights import round_weights, weight_scales

# ------------------------------------------------------------------------------------------ equalising, biases


def test_the_histograms_of_an_equalised_network_are_those_one_would_measure():
    network, x = random_network(cfg_text(("convolutional", LEAKY), ("convolutional", CONV))), random_images()
    network.state["layers.0.conv.weight"] *= torch.logspace(-1, 1, 8)[:, None, None, None]
    edges = trace_edges(network.spec)
    even, message = equalise(network, edges, collect(network, [x], edges.producers), edge_bits(edges, Scheme(a_bit=4)))
    measured = collect(even, [x], edges.producers)
    moved = 0.0
    for i in edges.producers:
        torch.testing.assert_close(message[i].high, measured[i].high, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(message[i].low, measured[i].low, rtol=1e-3, atol=1e-5)
        moved += float((even.state[f"layers.{i}.conv.weight"] - network.state[f"layers.{i}.conv.weight"]).abs().sum())
    assert moved > 1


def test_what_must_keep_its_range_is_locked():
    text = cfg_text(("convolutional", CONV), *GATED, ("convolutional", CONV | {"activation": "swish"}))
    network = random_network(text)
    wires, locked = trace_wires(network.spec)
    free = {i: not bool(locked[wires[i]].any()) for i in (-1, 0, 2, 3, 4, 5, 6)}
    assert free == {-1: False, 0: True, 2: True, 3: False, 4: True, 5: False, 6: False}
    assert torch.equal(wires[0], wires[4]), "features keep their wires through a gate"


def test_a_dead_channel_has_no_say_in_what_is_even():
    network, x = random_network(cfg_text(("convolutional", CONV), ("convolutional", CONV))), random_images()
    for key in ("weight", "bias"):
        network.state[f"layers.0.conv.{key}"][3] *= 1e-12
    edges = trace_edges(network.spec)
    even, _ = equalise(network, edges, collect(network, [x], edges.producers), edge_bits(edges, Scheme(a_bit=4)))
    alive = [c for c in range(8) if c != 3]
    share = even.state["layers.0.conv.weight"][alive] / network.state["layers.0.conv.weight"][alive]
    assert 0.2 < float(share.flatten(1).median(1).values.median()) < 5


def test_a_corrected_bias_sees_the_table_and_leaves_alone_what_does_not_respond():
    generator = torch.Generator().manual_seed(0)
    layer = Conv(sources=(-1,), filters=3, activation="mish")
    before = torch.randn(4, 3, 16, 16, generator=generator) * 3
    before[:, 2] = -300.0  # far below where mish moves
    coarse, target = QParams(0.5, -8, 7), QParams(0.05, -6, 255)
    off = torch.tensor([0.4, -0.3, 5.0])
    charge = before - off.view(-1, 1, 1)
    bias = correct_bias(layer, torch.zeros(3), [charge], [before], target, coarse)

    def answer(b: Tensor) -> Tensor:
        p = ((charge + b.view(-1, 1, 1)) / 0.5 + 0.5).floor().clamp(-8, 7) * 0.5
        return ((ACTIVATIONS["mish"](p) / 0.05 + 0.5).floor().clamp(-6, 255) * 0.05).mean((0, 2, 3))

    wanted = ACTIVATIONS["mish"](before).clamp(-0.3, 12.75).mean((0, 2, 3))
    lost = (answer(torch.zeros(3)) - wanted).abs(), (answer(bias) - wanted).abs()
    assert bool((lost[1][:2] < 0.25 * lost[0][:2]).all()), lost
    assert float(bias[2]) == 0


def test_a_channel_that_hardly_ever_answers_keeps_its_bias():
    layer = Conv(sources=(-1,), filters=1, activation="relu")
    before = torch.full((1, 1, 64, 64), -5.0)
    before[0, 0, 0, :4] = 0.7
    assert float(correct_bias(layer, torch.zeros(1), [before - 0.2], [before], QParams(1 / 16, 0, 15))) == 0


@pytest.mark.parametrize(("activation", "a_bit"), [("relu", 3), ("leaky", 4), ("mish", 4)])
def test_every_channel_of_every_layer_keeps_its_mean_where_biases_are_corrected(activation, a_bit):
    """On the levels that the quantised layers before it deliver, not on the float ones."""
    conv = CONV | {"activation": activation}
    network, x = random_network(cfg_text(*[("convolutional", conv)] * 4)), random_images(8)
    exact = dict(float_edges(network, x, keep=True))
    lost = []
    for correct in (False, True):
        scheme = Scheme(w_bit=3, a_bit=a_bit, equalise=False, correct_bias=correct)
        integer = lower(calibrate(network, [x[:4], x[4:]], scheme))
        levels = IntegerExecutor(integer).levels(x)
        off = []
        for i in range(1, 4):
            grid = integer.grids[i]
            reached = exact[i].clamp(grid.qmin * grid.scale, grid.qmax * grid.scale)
            mean = (levels[i] * grid.scale - reached).mean((0, 2, 3))
            off.append(float(mean.square().mean().sqrt() / exact[i].std()))
        lost.append(off)
    assert all(after < 0.5 * before for before, after in zip(*lost, strict=True)), lost


# -------------------------------------------------------------------------------------------------- sensitivity


@pytest.mark.parametrize("style", ["google", "pow2"])
def test_fewer_bits_are_tried_with_the_scale_that_suits_them(style):
    """A 3-bit layer on the 8-bit scale would look far worse than it is."""
    network, images = random_network(cfg_text(("convolutional", CONV), ("convolutional", LEAKY))), [random_images()]
    scheme = Scheme(a_bit=8, style=style, equalise=False, correct_bias=False, ranges="mse")
    full, seen = calibrate(network, images, scheme), []
    rows = sensitivity(full, images, lambda integer: float(bool(seen.append(integer))))
    spec, state, edges = full.network.spec, full.network.state, trace_edges(full.network.spec)
    values = [x * (255 / 256 if style == "pow2" else 1) for x in images]
    histograms = collect(full.network, values, edges.producers)
    for row, integer in zip(rows, seen, strict=True):
        i = row.unit.layer
        if row.unit.kind == "weights":
            w, b = state[f"layers.{i}.conv.weight"], state[f"layers.{i}.conv.bias"]
            scale = weight_scales(w, b, full.grids[spec.layers[i].sources[0]].scale, row.bits, style)
            assert torch.equal(integer.conv(i)[1].weight, round_weights(w, scale, row.bits)), row
        else:
            wanted = choose_scales(edges, histograms, replace(scheme, a_bit=row.bits))[edges.group[i]]
            assert integer.grids[i].scale == pytest.approx(wanted, rel=1e-6), row
            assert integer.grids[i].scale > full.grids[i].scale


def test_damage_is_squared_error_over_squared_signal_of_all_heads_together():
    exact, made = [torch.tensor([3.0, 0.0]), torch.tensor([4.0])], [torch.tensor([3.0, 1.0]), torch.tensor([2.0])]
    assert relative_error(exact, made) == pytest.approx((1 + 4) / (9 + 16))
    assert relative_error(exact, exact) == 0


def test_every_step_of_the_descent_is_the_cheapest_there_was():
    network = random_network(cfg_text(("convolutional", CONV), ("convolutional", LEAKY)))
    rng, macs = np.random.default_rng(0), {0: 5000, 1: 9000, 2: 700}
    units = units_of(network.spec)
    damage = {
        unit: {8: 0.0} | dict(zip((6, 5, 4, 3, 2), np.cumsum(rng.uniform(0, 1, 5)), strict=True)) for unit in units
    }
    rows = [DamageRow(unit, bits, curve[bits]) for unit, curve in damage.items() for bits in (6, 5, 4, 3, 2)]
    reads = {0: None, 1: units[3], 2: units[4]}

    def cost(choice: dict[BitUnit, int], kind: str) -> int:
        weights = {0: 216, 1: 576, 2: 48}
        if kind == "size":
            return sum(weights[i] * choice[BitUnit("weights", i)] for i in weights)
        return sum(macs[i] * choice[BitUnit("weights", i)] * (choice[reads[i]] if reads[i] else 8) for i in macs)

    assert [unit.kind for unit in units] == ["weights"] * 3 + ["activations"] * 2
    for kind in ("size", "bops"):
        for one, after in pairwise(descend(rows, BitCost(network.spec, kind, macs))):
            (unit,) = (u for u in units if one.choice[u] != after.choice[u])
            best = min(
                (damage[u][b] - damage[u][one.choice[u]]) / (cost(one.choice, kind) - cost({**one.choice, u: b}, kind))
                for u in units
                for b in damage[u]
                if b < one.choice[u] and cost({**one.choice, u: b}, kind) < cost(one.choice, kind)
            )
            saved = cost(one.choice, kind) - cost(after.choice, kind)
            assert (damage[unit][after.choice[unit]] - damage[unit][one.choice[unit]]) / saved == pytest.approx(best)
            assert after.damage == pytest.approx(sum(damage[u][after.choice[u]] for u in units))
            assert after.share == pytest.approx(cost(after.choice, kind) / cost(dict.fromkeys(units, 8), kind))


# ---------------------------------------------------------------------------------------------------- calibrate


def test_an_image_on_a_scale_of_its_own_gives_edges_no_other_ranges():
    """In powers of two a pixel counts n / 256 and the first weights 256/255 of theirs: what just fits still fits."""
    network = random_network(cfg_text(("convolutional", CONV | {"size": 1, "filters": 4})))
    weight, bias = network.state["layers.0.conv.weight"], network.state["layers.0.conv.bias"]
    weight.zero_(), bias.zero_()
    weight[:, 0] = 0.994
    images = random_images()
    images[0, 0, 0, 0] = 1.0
    scheme = Scheme(style="pow2", a_bit=8, ranges="minmax", equalise=False, correct_bias=False)
    quantised = calibrate(network, [images], scheme)
    assert quantised.grids[0].scale == 2.0**-8, "0.994 / 255 lies under it"
    assert float(quantised.network.state["layers.0.conv.weight"][0, 0]) == pytest.approx(0.994 * 256 / 255, rel=0.01)


def test_evening_out_and_correcting_are_done_where_asked_and_only_there():
    network, x = random_network(cfg_text(("convolutional", CONV), ("convolutional", CONV))), random_images()
    network.state["layers.0.conv.weight"] *= torch.logspace(-1, 1, 8)[:, None, None, None]
    bare = Scheme(equalise=False, correct_bias=False)
    grids, biases = {}, {}
    for name, scheme in (
        ("bare", bare),
        ("even", replace(bare, equalise=True)),
        ("right", replace(bare, correct_bias=True)),
    ):
        made = calibrate(network, [x], scheme)
        grids[name], biases[name] = made.grids[0].scale, made.network.state["layers.0.conv.bias"]
    assert torch.equal(biases["bare"], network.state["layers.0.conv.bias"]) and grids["bare"] == grids["right"]
    assert grids["even"] < grids["bare"] and not torch.equal(biases["right"], biases["bare"])


@pytest.mark.parametrize("seed", range(3))
def test_tables_are_found_wherever_an_activation_curves(seed):
    spec = expand(random_network(rich_cfg(seed)))[0].spec
    curved = [
        i
        for i, layer in enumerate(spec.layers)
        if getattr(layer, "activation", "") in ("mish", "swish", "h_swish", "logistic", "hard_sigmoid")
    ]
    assert list(tabled_layers(spec)) == curved
