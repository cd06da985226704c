"""Networks of spikes for hardware: weights of 8 bits, membranes of whole numbers, decays and thresholds by shifts.

A filter's weights, its batch norm in them, are whole numbers of a power of two, its grid: w = n 2^e, -127 <= n <= 127.
Spikes are 0 and 1, so its current, its membrane and its threshold are whole numbers of that grid too, the threshold a
power of two; the image counts as its levels 0 to 255, with 1 / 255 in the weights. A membrane keeps 2^-k of itself, or
all but that, rounded down: a shift. All these are numbers that float32 holds exactly, so that the network as it stands
computes what integers do.
In training weights are rounded and gradients go straight through; batch norm is that of the batch, and membranes are
not rounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from utils.darknet import spec as s
from utils.darknet.fold import BN_EPS
from utils.darknet.modules import convolve
from utils.darknet.neuron_spec import NeuronSpec
from utils.darknet.ops import facts
from utils.darknet.walk import rule, run
from utils.errors import InputError

INT8 = "int8"
MOST = 127  # of a weight
LEVELS = 255  # of a pixel
SHIFTS = range(1, 8)
FINEST = {1: 14, LEVELS: 18}  # what a unit of the input is in levels -> a threshold is 2 to this many units at most


@dataclass(frozen=True)
class Leak:
    """How a membrane decays: it keeps v >> shift, or (``most``) v - (v >> shift)."""

    shift: int
    most: bool

    @classmethod
    def of(cls, decay: float) -> Leak | None:
        """The shift that a decay is, if it is one."""
        found = (cls(k, most) for most in (False, True) for k in SHIFTS if decay == cls(k, most).decay)
        return next(found, None)

    @property
    def decay(self) -> float:
        """The share that is left, but for rounding down."""
        part = 2.0**-self.shift
        return 1 - part if self.most else part

    def __call__(self, v: Tensor) -> Tensor:
        """Membranes, whole numbers held in floats -> what is left of them."""
        part = (v * 2.0**-self.shift).floor()
        return v - part if self.most else part


def for_hardware(spec: s.ModelSpec) -> s.ModelSpec:
    """The network with 8-bit weights in every convolution (``--hw-friendly``); tensors keep their names.

    Raises:
        InputError: it has something that takes more than shifts, sums and comparisons; names the layer.
    """
    kernels = {}
    for i, layer in spec.kernels.items():
        if layer.weight_quant not in ("none", INT8):
            raise InputError(f"cfg line {layer.line}: weight_quant={layer.weight_quant} is none of 8 bits; delete it")
        kernels[i] = replace(layer, weight_quant=INT8)
    made = replace(spec, layers=tuple(kernels.get(i, layer) for i, layer in enumerate(spec.layers)))
    check_hardware(made)
    return made


def check_hardware(spec: s.ModelSpec) -> None:
    """Refuse what has no form of shifts, sums and comparisons, in a network that has a layer of 8-bit weights.

    Raises:
        InputError: names the layer, its cfg line and the remedy.
    """
    rounded = [i for i, layer in spec.kernels.items() if layer.weight_quant == INT8]
    if not rounded:
        return
    if not spec.neurons:
        raise InputError(
            f"cfg line {spec.layers[rounded[0]].line}: weight_quant=int8 is for networks of spikes, and this one has "
            "none; use train.py --quantized pow2 for its integers"
        )
    if spec.timesteps & (spec.timesteps - 1):
        raise InputError(
            f"[net] timesteps={spec.timesteps}: outputs are means over the steps, a shift of 1, 2, 4, 8 ... steps"
        )
    if spec.reads_last:
        raise InputError("[net] readout=last: the integers' outputs are means over the steps; use readout=mean")
    pixels = read_image(spec)
    for i, layer in enumerate(spec.layers):
        place = f"layer {i} (cfg line {layer.line})"
        if type(layer) not in CHECKS and i not in spec.heads:
            raise InputError(f"{place}: [{facts(layer).section}] takes more than shifts and sums; use a cfg without it")
        rule(CHECKS, layer, "form in shifts and sums")(spec, i, layer, place)
        lit = {j in pixels for j in layer.sources}
        if len(lit) > 1:
            raise InputError(f"{place}: joins pixels and spikes, which are on different grids; use a cfg without that")


def read_image(spec: s.ModelSpec) -> frozenset[int]:
    """Edges that carry pixels: the image, and what only moves it."""
    lit = run(spec, True, lambda i, layer, given: any(given) and i not in spec.kernels)
    return frozenset(i for i, here in lit.items() if here)


def _check_conv(spec: s.ModelSpec, i: int, layer: s.Conv, place: str) -> None:
    if layer.weight_quant != INT8:
        raise InputError(f"{place}: weight_quant={layer.weight_quant} beside int8; use int8 in every convolution")
    neuron = spec.neurons.get(i)
    if neuron is not None:
        return _check_neuron(neuron, place)
    readers, heads = {j for j, other in enumerate(spec.layers) if i in other.sources}, set(spec.heads)
    if layer.activation != "linear" or layer.bn or not readers & heads:
        raise InputError(
            f"{place}: has no neurons and is no output's convolution; its values are no spikes. Use activation=lif, or "
            "a cfg whose [shortcut]s add spikes"
        )
    if readers - heads:
        raise InputError(
            f"{place}: is an output's convolution, and layer {min(readers - heads)} reads it too; its values are no "
            "spikes. Let that layer read one with neurons"
        )


def _check_neuron(neuron: NeuronSpec, place: str) -> None:
    if neuron.kind != "lif":
        raise InputError(f"{place}: activation={neuron.kind} has no form in shifts; use --spiking lif")
    if Leak.of(neuron.membrane_decay) is None:
        raise InputError(
            f"{place}: membrane_decay={neuron.membrane_decay:g} is no shift; use 1/2, 1/4, 1/8 ... or 3/4, 7/8 ..."
        )
    if math.frexp(neuron.v_th)[0] != 0.5:
        raise InputError(f"{place}: v_th={neuron.v_th:g} is no power of two; use 0.25, 0.5 or 1")
    if neuron.membrane_start:
        raise InputError(f"{place}: membrane_start={neuron.membrane_start:g}: the integers' membranes start at 0")
    if neuron.signed:
        raise InputError(f"{place}: signed=1 sends -1 as well, the integers' spikes are 0 and 1; leave it away")
    if neuron.membrane_bits:
        raise InputError(f"{place}: membrane_bits= rounds another way than a grid does; leave it away")


def _check_sum(spec: s.ModelSpec, i: int, layer: s.Shortcut, place: str) -> None:
    if layer.activation != "linear" or layer.weighted:
        what = "is weighted" if layer.weighted else f"has activation={layer.activation} behind it"
        raise InputError(f"{place}: a sum that {what} is of values on several grids; use one of spikes alone")


def _check_upsample(spec: s.ModelSpec, i: int, layer: s.Upsample, place: str) -> None:
    if layer.zeros:
        raise InputError(f"{place}: zeros=1 is not written in shifts and sums; use the nearest neighbour")


def _fits(spec: s.ModelSpec, i: int, layer: s.Layer, place: str) -> None:
    """Nothing to object: it moves values."""


CHECKS: dict[type[s.Layer], Callable[[s.ModelSpec, int, Any, str], None]] = {
    s.Conv: _check_conv,
    s.Shortcut: _check_sum,
    s.Upsample: _check_upsample,
    **dict.fromkeys((s.MaxPool, s.Route, s.Dropout, s.Output), _fits),
}


@dataclass(frozen=True)
class Rounded:
    """A layer on its grids: ``weight`` and ``bias`` are whole numbers of 2^``exponent`` [O], held in floats."""

    weight: Tensor
    bias: Tensor
    exponent: Tensor

    @property
    def grid(self) -> Tensor:
        """The units of its currents and membranes, [O, 1, 1]."""
        return torch.exp2(self.exponent)[:, None, None]


def folded(conv: nn.Module, bn: nn.Module | None, levels: int) -> tuple[Tensor, Tensor, Tensor]:
    """Weight and bias with batch norm in them, for an input that counts in ``levels``, float64; and the gains [O]."""
    weight = conv.weight.detach().double() / levels  # type: ignore[operator]
    if bn is None:
        return weight, conv.bias.detach().double(), torch.ones(len(weight)).to(weight)  # type: ignore[operator]
    gamma, beta, mean, var = (
        getattr(bn, name).detach().double() for name in ("weight", "bias", "running_mean", "running_var")
    )
    gain = gamma / torch.sqrt(var + BN_EPS)
    return weight * gain[:, None, None, None], beta - mean * gain, gain


def rounded(conv: nn.Module, bn: nn.Module | None, levels: int, v_th: float) -> Rounded:
    """A layer on its grids: a filter's is the finest on which no weight is above 127, and v_th a whole number."""
    weight, bias, _ = folded(conv, bn, levels)
    exponent = _exponents(weight, levels, v_th)
    scale = torch.exp2(-exponent)
    return Rounded((weight * scale[:, None, None, None]).round().clamp(-MOST, MOST), (bias * scale).round(), exponent)


def _exponents(weight: Tensor, levels: int, v_th: float) -> Tensor:
    """Of each filter [O], whole numbers in float64."""
    highest = round(math.log2(v_th))
    return (weight.abs().amax((1, 2, 3)) / MOST).log2().ceil().clamp(highest - FINEST[levels], highest)


def rounded_weight(conv: nn.Module, bn: nn.Module | None, levels: int, v_th: float) -> Tensor:
    """The weight for training: what its folded form is rounded to, unfolded again; gradients go straight through."""
    weight, _, gain = folded(conv, bn, levels)
    step = torch.exp2(_exponents(weight, levels, v_th))[:, None, None, None]
    back = torch.where(gain == 0, 0.0, levels / gain)[:, None, None, None]
    off = ((weight / step).round().clamp(-MOST, MOST) * step - weight) * back
    result: Tensor = conv.weight + off.to(conv.weight.dtype)  # type: ignore[operator, arg-type]
    return result


def on_its_grid(layer: s.Kernel, block: Any, x: Tensor) -> Tensor:
    """What a convolution makes of spikes, or of an image in 0..1: multiples of its grid, which its neuron is told.

    In training: that of rounded weights, with the norm of the batch.

    Args:
        layer: with weights of 8 bits.
        block: its ``conv``, ``bn``, ``levels`` and, if it has one, ``neuron``.
        x: [N, C, H, W].
    """
    neuron = getattr(block, "neuron", None)
    v_th = neuron.neuron.v_th if neuron is not None else 1.0
    if block.training:
        made = convolve(layer, x, rounded_weight(block.conv, block.bn, block.levels, v_th), block.conv.bias)
        return made if block.bn is None else block.bn(made)
    on = rounded(block.conv, block.bn, block.levels, v_th)
    if neuron is not None:
        neuron.grid = on.grid.to(x)
    given = x if block.levels == 1 else (x * block.levels).round()
    return convolve(layer, given, on.weight.to(x), on.bias.to(x)) * on.grid.to(x)


def count_levels(spec: s.ModelSpec, layers: nn.ModuleDict) -> None:
    """Tell the convolutions with weights of 8 bits that read the image."""
    pixels = read_image(spec)
    for i, layer in spec.kernels.items():
        if layer.weight_quant == INT8 and layer.sources[0] in pixels:
            layers[str(i)].levels = LEVELS  # type: ignore[assignment]
