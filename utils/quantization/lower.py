"""QuantisedNetwork -> IntegerNetwork: every float left becomes an integer, or the network is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from utils.darknet import spec as s
from utils.darknet.activations import SLOPES
from utils.darknet.network import Network
from utils.darknet.ops import facts
from utils.darknet.shapes import channels
from utils.darknet.walk import rule
from utils.errors import InputError
from utils.quantization.activation_qparams import QParams
from utils.quantization.apot import MOST, stored_bits
from utils.quantization.exact_conv import accumulator_bounds, width_of
from utils.quantization.fixed_kernels import as_conv, lower_fixed
from utils.quantization.gains import GAIN_BITS, gain_shift, make_requantiser, reduce
from utils.quantization.histogram import shortcut_shares
from utils.quantization.integer import IntConv, IntegerNetwork, IntegerOp, IntGate, IntPool, IntShortcut, Requantiser
from utils.quantization.scheme import Scheme
from utils.quantization.tables import make_table
from utils.quantization.validate import depthwise_layers, outer_layers
from utils.quantization.weights import round_half_up, round_weights

ACC_BITS = 32


@dataclass(frozen=True)
class QuantisedNetwork:
    """A folded float network and the grids its tensors will be rounded to.

    ``network``: without [se] (see ``expand``), weights may lie on their grids already. ``grids``: of every edge but the
    read-outs. ``weight_scales``: float64 [O] of every convolution. ``charges``: the grid before the activation of every
    layer that has a table. ``counts``: H * W of the map that each global average reads.
    """

    network: Network
    scheme: Scheme
    grids: dict[int, QParams]
    weight_scales: dict[int, Tensor]
    charges: dict[int, QParams] = field(default_factory=dict)
    counts: dict[int, int] = field(default_factory=dict)


def lower(quantised: QuantisedNetwork) -> IntegerNetwork:
    """The golden model of a quantised network.

    Raises:
        InputError: an accumulator needs more than 32 bits, or than the scheme declares; names the layer, its cfg line
            and the bits.
    """
    spec, state, grids = quantised.network.spec, quantised.network.state, quantised.grids
    ops: dict[int, IntegerOp] = {}
    convs = spec.convs
    for i, layer in enumerate(spec.layers):
        if i in convs:
            ops[i] = lower_conv(
                i,
                spec,
                state[f"layers.{i}.conv.weight"],
                state[f"layers.{i}.conv.bias"],
                quantised.weight_scales[i],
                bits=weight_bits(spec, i, quantised.scheme),
                source=grids[layer.sources[0]],
                target=grids.get(i),
                charge=quantised.charges.get(i),
                acc_bits=quantised.scheme.acc_bits or ACC_BITS,
            )
        elif op := lower_other(i, spec, grids, state, quantised.charges.get(i), quantised.counts.get(i)):
            ops[i] = op
    limit = quantised.scheme.acc_bits or ACC_BITS
    for i, op in ops.items():
        if isinstance(op, IntConv) and op.acc_bits > limit:
            raise InputError(_too_wide(f"layer {i} (cfg line {spec.layers[i].line})", op.acc_bits, limit))
    return IntegerNetwork(in_integers(spec), quantised.scheme, ops, grids)


def in_integers(spec: s.ModelSpec) -> s.ModelSpec:
    """The layers as the integers compute them, one for one: a mean of a window or a blur is a depthwise convolution."""
    width = channels(spec)
    forms = [rule(FORMS, layer, "form in integers")(layer, width[i]) for i, layer in enumerate(spec.layers)]
    return replace(spec, layers=tuple(forms))


def lower_other(
    i: int,
    spec: s.ModelSpec,
    grids: dict[int, QParams],
    state: Mapping[str, Tensor],
    charge: QParams | None,
    count: int | None,
) -> IntegerOp | None:
    """A layer without kernel; None if it only moves integers."""
    layer = spec.layers[i]
    if not facts(layer).computes:
        return None
    weights, width = state.get(f"layers.{i}.weights"), channels(spec)[i]
    between = _Between([grids[j] for j in layer.sources], grids[i], weights, charge, count, width)
    return rule(INTEGERS, layer, "form in integers")(layer, between)


@dataclass(frozen=True)
class _Between:
    """What a layer is lowered by: the grids it reads, its own, a sum's weights, grid before a table, px averaged, C."""

    sources: list[QParams]
    target: QParams
    weights: Tensor | None
    charge: QParams | None
    count: int | None
    width: int


def _sum(layer: s.Shortcut, by: _Between) -> IntegerOp:
    return lower_shortcut(layer, by.sources, by.target, weights=by.weights, charge=by.charge)


def _gate(layer: s.ScaleChannels, by: _Between) -> IntegerOp:
    return lower_gate(layer, by.sources, by.target, charge=by.charge)


def _pool(layer: s.AvgPool, by: _Between) -> IntegerOp:
    assert by.count is not None, f"cfg line {layer.line}: nobody told how many pixels it averages"
    return lower_pool(by.count, by.sources[0], by.target)


def _fixed(layer: s.LocalAvgPool | s.Blur, by: _Between) -> IntegerOp:
    return lower_fixed(layer, by.sources[0], by.target, by.width)


INTEGERS: dict[type[s.Layer], Callable[[Any, _Between], IntegerOp]] = {
    s.Shortcut: _sum,
    s.ScaleChannels: _gate,
    s.AvgPool: _pool,
    s.LocalAvgPool: _fixed,
    s.Blur: _fixed,
}
FORMS: dict[type[s.Layer], Callable[[Any, int], s.Layer]] = {
    s.LocalAvgPool: as_conv,
    s.Blur: as_conv,
    s.Layer: lambda layer, width: layer,
}


def weight_bits(spec: s.ModelSpec, i: int, scheme: Scheme) -> int:
    """Weight bits of layer ``i``: its own, or those of outer and depthwise layers, or everybody's.

    In style apot those of its levels as whole numbers, which are a few more than those of their code.
    """
    bits = additive_bits(spec, i, scheme)
    if bits is not None:
        return stored_bits(bits)
    own = scheme.own_bits(i)
    if own:
        return own[0]
    return max(scheme.outer_bit, scheme.w_bit) if _fragile(spec, i) else scheme.w_bit


def additive_bits(spec: s.ModelSpec, i: int, scheme: Scheme) -> int | None:
    """Bits of the code of layer ``i``'s weights where they are sums of two powers of two; None where they are not."""
    own = scheme.own_bits(i)
    bits = own[0] if own else scheme.w_bit
    plain = scheme.style != "apot" or bits > MOST or (own is None and _fragile(spec, i))
    return None if plain else bits


def _fragile(spec: s.ModelSpec, i: int) -> bool:
    return i in outer_layers(spec) or i in depthwise_layers(spec)


def lower_conv(
    i: int,
    spec: s.ModelSpec,
    weight: Tensor,
    bias: Tensor,
    w_scale: Tensor,
    *,
    bits: int,
    source: QParams,
    target: QParams | None,
    charge: QParams | None = None,
    acc_bits: int = ACC_BITS,
) -> IntConv:
    """One convolution; without a ``target`` grid it is a read-out and keeps its accumulator.

    Args:
        i: its layer.
        spec: the folded network's.
        weight: [O,I/groups,k,k], float.
        bias: [O], float.
        w_scale: float64 [O].
        bits: of the weights.
        source: grid of the input.
        target: grid of the output.
        charge: grid before the activation, where that is a table.
        acc_bits: width of the accumulator, sign included.

    Raises:
        InputError: the accumulator needs more bits than it has.
    """
    layer = spec.convs[i]
    scale = source.scale * w_scale.double()  # [O] value of one accumulator unit
    w = round_weights(weight, w_scale, bits)
    b = round_half_up(bias.double() / scale)
    bounds = accumulator_bounds(w, b, source.reach)
    needed = width_of(bounds)
    if needed > acc_bits:
        raise InputError(_too_wide(f"layer {i} (cfg line {layer.line})", needed, acc_bits))
    op = IntConv(weight=w, bias=b.to(torch.int32), w_bit=bits, acc_bits=needed)
    if target is None:
        return replace(op, scale=scale)
    by, table = _activate(scale, layer.activation, target, charge, bounds)
    return replace(op, requantiser=by, table=table)


def _too_wide(place: str, needed: int, acc_bits: int) -> str:
    return (
        f"{place}: its accumulator needs {needed} bits of {acc_bits}; "
        f"use fewer --w-bit or --a-bit, or {'more' if acc_bits < ACC_BITS else 'clip the weights with'} --acc-bits"
    )


def _activate(
    unit: Tensor, activation: str, target: QParams, charge: QParams | None, bounds: Tensor | None = None
) -> tuple[Requantiser, Tensor | None]:
    """Requantiser and table from an accumulator of ``unit`` [O]; without a ``charge`` grid the gains are all."""
    if charge is None:
        return make_requantiser(unit / target.scale, SLOPES.get(activation, 1.0), target, bounds), None
    return make_requantiser(unit / charge.scale, 1.0, charge, bounds), make_table(activation, charge, target)


def lower_shortcut(
    layer: s.Shortcut,
    sources: list[QParams],
    target: QParams,
    *,
    weights: Tensor | None = None,
    charge: QParams | None = None,
) -> IntShortcut:
    """A sum: gains g_j * 2^-f = share_j * s_j / s_out, and for leaky a second gain of 2^15 that carries the slope.

    The shares are 1, or the normalised ``weights`` of a weighted sum; those make gains that are no powers of two in any
    style. With a ``charge`` grid the sum is brought to it, and a table does the rest.
    """
    out = charge or target
    unit = torch.tensor([grid.scale / out.scale for grid in sources], dtype=torch.float64)[:, None]
    ratios = unit * shortcut_shares(layer, weights)
    f = min(gain_shift(float(ratios.abs().max())), 24)
    limit = 2**GAIN_BITS - 1
    gains = round_half_up(ratios * 2.0**f).clamp_(-limit, limit)
    m = m_neg = 1
    if layer.activation in SLOPES:
        m = 2 ** (GAIN_BITS - 1)
        m_neg = int(m * SLOPES[layer.activation] + 0.5)
        f += GAIN_BITS - 1
    one, negative = (torch.tensor([gain], dtype=torch.int32) for gain in (m, m_neg))
    while f > 1 and m == 1 and bool((gains % 2 == 0).all()):
        gains, f = gains // 2, f - 1
    by = reduce(Requantiser(multiplier=one, multiplier_neg=negative, shift=f, qmin=out.qmin, qmax=out.qmax))
    table = None if charge is None else make_table(layer.activation, charge, target)
    return IntShortcut(gains=gains.to(torch.int32), requantiser=by, table=table)


def lower_gate(
    layer: s.ScaleChannels, sources: list[QParams], target: QParams, *, charge: QParams | None = None
) -> IntGate:
    """Gate times feature; one unit of the accumulator is the product of both scales."""
    unit = torch.tensor([sources[0].scale * sources[1].scale], dtype=torch.float64)
    by, table = _activate(unit, layer.activation, target, charge)
    return IntGate(requantiser=by, table=table)


def lower_pool(count: int, source: QParams, target: QParams) -> IntPool:
    """A global average of ``count`` pixels: the gain divides by it, so it is a shift only if that is a power of two."""
    unit = torch.tensor([source.scale / count], dtype=torch.float64)
    return IntPool(count=count, requantiser=make_requantiser(unit / target.scale, 1.0, target))
