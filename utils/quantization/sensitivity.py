"""Bits by layer: what fewer bits cost, one layer at a time, and the order in which bits are best given up.

Every convolution's weights and every group of edges that share a scale are a unit with bits of its own. Each unit alone
is brought to fewer bits, and the damage measured at the network's outputs; relative squared errors of independent
roundings add up, so that a choice of bits is predicted by the sum over its units. From 8 bits everywhere the cheapest
loss is taken again and again: the least damage for each byte, or bit operation, saved.

Source: the greedy descent follows Wang et al., HAQ, CVPR 2019, section 3.4, in what it trades; the damage by unit Dong
et al., HAWQ-V2, NeurIPS 2020, section 3, measured instead of taken from second derivatives.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from tqdm import tqdm

from utils.darknet import spec as s
from utils.quantization.activation_qparams import IMAGE_BITS, Edges, edge_bits, image_scale, make_grids, trace_edges
from utils.quantization.bits import LayerBits, weight_counts
from utils.quantization.executor import image_levels
from utils.quantization.histogram import collect
from utils.quantization.integer import IntegerNetwork
from utils.quantization.lower import QuantisedNetwork, lower, weight_bits
from utils.quantization.ranges import choose_scales
from utils.quantization.scheme import Scheme
from utils.quantization.weights import weight_scales

FULL = 8  # bits where the descent starts
FEWER = (6, 5, 4, 3, 2)


class BitUnit(NamedTuple):
    """What has bits of its own: the ``weights`` of a convolution, or the ``activations`` of a group's first layer."""

    kind: str
    layer: int


class DamageRow(NamedTuple):
    """The damage when this unit alone has these bits."""

    unit: BitUnit
    bits: int
    damage: float


Choice = dict[BitUnit, int]


@dataclass(frozen=True)
class DescentStep:
    """A point of the descent: the bits of every unit, their share of the cost of 8 bits, the damage they predict."""

    choice: Choice
    share: float
    damage: float


def units_of(spec: s.ModelSpec) -> tuple[BitUnit, ...]:
    """Every convolution's weights, then every group of edges but the image's."""
    edges = trace_edges(spec)
    weights = [BitUnit("weights", i) for i in weight_counts(spec)]
    groups = [found for group, found in edges.members().items() if group != edges.group[-1]]
    return (*weights, *(BitUnit("activations", members[0]) for members in groups))


def scheme_with(scheme: Scheme, spec: s.ModelSpec, choice: Mapping[BitUnit, int]) -> Scheme:
    """A scheme in which the units have these bits and the others what they had; only departures are in its list."""
    edges, given = trace_edges(spec), replace(scheme, layer_bits=())
    before, plain = edge_bits(edges, scheme), edge_bits(edges, given)
    found: dict[int, tuple[int, int]] = {}
    for i in sorted(set(weight_counts(spec)) | set(edges.producers)):
        first = edges.members()[edges.group[i]][0] if i in edges.group else i
        a = choice.get(BitUnit("activations", first), before.get(i, given.a_bit))
        w = choice.get(BitUnit("weights", i), weight_bits(spec, i, scheme))
        if (w, a) != (weight_bits(spec, i, given), plain.get(i, given.a_bit)):
            found[i] = (w, a)
    return replace(scheme, layer_bits=tuple((i, *bits) for i, bits in found.items()))


def sensitivity(
    quantised: QuantisedNetwork, images: Sequence[Tensor], measure: Callable[[IntegerNetwork], float]
) -> list[DamageRow]:
    """The damage of every unit at every number of bits below 8, all others as they are.

    Args:
        quantised: calibrated at 8 bits.
        images: calibration batches [N,C,H,W] of n / 255, for the scales of fewer bits.
        measure: the damage of an integer network, 0 or more.
    """
    spec = quantised.network.spec
    edges = trace_edges(spec)
    values = [image_levels(x) * image_scale(quantised.scheme) for x in images]
    histograms = collect(quantised.network, values, edges.producers)
    plain = replace(quantised.scheme, layer_bits=())
    scales = {bits: choose_scales(edges, histograms, replace(plain, a_bit=bits)) for bits in FEWER}
    rows = []
    tasks = [(unit, bits) for unit in units_of(spec) for bits in FEWER]
    for unit, bits in tqdm(tasks, desc="sensitivity", leave=False, delay=2, disable=None):
        scheme = scheme_with(quantised.scheme, spec, {unit: bits})
        coarse = replace(quantised, scheme=scheme)
        if unit.kind == "weights":
            coarse = _coarse_weights(coarse, unit.layer)
        else:
            coarse = _coarse_activations(coarse, edges, edges.group[unit.layer], scales[bits])
        rows.append(DamageRow(unit, bits, measure(lower(coarse))))
    return rows


def _coarse_weights(quantised: QuantisedNetwork, i: int) -> QuantisedNetwork:
    """With the scale that suits the weights' new bits."""
    spec, state, scheme = quantised.network.spec, quantised.network.state, quantised.scheme
    s_in = quantised.grids[spec.layers[i].sources[0]].scale
    weight, bias = state[f"layers.{i}.conv.weight"], state[f"layers.{i}.conv.bias"]
    scale = weight_scales(weight, bias, s_in, weight_bits(spec, i, scheme), scheme.style)
    return replace(quantised, weight_scales={**quantised.weight_scales, i: scale})


def _coarse_activations(
    quantised: QuantisedNetwork, edges: Edges, group: int, scales: Mapping[int, float]
) -> QuantisedNetwork:
    """With the scale that suits the group's new bits; the others keep theirs."""
    kept = {edges.group[i]: grid.scale for i, grid in quantised.grids.items() if i in edges.group}
    bits = edge_bits(edges, quantised.scheme)
    even, scales = quantised.scheme.sign_bit, {**kept, group: scales[group]}
    return replace(quantised, grids=make_grids(quantised.network.spec, edges, scales, bits, even=even))


class BitCost:
    """What bits cost: packed bytes of the weights, or bit operations of an image.

    Both are sums over the convolutions, of weights times weight bits, or of multiply-accumulates times weight bits
    times the bits that the convolution reads. Biases and gains, which no choice moves, are left out.
    """

    def __init__(self, spec: s.ModelSpec, budget: str, macs: Mapping[int, int]) -> None:
        edges = trace_edges(spec)
        first = {group: members[0] for group, members in edges.members().items()}
        self.operations = budget == "bops"
        self.amount: dict[int, int] = {i: macs[i] if self.operations else n for i, n in weight_counts(spec).items()}
        self.reads = {i: BitUnit("activations", first[edges.group[spec.layers[i].sources[0]]]) for i in self.amount}

    def terms(self, choice: Choice, unit: BitUnit | None = None) -> int:
        """The cost of the convolutions that a unit has a say in, or of all."""
        total = 0
        for i, amount in self.amount.items():
            if unit is None or unit in (BitUnit("weights", i), self.reads[i]):
                total += amount * choice[BitUnit("weights", i)] * self._input_bits(i, choice)
        return total

    def _input_bits(self, i: int, choice: Choice) -> int:
        return choice.get(self.reads[i], IMAGE_BITS) if self.operations else 1

    def saving(self, choice: Choice, unit: BitUnit, bits: int) -> int:
        """What is saved when one unit goes to so many bits."""
        return self.terms(choice, unit) - self.terms({**choice, unit: bits}, unit)


def descend(rows: Sequence[DamageRow], cost: BitCost) -> list[DescentStep]:
    """From 8 bits everywhere down to where nothing is left to save: least damage for what it saves, greedily.

    More bits never count as more damage than fewer: measurements near nothing are noise.

    Returns:
        list: the first step is 8 bits; share falls and damage rises from one to the next.
    """
    known = _monotone(rows)
    choice = dict.fromkeys(known, FULL)
    whole = cost.terms(choice)
    steps = [DescentStep(dict(choice), 1.0, 0.0)]
    while True:
        offers = []
        for unit, curve in known.items():
            for bits in (b for b in curve if b < choice[unit]):
                saved = cost.saving(choice, unit, bits)
                if saved > 0:
                    more = curve[bits] - curve[choice[unit]]
                    offers.append((more / saved, -bits, unit))
        if not offers:
            return steps
        _, minus, unit = min(offers)
        choice[unit] = -minus
        damage = sum(curve[choice[each]] for each, curve in known.items())
        steps.append(DescentStep(dict(choice), cost.terms(choice) / whole, damage))


def _monotone(rows: Sequence[DamageRow]) -> dict[BitUnit, dict[int, float]]:
    """Unit -> bits -> damage, that of 8 bits 0, never falling as bits fall."""
    curves: dict[BitUnit, dict[int, float]] = {}
    for row in sorted(rows, key=lambda row: -row.bits):
        curve = curves.setdefault(row.unit, {FULL: 0.0})
        curve[row.bits] = max(row.damage, *curve.values())
    return curves


def bits_by_layer(scheme: Scheme, spec: s.ModelSpec) -> LayerBits:
    """(layer, weight bits, activation bits) of everything that computes; 0 where a layer has none of one kind."""
    convs, made = weight_counts(spec), edge_bits(trace_edges(spec), scheme)
    layers = sorted(set(convs) | set(made))
    return tuple((i, weight_bits(spec, i, scheme) if i in convs else 0, made.get(i, 0)) for i in layers)


def relative_error(exact: Sequence[Tensor], made: Sequence[Tensor]) -> float:
    """Squared error over squared signal, summed over all tensors: a damage for networks of any task."""
    lost = sum(float((a - b).double().square().sum()) for a, b in zip(made, exact, strict=True))
    return lost / max(sum(float(b.double().square().sum()) for b in exact), torch.finfo(torch.float64).tiny)
