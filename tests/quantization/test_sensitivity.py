from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.quantization.promised import bit_operations
from tests.quantization.random_nets import CONV, cfg_text, random_images, random_network
from utils.darknet.counts import count
from utils.quantization.activation_qparams import edge_bits, trace_edges
from utils.quantization.bits import packed_bytes, weight_counts
from utils.quantization.calibrate import calibrate
from utils.quantization.executor import IntegerExecutor
from utils.quantization.integer import IntegerNetwork
from utils.quantization.lower import lower, weight_bits
from utils.quantization.scheme import Scheme
from utils.quantization.sensitivity import (
    FEWER,
    FULL,
    BitCost,
    BitUnit,
    DamageRow,
    bits_by_layer,
    descend,
    relative_error,
    scheme_with,
    sensitivity,
    units_of,
)

EIGHT = Scheme(w_bit=8, a_bit=8)
TEXT = cfg_text(
    ("convolutional", CONV),  # 0
    ("maxpool", {"size": 2, "stride": 2}),  # 1
    ("convolutional", CONV),  # 2
    ("convolutional", CONV),  # 3
    ("shortcut", {"from": -2, "activation": "linear"}),  # 4
    ("convolutional", CONV | {"filters": 4}),  # 5
    ("route", {"layers": "-1,2"}),  # 6
)


def macs_of(network) -> dict[int, int]:
    return {layer.layer: layer.macs for layer in count(network.spec).layers}


def drawn(units, seed: int) -> dict[BitUnit, int]:
    generator = torch.Generator().manual_seed(seed)
    return {unit: (FULL, *FEWER)[int(torch.randint(6, (1,), generator=generator))] for unit in units}


def test_units_are_the_kernels_and_the_groups_that_share_a_scale():
    units = units_of(random_network(TEXT).spec)
    assert [unit.layer for unit in units if unit.kind == "weights"] == [0, 2, 3, 5, 7]
    assert [unit.layer for unit in units if unit.kind == "activations"] == [0, 2, 3, 4]  # 2 and 5 meet in a route


@settings(max_examples=25, deadline=None)
@given(net=st.integers(0, 500), seed=st.integers(0, 500))
def test_a_scheme_gives_every_unit_the_bits_that_were_chosen(net, seed):
    spec = random_network(net).spec
    choice = drawn(units_of(spec), seed)
    scheme = scheme_with(EIGHT, spec, choice)
    made = edge_bits(trace_edges(spec), scheme)
    for unit, bits in choice.items():
        assert (weight_bits(spec, unit.layer, scheme) if unit.kind == "weights" else made[unit.layer]) == bits
    assert scheme_with(EIGHT, spec, dict.fromkeys(choice, FULL)) == EIGHT
    assert [i for i, w, _ in bits_by_layer(scheme, spec) if w] == list(weight_counts(spec))


@settings(max_examples=25, deadline=None)
@given(net=st.integers(0, 500), seed=st.integers(0, 500))
def test_the_cost_of_a_choice_is_that_of_its_scheme(net, seed):
    network = random_network(net)
    spec, macs = network.spec, macs_of(network)
    choice = drawn(units_of(spec), seed)
    full = dict.fromkeys(choice, FULL)
    scheme = scheme_with(EIGHT, spec, choice)
    assert BitCost(spec, "bops", macs).terms(choice) == bit_operations(spec, scheme, macs)
    bits = BitCost(spec, "size", macs)
    saved = packed_bytes(spec, EIGHT) - packed_bytes(spec, scheme)
    assert abs((bits.terms(full) - bits.terms(choice)) / 8 - saved) <= len(weight_counts(spec))  # whole bytes a layer
    unit = next(iter(choice))
    for kind in ("size", "bops"):
        cost = BitCost(spec, kind, macs)
        assert cost.saving(full, unit, 2) == cost.terms(full) - cost.terms({**full, unit: 2})


def test_the_measured_damage_is_that_of_the_network_with_these_bits():
    network, images = random_network(TEXT), [random_images(4)]
    full = calibrate(network, images, replace(EIGHT, correct_bias=False))
    x = random_images(2, seed=3)
    base = IntegerExecutor(lower(full))(x)
    seen: list[IntegerNetwork] = []

    def measure(integer: IntegerNetwork) -> float:
        seen.append(integer)
        return relative_error(base, IntegerExecutor(integer)(x))

    rows = sensitivity(full, images, measure)
    assert [(row.unit, row.bits) for row in rows] == [(u, b) for u in units_of(network.spec) for b in FEWER]
    for row, integer in zip(rows, seen, strict=True):
        i = row.unit.layer
        if row.unit.kind == "weights":
            assert integer.conv(i)[1].w_bit == row.bits
            assert int(integer.conv(i)[1].weight.abs().max()) == 2 ** (row.bits - 1) - 1
        else:
            assert integer.grids[i].qmax - integer.grids[i].qmin == 2**row.bits - 1
        assert row.damage > 0
    by_unit = {unit: [row.damage for row in rows if row.unit == unit] for unit in units_of(network.spec)}
    assert all(damages[-1] > 3 * damages[0] for damages in by_unit.values())  # 2 bits against 6


def test_of_a_unit_no_more_is_touched_than_itself():
    network, images = random_network(TEXT), [random_images(4)]
    full = calibrate(network, images, EIGHT)
    before, seen = lower(full), []
    sensitivity(full, images, lambda integer: float(bool(seen.append(integer))))
    last = seen[-1]  # the shortcut's levels at 2 bits
    for i, op in before.ops.items():
        if i in weight_counts(network.spec):
            assert torch.equal(op.weight, last.ops[i].weight)
        if i in before.grids and i != 4:
            assert before.grids[i] == last.grids[i]
    assert (last.grids[4].qmax, before.grids[4].qmax) == (3, 255)


def chain(damages: dict[BitUnit, dict[int, float]]) -> list[DamageRow]:
    return [DamageRow(unit, bits, damage) for unit, curve in damages.items() for bits, damage in curve.items()]


def test_the_descent_takes_the_least_damage_for_what_it_saves():
    network = random_network(cfg_text(("convolutional", CONV)))
    big, small = BitUnit("weights", 0), BitUnit("weights", 1)  # 216 and 48 weights
    rows = chain({big: {6: 0.1, 4: 10, 2: 100}, small: {6: 0.1, 4: 0.15, 2: 90}, BitUnit("activations", 0): {4: 0.0}})
    steps = descend(rows, BitCost(network.spec, "size", {}))
    assert [(step.choice[big], step.choice[small]) for step in steps[:4]] == [(8, 8), (6, 8), (6, 4), (4, 4)]
    assert steps[0].share == 1 and steps[0].damage == 0
    assert steps[1].share == pytest.approx((216 * 6 + 48 * 8) / (264 * 8))
    assert all(step.choice[BitUnit("activations", 0)] == 8 for step in steps)  # they take no bytes
    assert (steps[-1].choice[big], steps[-1].choice[small]) == (2, 2)


def test_share_falls_and_damage_never_does_whatever_was_measured():
    network = random_network(TEXT)
    generator = torch.Generator().manual_seed(0)
    rows = [
        DamageRow(unit, bits, float(torch.rand(1, generator=generator)))
        for unit in units_of(network.spec)
        for bits in FEWER
    ]
    for kind in ("size", "bops"):
        steps = descend(rows, BitCost(network.spec, kind, macs_of(network)))
        assert len(steps) > 4
        for one, after in pairwise(steps):
            assert after.share < one.share and after.damage >= one.damage
