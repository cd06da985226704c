"""An IntegerNetwork of powers of two as QONNX with `Quant` nodes, which hls4ml reads: fixed point, channels last.

A level n of scale s is the fixed-point number n * s * c, where c brings the image's scale to 2^-8 and is the same
everywhere, so that every number is a whole multiple of a power of two. `Quant` nodes floor; the half that rounds ties
up is in the bias. Nothing is approximate: C simulation gives the integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from utils.darknet import spec as s
from utils.darknet.ops import is_identity
from utils.darknet.shapes import channels, sizes
from utils.darknet.walk import rule
from utils.errors import InputError
from utils.export.finn import Extent, count_of
from utils.export.onnx_graph import Graph, Model, conv_attributes, library, move, place
from utils.export.onnx_quant import DOMAIN, OPSET
from utils.quantization.integer import IntConv, IntegerNetwork
from utils.quantization.validate import readouts

PIXEL = 8  # bits; the image's numbers are n / 256


def fixed_model(network: IntegerNetwork, size: tuple[int, int], layers: int | None = None) -> Model:
    """A qonnx ModelWrapper, cleaned and channels last.

    Args:
        network: of powers of two.
        size: (height, width) px of the image.
        layers: the first so many layers alone; the last of them is the output.

    Returns:
        A model with input "image" [1,H,W,3], a pixel n as n / 256, and outputs [1,H,W,C]: a head's map is
        ``head_factor`` times its output, and a level is its output over the scale of ``level_scale``.

    Raises:
        InputError: a layer has no such form; names the layer, its cfg line and the remedy.
    """
    check_fixed(network, size, layers)
    wrapper = library("qonnx.core.modelwrapper", "qonnx").ModelWrapper
    clean = library("qonnx.util.cleanup", "qonnx").cleanup_model
    last = library("qonnx.transformation.channels_last", "qonnx").ConvertToChannelsLastAndClean
    writer = _FixedWriter(network, size)
    count = len(network.spec.layers) if layers is None else layers
    for i, layer in enumerate(network.spec.layers[:count]):
        writer.write(i, layer)
    ends = list(dict.fromkeys(readouts(network.spec))) if layers is None else [count - 1]
    model = wrapper(writer.model(ends))
    return _output_as_it_is(clean(clean(model).transform(last(make_input_channels_last=True))))


def _output_as_it_is(model: Model) -> Model:
    """Without the transposes by which qonnx brings outputs back to channels first."""
    for node in [node for node in model.graph.node if node.op_type == "Transpose"]:
        ends = [each for each in model.graph.output if each.name == node.output[0]]
        if ends and list(node.attribute[0].ints) == [0, 3, 1, 2]:
            shape = model.get_tensor_shape(node.input[0])
            (maker,) = [other for other in model.graph.node if node.input[0] in other.output]
            maker.output[0] = node.output[0]
            model.graph.node.remove(node)
            for info in [each for each in model.graph.value_info if each.name == node.input[0]]:
                model.graph.value_info.remove(info)
            model.set_tensor_shape(ends[0].name, shape)
    return model


def head_factor(network: IntegerNetwork) -> float:
    """What a fixed-point number is multiplied by to be the real one: 1 / c."""
    return network.grids[-1].scale * 2**PIXEL


def level_scale(network: IntegerNetwork, i: int) -> float:
    """The fixed-point number of one level of edge ``i``: a power of two."""
    return 2.0 ** _exponent(network.grids[i].scale / head_factor(network))


def check_fixed(network: IntegerNetwork, size: tuple[int, int], layers: int | None = None) -> None:
    """Refuse by name what hls4ml or this form cannot take.

    Raises:
        InputError: names the layer, its cfg line and the remedy; or what of the scales is no power of two.
    """
    spec, extent = network.spec, sizes(network.spec, *size)
    count = count_of(spec, layers)
    if network.scheme.style != "pow2":
        raise InputError(
            f"--for hls4ml: style {network.scheme.style} has scales that are no powers of two, which fixed point has "
            "not; quantize.py --style pow2"
        )
    for i, layer in enumerate(spec.layers[:count]):
        fault = rule(FAULTS, layer, "form that hls4ml takes")(network, i, layer, extent)
        if fault:
            raise InputError(f"{place(i, layer)}: {fault} (--for hls4ml; --layers {i} writes what is before it)")


def _exponent(value: float) -> int:
    fraction, exponent = math.frexp(value)
    if abs(fraction - 0.5) > 1e-9:
        raise InputError(f"--for hls4ml: a scale of {value} is no power of two; quantize.py --style pow2")
    return exponent - 1


def _conv_fault(network: IntegerNetwork, i: int, layer: s.Conv, extent: Extent) -> str:
    _, op = network.conv(i)
    if op.table is not None or layer.activation not in ("relu", "relu6", "linear"):
        return f"activation={layer.activation}, a table or a bend there is not; train.py --act relu={layer.activation}"
    if layer.groups > 1:
        return f"groups={layer.groups}: its convolution has one group; use a cfg without groups"
    if layer.dilation > 1:
        return f"dilation={layer.dilation}: its convolution has none; use a cfg without"
    by = op.requantiser
    if by is not None and (set(by.multiplier.tolist()) != {1} or by.shift < 1):
        return "a gain that is no shift to the right; quantise with other bits"
    return ""


def _pool_fault(network: IntegerNetwork, i: int, layer: s.MaxPool, extent: Extent) -> str:
    inner, out = extent[layer.sources[0]], extent[i]
    reach = [(n - 1) * layer.stride + layer.size for n in out]
    hangs = layer.pad // 2 > 0 or any(most > side for most, side in zip(reach, inner, strict=True))
    return "its windows hang over the border; use size=2 and stride=2" if hangs else ""


def _refused(words: str) -> Callable[[IntegerNetwork, int, Any, Extent], str]:
    return lambda network, i, layer, extent: words


def _route_fault(network: IntegerNetwork, i: int, layer: s.Route, extent: Extent) -> str:
    return "" if is_identity(layer) else "channels side by side or sliced: not written in this form"


FAULTS: dict[type[s.Layer], Callable[[IntegerNetwork, int, Any, Extent], str]] = {
    s.Conv: _conv_fault,
    s.MaxPool: _pool_fault,
    s.Route: _route_fault,
    s.Shortcut: _refused("a sum needs a rounding of its own, which this form has not; use a cfg without shortcuts"),
    s.Dropout: _refused(""),
    s.Output: _refused(""),
    s.Layer: _refused("not written in this form; use a cfg of convolutions and max pools"),
}


class _FixedWriter:
    """Layer by layer; ``made`` is the tensor of each edge."""

    def __init__(self, network: IntegerNetwork, size: tuple[int, int]) -> None:
        self.graph, self.network = Graph("qonnx"), network
        wide, extent = channels(network.spec), sizes(network.spec, *size)
        self.shapes = {-1: (wide[-1], *size)} | {i: (wide[i], *extent[i]) for i in extent}
        self.made = {-1: self.quant("image", 2.0**-PIXEL, PIXEL, False, "pixels")}

    def write(self, i: int, layer: s.Layer) -> None:
        """One layer."""
        name, given = f"layer{i:03d}", [self.made[j] for j in layer.sources if j in self.made]
        if isinstance(self.network.ops.get(i), IntConv):
            self.made[i] = self.conv(i, name)
        elif is_identity(layer):
            self.made[i] = given[0]
        elif isinstance(layer, s.MaxPool):  # without padding that no window reaches
            how = {"kernel_shape": [layer.size] * 2, "strides": [layer.stride] * 2, "pads": [0] * 4}
            self.made[i] = self.graph.add("MaxPool", given, name, **how)
        else:
            self.made[i] = move(self.graph, layer, given, [self.shapes[j] for j in layer.sources], name)

    def conv(self, i: int, name: str) -> str:
        """Weights and bias as fixed point, the bias with half a unit of what comes out, then floor."""
        layer, op = self.network.conv(i)
        by = op.requantiser
        into = level_scale(self.network, layer.sources[0])
        unit = self.accumulator_unit(i)  # the fixed-point number of one of its accumulator
        weight = op.weight.numpy().astype(np.float64) * (unit / into)
        half = 0.0 if by is None else unit * 2.0 ** (by.shift - 1)
        bias = op.bias.numpy().astype(np.float64) * unit + half
        largest = int(np.abs(bias / unit).max())
        graph = self.graph
        w = graph.constant(weight.astype(np.float32), f"{name}_weight_values")
        narrow = bool(op.weight.min() > -(2 ** (op.w_bit - 1)))
        w = self.quant(w, unit / into, op.w_bit, True, f"{name}_weight", narrow=narrow)
        b = graph.constant(bias.astype(np.float32), f"{name}_bias_values")
        b = self.quant(b, unit, largest.bit_length() + 1, True, f"{name}_bias")
        given, called = [self.made[layer.sources[0]], w, b], f"{name}_map" if by is None else f"{name}_sum"
        x = graph.add("Conv", given, called, **conv_attributes(layer))
        if by is None:
            return x
        if by.qmin >= 0:
            x = graph.add("Relu", [x], f"{name}_relu")
        bits = (by.qmax - by.qmin).bit_length()
        return self.quant(x, level_scale(self.network, i), bits, by.qmin < 0, name)

    def accumulator_unit(self, i: int) -> float:
        """One unit of the accumulator of a convolution."""
        _, op = self.network.conv(i)
        if op.requantiser is not None:
            return level_scale(self.network, i) * 2.0**-op.requantiser.shift
        assert op.scale is not None
        return 2.0 ** _exponent(float(op.scale.max()) / head_factor(self.network))

    def quant(self, x: str, scale: float, bits: int, signed: bool, name: str, *, narrow: bool = False) -> str:
        """A `Quant` that floors and saturates."""
        values = [
            self.graph.constant(np.array(value, np.float32), called)
            for value, called in ((scale, f"{name}_scale"), (0, "zero"), (bits, f"bits_{bits}"))
        ]
        how = {"signed": int(signed), "narrow": int(narrow), "rounding_mode": "FLOOR", "domain": DOMAIN}
        return self.graph.add("Quant", [x, *values], name, **how)

    def model(self, ends: list[int]) -> Model:
        """What was written, with input and outputs declared."""
        inputs = [self.graph.tensor("image", np.float32, (1, *self.shapes[-1]))]
        outputs = [self.graph.tensor(self.made[i], np.float32, (1, *self.shapes[i])) for i in ends]
        return self.graph.model(inputs, outputs, opset=OPSET, domain=DOMAIN)
