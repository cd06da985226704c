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
from utils.darknet.modules import convolve
from utils.darknet.network import Network
from utils.errors import InputError
from utils.quantization.activation_qparams import QParams
from utils.quantization.bias import correct_bias
from utils.quantization.data_movement import last_readers, move
from utils.quantization.exact_conv import ExactConv, accumulator_bounds
from utils.quantization.executor import image_levels
from utils.quantization.histogram import ENOUGH_SIDE, float_step
from utils.quantization.integer import IntConv, IntegerOp, charge, respond
from utils.quantization.lower import ACC_BITS, QuantisedNetwork, lower_conv, lower_other, weight_bits
from utils.quantization.scheme import Scheme
from utils.quantization.weight_reconstruction import LARGEST_FAN_IN, refit, sample_positions
from utils.quantization.weights import fit_accumulator, round_weights, weight_scales

Batches = list[Tensor]


@dataclass
class _Run:
    """Two walks side by side: the float network's values and the quantised one's levels of every live edge."""

    exact: dict[int, Batches]
    levels: dict[int, Batches]
    scales: dict[int, Tensor] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)


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
    spec, generator = network.spec, torch.Generator().manual_seed(0)
    levels = [image_levels(x) for x in batches]
    run = _Run({-1: [n * grids[-1].scale for n in levels]}, {-1: levels}, state=dict(network.state))
    last = last_readers(spec)
    for i, layer in enumerate(tqdm(spec.layers, desc="quantise", leave=False, delay=2, disable=None)):
        match layer:
            case s.Conv():
                _convolution(i, spec, run, grids, charges.get(i), scheme, generator)
            case s.Output():
                pass
            case _:
                op = lower_other(i, layer, grids, run.state, charges.get(i), counts.get(i))
                given = zip(*(run.exact[j] for j in layer.sources), strict=True)
                run.exact[i] = [float_step(i, layer, list(x), run.state)[1] for x in given]
                given = zip(*(run.levels[j] for j in layer.sources), strict=True)
                run.levels[i] = [_levels(i, layer, op, list(x), grids[i]) for x in given]
        for j in set(layer.sources):
            if last[j] == i:
                run.exact.pop(j, None)
                run.levels.pop(j, None)
    return QuantisedNetwork(Network(spec, run.state), scheme, grids, run.scales, charges, counts)


def _levels(i: int, layer: s.Layer, op: IntegerOp | None, inputs: list[Tensor], grid: QParams) -> Tensor:
    if op is None:
        return move(layer, inputs, float(grid.qmin))
    assert not isinstance(op, IntConv)
    return respond(charge(inputs, op, f"layer {i} (cfg line {layer.line})"), op)


def _convolution(
    i: int,
    spec: s.ModelSpec,
    run: _Run,
    grids: dict[int, QParams],
    before_grid: QParams | None,
    scheme: Scheme,
    generator: torch.Generator,
) -> None:
    layer = spec.layers[i]
    assert isinstance(layer, s.Conv)
    source, target = grids[layer.sources[0]], grids.get(i)
    weight, bias = run.state[f"layers.{i}.conv.weight"], run.state[f"layers.{i}.conv.bias"]
    before = [convolve(layer, x, weight, bias) for x in run.exact[layer.sources[0]]]
    levels = run.levels[layer.sources[0]]
    if scheme.refit:
        fan_in = weight[0].numel()
        count = min(max(8 * fan_in, 8192), 8 * LARGEST_FAN_IN)
        taps, wanted = sample_positions(layer, levels, before, count, generator)
        weight, bias = refit(layer, weight, bias, taps * source.scale, wanted)
    bits = weight_bits(spec, i, scheme)
    scale = weight_scales(weight, bias, source.scale, bits, scheme.style)
    if scheme.acc_bits is not None:
        scale = _fitted(f"layer {i} (cfg line {layer.line})", weight, bias, scale, source, bits, scheme)
    weight = (round_weights(weight, scale, bits).double() * scale.view(-1, 1, 1, 1)).float()
    made = partial(lower_conv, i, spec, bits=bits, source=source, target=target, charge=before_grid)
    op = made(weight, torch.zeros_like(bias), scale)
    conv = ExactConv(layer, op.weight, op.bias, source.reach)
    charges = [conv(n) for n in levels]  # without the bias, which moves it by a constant
    if scheme.correct_bias:
        unit = (source.scale * scale).float().view(1, -1, 1, 1)
        sums = [_thin(c).float() * unit for c in charges]
        bias = correct_bias(layer, bias, sums, [_thin(y) for y in before], target, before_grid)
        if scheme.acc_bits is not None:
            room = 2 ** (scheme.acc_bits - 1) - 1 - accumulator_bounds(op.weight, op.bias, source.reach)
            most = (room - 0.75).minimum(room * (1 - 2.0**-22)).clamp_min(0) * source.scale * scale
            bias = bias.double().maximum(-most).minimum(most).float()
    run.state[f"layers.{i}.conv.weight"], run.state[f"layers.{i}.conv.bias"] = weight, bias
    run.scales[i] = scale
    op = made(weight, bias, scale, acc_bits=scheme.acc_bits or ACC_BITS)
    if op.requantiser is not None:
        run.exact[i] = [ACTIVATIONS[layer.activation](y) for y in before]
        shift = op.bias.view(1, -1, 1, 1)
        run.levels[i] = [respond(c + shift, op) for c in charges]


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
