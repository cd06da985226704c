"""QuantisedNetwork -> IntegerNetwork: every float left becomes an integer, or the network is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from utils.darknet import spec as s
from utils.darknet.activations import SLOPES
from utils.darknet.network import Network
from utils.errors import InputError
from utils.quantization.edges import Grid
from utils.quantization.exact import accumulator_bounds
from utils.quantization.integer import IntConv, IntegerNetwork, IntegerOp, IntShortcut, Requantiser
from utils.quantization.scheme import Scheme
from utils.quantization.support import outer_layers
from utils.quantization.weights import round_half_up, round_weights

GAIN_BITS = 16  # of the largest m of a layer
LARGEST_SHIFT = 46  # acc * m + 2^(f-1) stays below 2^48, exact in float64 too
ACC_BITS = 32


@dataclass(frozen=True)
class QuantisedNetwork:
    """A folded float network and the grids its tensors will be rounded to.

    ``network``: weights may lie on their grids already. ``grids``: of every edge but the read-outs. ``weight_scales``:
    float64 [O] of every convolution.
    """

    network: Network
    scheme: Scheme
    grids: dict[int, Grid]
    weight_scales: dict[int, Tensor]


def lower(quantised: QuantisedNetwork) -> IntegerNetwork:
    """The golden model of a quantised network.

    Raises:
        InputError: an accumulator needs more than 32 bits; names the layer, its cfg line and the bits.
    """
    spec, state, grids = quantised.network.spec, quantised.network.state, quantised.grids
    ops: dict[int, IntegerOp] = {}
    for i, layer in enumerate(spec.layers):
        sources = [grids[j] for j in layer.sources if j in grids]
        match layer:
            case s.Conv():
                ops[i] = lower_conv(
                    i,
                    spec,
                    state[f"layers.{i}.conv.weight"],
                    state[f"layers.{i}.conv.bias"],
                    quantised.weight_scales[i],
                    bits=weight_bits(spec, i, quantised.scheme),
                    source=sources[0],
                    target=grids.get(i),
                )
            case s.Shortcut():
                ops[i] = lower_shortcut(layer, sources, grids[i])
    return IntegerNetwork(spec, quantised.scheme, ops, grids)


def weight_bits(spec: s.ModelSpec, i: int, scheme: Scheme) -> int:
    """Weight bits of layer ``i``: its own, or the outer layers', or everybody's."""
    own = scheme.own_bits(i)
    if own:
        return own[0]
    return max(scheme.outer_bit, scheme.w_bit) if i in outer_layers(spec) else scheme.w_bit


def lower_conv(
    i: int,
    spec: s.ModelSpec,
    weight: Tensor,
    bias: Tensor,
    w_scale: Tensor,
    *,
    bits: int,
    source: Grid,
    target: Grid | None,
) -> IntConv:
    """One convolution; without a ``target`` grid it is a read-out and keeps its accumulator.

    Raises:
        InputError: the accumulator needs more than 32 bits.
    """
    layer = spec.layers[i]
    assert isinstance(layer, s.Conv)
    scale = source.scale * w_scale.double()  # [O] value of one accumulator unit
    w = round_weights(weight, w_scale, bits)
    b = round_half_up(bias.double() / scale)
    acc_bits = int(accumulator_bounds(w, b, source.reach).max()).bit_length() + 1
    if acc_bits > ACC_BITS:
        raise InputError(
            f"layer {i} (cfg line {layer.line}): its accumulator needs {acc_bits} bits of {ACC_BITS}; "
            "use fewer --w-bit or --a-bit"
        )
    op = IntConv(weight=w, bias=b.to(torch.int32), w_bit=bits, acc_bits=acc_bits)
    if target is None:
        return replace(op, scale=scale)
    slope = SLOPES.get(layer.activation, 1.0)
    return replace(op, requantiser=make_requantiser(scale / target.scale, slope, target))


def make_requantiser(ratio: Tensor, slope: float, target: Grid) -> Requantiser:
    """Integer gains m and one shift f with m * 2^-f = ``ratio`` [O], the accumulator's unit over the level's.

    f is as large as lets the largest m keep 16 bits. ReLU needs nothing of its own: its grid starts at level 0.
    """
    f = min(gain_shift(float(ratio.max())), LARGEST_SHIFT)
    m = round_half_up(ratio * 2.0**f).clamp_(max=2**GAIN_BITS - 1)
    m_neg = round_half_up(m.double() * slope)
    return reduce(Requantiser(m=m.to(torch.int32), m_neg=m_neg.to(torch.int32), f=f, lo=target.lo, hi=target.hi))


def reduce(by: Requantiser) -> Requantiser:
    """The same levels with smaller numbers: a power of two that divides all gains is taken out of them and of f.

    Where scales are powers of two nothing but the shift remains.
    """
    gains = torch.cat([by.m, by.m_neg])
    while by.f > 1 and bool((gains % 2 == 0).all()) and bool((gains != 0).any()):
        gains = gains // 2
        by = replace(by, m=by.m // 2, m_neg=by.m_neg // 2, f=by.f - 1)
    return by


def gain_shift(largest: float) -> int:
    """The f that brings ``largest`` * 2^f into [2^15, 2^16)."""
    return GAIN_BITS - math.frexp(largest)[1]


def lower_shortcut(layer: s.Shortcut, sources: list[Grid], target: Grid) -> IntShortcut:
    """A sum: gains g_j * 2^-f = s_j / s_out, and for leaky a second gain of 2^15 that carries the slope."""
    ratios = torch.tensor([grid.scale / target.scale for grid in sources], dtype=torch.float64)
    f = min(gain_shift(float(ratios.max())), 24)
    gains = round_half_up(ratios * 2.0**f).clamp_(max=2**GAIN_BITS - 1)
    m = m_neg = 1
    if layer.activation in SLOPES:
        m = 2 ** (GAIN_BITS - 1)
        m_neg = int(m * SLOPES[layer.activation] + 0.5)
        f += GAIN_BITS - 1
    one, negative = (torch.tensor([gain], dtype=torch.int32) for gain in (m, m_neg))
    while f > 1 and m == 1 and bool((gains % 2 == 0).all()):
        gains, f = gains // 2, f - 1
    requantiser = reduce(Requantiser(m=one, m_neg=negative, f=f, lo=target.lo, hi=target.hi))
    return IntShortcut(gains=gains.to(torch.int32)[:, None], requantiser=requantiser)
