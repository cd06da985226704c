"""The tensors that each kind of layer has, in the order of the weights file, and where channels lie in them.

A transposed convolution has its inputs on the first axis of its kernel, the others their outputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from utils.darknet import spec as s

if TYPE_CHECKING:  # facts of layers need no torch, and flags are made of facts
    from torch import Tensor

KERNEL_AXES = 4


def weight_shape(layer: s.Kernel, in_channels: int) -> tuple[int, int, int, int]:
    """As torch and the files have it: [out, in / groups, k, k], of a transposed one [in, out / groups, k, k]."""
    ends = (layer.filters, in_channels // layer.groups)
    if layer.inputs_first:
        ends = (in_channels, layer.filters // layer.groups)
    return (*ends, layer.size, layer.size)


def out_first(layer: s.Layer, tensor: Tensor) -> Tensor:
    """A layer's stored tensor with its outputs on the first axis; shared with it where they lie there already.

    A kernel is [out, in / groups, k, k] then; biases, batch norm and matrices are as they are stored.
    """
    if isinstance(layer, s.Kernel) and layer.inputs_first and tensor.dim() == KERNEL_AXES:
        return _turned(tensor, layer.groups)
    return tensor


def as_stored(layer: s.Layer, tensor: Tensor) -> Tensor:
    """The inverse of `out_first`."""
    turned = out_first(layer, tensor)
    return tensor if turned is tensor else turned.contiguous()


def _turned(weight: Tensor, groups: int) -> Tensor:
    """[groups * a, b, k, k] -> [groups * b, a, k, k], within each group."""
    return weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)


@dataclass(frozen=True)
class Held:
    """A tensor that a layer has: its key behind ``layers.{i}.``, its shape as it is stored.

    ``out`` and ``into`` are the axes that count the layer's channels out and in, outputs first (see `out_first`); None
    where there is no such axis, or where it is cut with the groups. ``own`` is a second axis that counts channels out.
    """

    key: str
    shape: tuple[int, ...]
    out: int | None = None
    into: int | None = None
    own: int | None = None

    @property
    def learned(self) -> bool:
        """Whether training moves it by gradients."""
        return "running_" not in self.key


def kernel_tensors(layer: s.Kernel, given: int) -> tuple[Held, ...]:
    """With batch norm beta, gamma, mean, variance, else the bias; then the weights."""
    names = ("bn.bias", "bn.weight", "bn.running_mean", "bn.running_var") if layer.bn else ("conv.bias",)
    per_channel = [Held(name, (layer.filters,), out=0) for name in names]
    into = 1 if layer.groups == 1 else None
    return (
        *per_channel,
        Held("conv.weight", weight_shape(layer, given), out=0, into=into),
        *neuron_tensors(layer, layer.filters),
    )


def neuron_tensors(layer: s.Activated, width: int) -> tuple[Held, ...]:
    """What a layer's neuron learns: the decay of a plif, the gates of an ltc. They stand behind all else in a file."""
    if layer.activation == "plif":
        return (Held("neuron.rate", (1,)),)
    if layer.activation != "ltc":
        return ()
    gate, side = layer.neuron.gate or "depthwise", 1 if layer.neuron.gate == "pointwise" else 3
    dense = gate != "depthwise"
    kernel = (width, width if dense else 1, side, side)
    gates = ("tau_m", "tau_adp") if layer.neuron.adaptive in (None, True) else ("tau_m",)
    return tuple(
        held
        for name in gates
        for held in (
            Held(f"neuron.{name}.bias", (width,), out=0),
            Held(f"neuron.{name}.weight", kernel, out=0, own=1 if dense else None),
        )
    )


def connected_tensors(layer: s.Connected, given: int) -> tuple[Held, ...]:
    """Bias (beta with batch norm), weights, then gamma, mean, variance (load_connected_weights in parser.c)."""
    first, *norms, weight = kernel_tensors(layer, given)
    return (first, weight, *norms)


def gate_tensors(layer: s.SqueezeExcite, given: int) -> tuple[Held, ...]:
    """Of [se]: two matrices."""
    return Held("fc1.weight", (layer.squeeze, given), into=1), Held("fc2.weight", (given, layer.squeeze), out=0)


def implicit_tensors(layer: s.Implicit, given: int) -> tuple[Held, ...]:
    """A value a channel."""
    return (Held("implicit", (layer.filters,), out=0),)


def sum_tensors(layer: s.Shortcut, given: int) -> tuple[Held, ...]:
    """Of a weighted sum: its weights."""
    shape = layer.weights_shape(given)
    weights = (Held("weights", shape, out=1 if len(shape) > 1 else None),) if layer.weighted else ()
    return (*weights, *neuron_tensors(layer, given))


def rnn_tensors(layer: s.SpikingRnn, given: int) -> tuple[Held, ...]:
    """Of [lif_rnn] and [ltc_rnn]: what comes in, what comes back, the gates, then the norms."""
    width, steps = layer.filters, layer.step_norm
    gates = ("tau_m", "tau_adp") if layer.neuron.adaptive in (None, True) else ("tau_m",)
    parts = [("neuron.input.bias", (width,)), ("neuron.input.weight", (width, given))]
    parts += [("neuron.back.weight", (width, width))]
    for gate in gates if layer.neuron_kind == "ltc" else ():
        parts += [(f"neuron.{gate}.bias", (width,)), (f"neuron.{gate}.weight", (width, 2 * width))]
    for norm in ("input_norm", "back_norm") if steps else ():
        parts += [(f"neuron.{norm}.weight", (width,))]
        parts += [(f"neuron.{norm}.running_{name}", (steps, width)) for name in ("mean", "var")]
    return tuple(Held(key, shape) for key, shape in parts)


def lstm_tensors(layer: s.Lstm, given: int) -> tuple[Held, ...]:
    """Of [lstm]: of what comes in and of what comes back the bias and the weights, in torch's order of gates (ifgo)."""
    width = layer.filters
    shapes = {"bias": (4 * width,), "weight_ih": (4 * width, given), "weight_hh": (4 * width, width)}
    keys = [("bias_ih", "bias"), ("weight_ih", "weight_ih"), ("bias_hh", "bias"), ("weight_hh", "weight_hh")]
    return tuple(Held(f"neuron.cell.{key}_l0", shapes[shape]) for key, shape in keys)
