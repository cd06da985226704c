"""Layer after layer on calibration images: each layer adapts to what the quantised layers before it really deliver."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from tqdm import tqdm

from utils.darknet import spec as s
from utils.darknet.activations import ACTIVATIONS
from utils.darknet.network import Network
from utils.quantization.bias import correct_bias
from utils.quantization.edges import Grid
from utils.quantization.exact import ExactConv
from utils.quantization.executor import image_levels
from utils.quantization.histogram import ENOUGH_SIDE, float_conv
from utils.quantization.integer import requantise, weighted_sum
from utils.quantization.lower import QuantisedNetwork, lower_conv, lower_shortcut, weight_bits
from utils.quantization.refit import LARGEST_FAN_IN, refit, sample_positions
from utils.quantization.scheme import Scheme
from utils.quantization.walk import last_readers, move
from utils.quantization.weights import round_weights, weight_scales

Batches = list[Tensor]


@dataclass
class _Run:
    """Two walks side by side: the float network's values and the quantised one's levels of every live edge."""

    exact: dict[int, Batches]
    levels: dict[int, Batches]
    scales: dict[int, Tensor] = field(default_factory=dict)
    state: dict[str, Tensor] = field(default_factory=dict)


@torch.no_grad()
def refine(network: Network, grids: dict[int, Grid], batches: Sequence[Tensor], scheme: Scheme) -> QuantisedNetwork:
    """Choose weights, weight scales and biases in cfg order, each on the quantised output of what comes before.

    Args:
        network: folded, equalised.
        grids: of every edge but the read-outs.
        batches: calibration images [N,C,H,W] of n / 255.
        scheme: which refinements to make.
    """
    spec, generator = network.spec, torch.Generator().manual_seed(0)
    levels = [image_levels(x) for x in batches]
    run = _Run({-1: [n * grids[-1].scale for n in levels]}, {-1: levels}, state=dict(network.state))
    last = last_readers(spec)
    for i, layer in enumerate(tqdm(spec.layers, desc="quantise", leave=False, delay=2, disable=None)):
        match layer:
            case s.Conv():
                _convolution(i, spec, run, grids, scheme, generator)
            case s.Shortcut():
                _shortcut(i, layer, run, grids)
            case s.Head():
                pass
            case _:
                for edges, lowest in ((run.exact, -torch.inf), (run.levels, float(grids[i].lo))):
                    given = [edges[j] for j in layer.sources]
                    edges[i] = [move(layer, list(x), lowest) for x in zip(*given, strict=True)]
        for j in set(layer.sources):
            if last[j] == i:
                run.exact.pop(j, None)
                run.levels.pop(j, None)
    return QuantisedNetwork(Network(spec, run.state), scheme, grids, run.scales)


def _convolution(
    i: int, spec: s.ModelSpec, run: _Run, grids: dict[int, Grid], scheme: Scheme, generator: torch.Generator
) -> None:
    layer = spec.layers[i]
    assert isinstance(layer, s.Conv)
    source, target = grids[layer.sources[0]], grids.get(i)
    weight, bias = run.state[f"layers.{i}.conv.weight"], run.state[f"layers.{i}.conv.bias"]
    before = [float_conv(layer, x, weight, bias) for x in run.exact[layer.sources[0]]]
    levels = run.levels[layer.sources[0]]
    if scheme.refit:
        fan_in = weight[0].numel()
        count = min(max(8 * fan_in, 8192), 8 * LARGEST_FAN_IN)
        taps, wanted = sample_positions(layer, levels, before, count, generator)
        weight, bias = refit(layer, weight, bias, taps * source.scale, wanted)
    bits = weight_bits(spec, i, scheme)
    scale = weight_scales(weight, bias, source.scale, bits, scheme.style)
    weight = (round_weights(weight, scale, bits).double() * scale.view(-1, 1, 1, 1)).float()
    op = lower_conv(i, spec, weight, torch.zeros_like(bias), scale, bits=bits, source=source, target=target)
    conv = ExactConv(layer, op.weight, op.bias, source.reach)
    charge = [conv(n) for n in levels]  # without the bias, which moves it by a constant
    if scheme.correct_bias:
        unit = (source.scale * scale).float().view(1, -1, 1, 1)
        bias = correct_bias(layer, bias, [_thin(c).float() * unit for c in charge], [_thin(y) for y in before], target)
    run.state[f"layers.{i}.conv.weight"], run.state[f"layers.{i}.conv.bias"] = weight, bias
    run.scales[i] = scale
    op = lower_conv(i, spec, weight, bias, scale, bits=bits, source=source, target=target)
    if op.requantiser is not None:
        run.exact[i] = [ACTIVATIONS[layer.activation](y) for y in before]
        shift = op.bias.view(1, -1, 1, 1)
        run.levels[i] = [requantise(c + shift, op.requantiser) for c in charge]


def _thin(y: Tensor) -> Tensor:
    """Some pixels of a large map; means need no more."""
    step = max(1, round((y.shape[2] * y.shape[3]) ** 0.5 / ENOUGH_SIDE))
    return y[:, :, step // 2 :: step, step // 2 :: step]


def _shortcut(i: int, layer: s.Shortcut, run: _Run, grids: dict[int, Grid]) -> None:
    op = lower_shortcut(layer, [grids[j] for j in layer.sources], grids[i])
    given = [run.levels[j] for j in layer.sources]
    run.levels[i] = [requantise(weighted_sum(x, op.gains), op.requantiser) for x in zip(*given, strict=True)]
    given = [run.exact[j] for j in layer.sources]
    run.exact[i] = [ACTIVATIONS[layer.activation](torch.stack(x).sum(0)) for x in zip(*given, strict=True)]
