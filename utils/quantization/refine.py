"""Layer after layer on calibration images: each layer adapts to what the quantised layers before it really deliver."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor
from tqdm import tqdm

from utils.darknet import spec as s
from utils.darknet.activations import ACTIVATIONS
from utils.darknet.forward import move
from utils.darknet.modules import convolve
from utils.darknet.network import Network
from utils.darknet.walk import walk
from utils.errors import InputError
from utils.quantization.activation_qparams import QParams
from utils.quantization.bias import correct_bias
from utils.quantization.exact_conv import ExactConv, accumulator_bounds
from utils.quantization.executor import image_levels
from utils.quantization.histogram import ENOUGH_SIDE, float_step
from utils.quantization.integer import IntConv, IntegerOp, charge, respond
from utils.quantization.lower import ACC_BITS, QuantisedNetwork, in_integers, lower_conv, lower_other, weight_bits
from utils.quantization.scheme import Scheme
from utils.quantization.weight_reconstruction import LARGEST_FAN_IN, refit, sample_positions
from utils.quantization.weights import fit_accumulator, round_weights, weight_scales

Batches = list[Tensor]


@dataclass(frozen=True)
class Twins:
    """An edge in two networks side by side: the float one's values and the quantised one's levels, batch by batch."""

    exact: Batches
    levels: Batches


@dataclass(frozen=True)
class _Made:
    """What layers are quantised by, and what has come of those that are: tensors and scales of their weights."""

    spec: s.ModelSpec
    grids: dict[int, QParams]
    charges: dict[int, QParams]
    scheme: Scheme
    generator: torch.Generator
    state: dict[str, Tensor]
    scales: dict[int, Tensor] = field(default_factory=dict)


@torch.no_grad()
def refine(
    network: Network,
    grids: dict[int, QParams],
    batches: Sequence[Tensor],
    scheme: Scheme,
    *,
    charges: dict[int, QParams] | None = None,
    counts: dict[int, int] | None = None,
) -> QuantisedNetwork:
    """Choose weights, weight scales and biases in cfg order, each on the quantised output of what comes before.

    Args:
        network: folded, equalised.
        grids: of every edge but the read-outs.
        batches: calibration images [N,C,H,W] of n / 255.
        scheme: which refinements to make.
        charges: grids before the activations that are tables.
        counts: H * W of the map that each global average reads.

    Raises:
        InputError: the scheme's accumulators are so narrow that half of a layer's channels would lose all weights.
    """
    charges, counts = charges or {}, counts or {}
    spec = network.spec
    levels = [image_levels(x) for x in batches]
    made = _Made(spec, grids, charges, scheme, torch.Generator().manual_seed(0), dict(network.state))

    def step(i: int, layer: s.Layer, given: list[Twins]) -> Twins:
        if i in spec.heads:
            return Twins([], [])
        if i in convs:
            return _convolution(i, convs[i], given[0], made)
        op = lower_other(i, spec, grids, made.state, charges.get(i), counts.get(i))
        values = zip(*(twins.exact for twins in given), strict=True)
        inputs = zip(*(twins.levels for twins in given), strict=True)
        exact = [float_step(i, layer, list(x), made.state)[1] for x in values]
        reach = max(grids[j].reach for j in layer.sources)
        return Twins(exact, [_levels(i, forms.layers[i], op, list(x), reach) for x in inputs])

    forms = in_integers(spec)
    convs, image = spec.convs, Twins([n * grids[-1].scale for n in levels], levels)
    steps = walk(spec, image, step)
    for _ in tqdm(steps, desc="quantise", total=len(spec.layers) + 1, leave=False, delay=2, disable=None):
        pass
    return QuantisedNetwork(Network(spec, made.state), scheme, grids, made.scales, charges, counts)


def _levels(i: int, layer: s.Layer, op: IntegerOp | None, inputs: list[Tensor], reach: int) -> Tensor:
    if op is None:
        return move(layer, inputs)
    if isinstance(op, IntConv) and isinstance(layer, s.Conv):
        return respond(ExactConv(layer, op.weight, op.bias, reach)(inputs[0]), op)
    assert not isinstance(op, IntConv)
    return respond(charge(inputs, op, f"layer {i} (cfg line {layer.line})"), op)


def _convolution(i: int, layer: s.Conv, given: Twins, made: _Made) -> Twins:
    scheme, source = made.scheme, made.grids[layer.sources[0]]
    target, before_grid = made.grids.get(i), made.charges.get(i)
    weight, bias = made.state[f"layers.{i}.conv.weight"], made.state[f"layers.{i}.conv.bias"]
    before = [convolve(layer, x, weight, bias) for x in given.exact]
    if scheme.refit:
        fan_in = weight[0].numel()
        count = min(max(8 * fan_in, 8192), 8 * LARGEST_FAN_IN)
        taps, wanted = sample_positions(layer, given.levels, before, count, made.generator)
        weight, bias = refit(layer, weight, bias, taps * source.scale, wanted)
    bits = weight_bits(made.spec, i, scheme)
    scale = weight_scales(weight, bias, source.scale, bits, scheme.style)
    if scheme.acc_bits is not None:
        scale = _fitted(f"layer {i} (cfg line {layer.line})", weight, bias, scale, source, bits, scheme)
    weight = (round_weights(weight, scale, bits).double() * scale.view(-1, 1, 1, 1)).float()
    lowered = partial(lower_conv, i, made.spec, bits=bits, source=source, target=target, charge=before_grid)
    op = lowered(weight, torch.zeros_like(bias), scale)
    conv = ExactConv(layer, op.weight, op.bias, source.reach)
    charges = [conv(n) for n in given.levels]  # without the bias, which moves it by a constant
    if scheme.correct_bias:
        unit = (source.scale * scale).float().view(1, -1, 1, 1)
        sums = [_thin(c).float() * unit for c in charges]
        bias = correct_bias(layer, bias, sums, [_thin(y) for y in before], target, before_grid)
        if scheme.acc_bits is not None:
            room = 2 ** (scheme.acc_bits - 1) - 1 - accumulator_bounds(op.weight, op.bias, source.reach)
            most = (room - 0.75).minimum(room * (1 - 2.0**-22)).clamp_min(0) * source.scale * scale
            bias = bias.double().maximum(-most).minimum(most).float()
    made.state[f"layers.{i}.conv.weight"], made.state[f"layers.{i}.conv.bias"] = weight, bias
    made.scales[i] = scale
    op = lowered(weight, bias, scale, acc_bits=scheme.acc_bits or ACC_BITS)
    if op.requantiser is None:
        return Twins([], [])
    shift = op.bias.view(1, -1, 1, 1)
    return Twins([ACTIVATIONS[layer.activation](y) for y in before], [respond(c + shift, op) for c in charges])


def _fitted(
    place: str, weight: Tensor, bias: Tensor, scale: Tensor, source: QParams, bits: int, scheme: Scheme
) -> Tensor:
    """Scales with which the accumulator fits the scheme's bits, if enough is left of the weights then."""
    assert scheme.acc_bits is not None
    raised = fit_accumulator(
        weight,
        bias,
        scale,
        s_in=source.scale,
        reach=source.reach,
        bits=bits,
        acc_bits=scheme.acc_bits,
        style=scheme.style,
    )
    before, after = (round_weights(weight, by, bits).flatten(1).any(1) for by in (scale, raised))
    if 2 * int(after.sum()) < int(before.sum()):
        raise InputError(
            f"{place}: accumulators of {scheme.acc_bits} bits leave weights in only {int(after.sum())} of "
            f"{int(before.sum())} channels; use more --acc-bits or fewer --a-bit"
        )
    return raised


def _thin(y: Tensor) -> Tensor:
    """Some pixels of a large map; means need no more."""
    step = max(1, round((y.shape[2] * y.shape[3]) ** 0.5 / ENOUGH_SIDE))
    return y[:, :, step // 2 :: step, step // 2 :: step]
