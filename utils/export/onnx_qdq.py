"""An IntegerNetwork as ONNX with QuantizeLinear and DequantizeLinear around every operation."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from utils.darknet import spec as s
from utils.darknet.ops import is_identity
from utils.darknet.shapes import channels, sizes
from utils.errors import InputError
from utils.export.onnx_graph import Array, Graph, Model, conv_attributes, move, place
from utils.export.onnx_round import Rounding, Sum, bent_in_two, by_channel, bytes_zero, dequantise, quantise, to_levels
from utils.quantization.activation_qparams import IMAGE_SCALE, QParams
from utils.quantization.integer import IntConv, IntegerNetwork, IntGate, IntPool, IntShortcut, Requantiser
from utils.quantization.validate import readouts

STRICT = ("pow2",)  # styles whose integers come out the same in every element


def qdq_model(network: IntegerNetwork, size: tuple[int, int], *, taps: bool = False, loose: bool = False) -> Model:
    """The network as an ONNX model of standard operators.

    Args:
        network: what to write.
        size: (height, width) in px of the image.
        taps: the levels of every layer are outputs too, under the names ``tap_names`` gives.
        loose: no layer reads another, each reads inputs of its own ("given003" for the levels of layer 3), so that
            layers can be compared one by one on equal inputs.

    Returns:
        A model with input "image", float [N,3,H,W] of n / 255, and a float map for every head, "layer015_map".

    Raises:
        InputError: a layer has no such form; names the layer, its cfg line and the remedy.
    """
    _check_levels(network)
    writer = _QdqWriter(network, size, loose)
    for i, layer in enumerate(network.spec.layers):
        writer.write(i, layer)
    return writer.model(taps)


def _check_levels(network: IntegerNetwork) -> None:
    for i, op in network.ops.items():
        grid = network.grids.get(i)
        if op.requantiser is not None and grid is not None and bytes_zero(grid.qmin, grid.qmax) is None:
            message = f"{place(i, network.spec.layers[i])}: levels {grid.qmin}..{grid.qmax}"
            raise InputError(f"{message}, and QuantizeLinear has 8 bits; use --a-bit 8")


def tap_names(network: IntegerNetwork) -> dict[int, str]:
    """Layer -> the output that carries its levels, of the layers that have some of their own (-1: the image)."""
    heads = set(readouts(network.spec))
    named = {i: edge_name(i) for i, layer in enumerate(network.spec.layers) if not (i in heads or is_identity(layer))}
    return {-1: edge_name(-1)} | named


def edge_name(i: int) -> str:
    """The tensor of levels of an edge."""
    return "image_levels" if i < 0 else f"layer{i:03d}"


def edge_type(grid: QParams) -> type[np.generic]:
    """uint8, or float32 where a concat of signed and unsigned levels needs more than 8 bits."""
    return np.float32 if bytes_zero(grid.qmin, grid.qmax) is None else np.uint8


def as_levels(stored: Array, grid: QParams) -> Array:
    """An edge as it is stored, bytes or values -> its levels, int64."""
    at = bytes_zero(grid.qmin, grid.qmax)
    return np.rint(stored / np.float32(grid.scale)).astype(np.int64) if at is None else stored.astype(np.int64) - at


class _QdqWriter:
    """Layer by layer; ``levels`` holds the tensor of each edge.

    An edge of bytes is dequantised at every reader; an edge too wide for 8 bits holds values.
    """

    def __init__(self, network: IntegerNetwork, size: tuple[int, int], loose: bool) -> None:
        self.graph, self.network, self.loose = Graph(), network, loose
        self.strict = network.scheme.style in STRICT
        wide, extent = channels(network.spec), sizes(network.spec, *size)
        self.shapes = {-1: (wide[-1], *size)} | {i: (wide[i], *extent[i]) for i in extent}
        self.made: dict[int, str] = {}
        self.given: set[int] = set()
        self.made[-1] = quantise(self.graph, "image", IMAGE_SCALE, (0, 255), edge_name(-1))

    def levels(self, j: int) -> str:
        """The tensor of edge ``j``."""
        if not self.loose:
            return self.made[j]
        self.given.add(j)
        return f"given{j + 1:03d}"

    def value(self, j: int, scale: float | None = None) -> str:
        """Edge ``j`` as values; with a ``scale`` of its own for this reader."""
        grid, name = self.network.grids[j], self.levels(j)
        at = bytes_zero(grid.qmin, grid.qmax)
        if at is not None:
            return dequantise(self.graph, name, grid.scale if scale is None else scale, at, name)
        return name if scale is None else self.times(name, np.array([scale / grid.scale]), name)

    def times(self, x: str, factor: Array, name: str) -> str:
        """x * factor, [1] or [C]."""
        constant = self.graph.constant(by_channel(factor).astype(np.float32), f"{name}_factor")
        return self.graph.add("Mul", [x, constant], f"{name}_scaled")

    def write(self, i: int, layer: s.Layer) -> None:
        """One layer."""
        op, name, grid = self.network.ops.get(i), edge_name(i), self.network.grids.get(i)
        match op:
            case IntConv():
                self.made[i] = self.conv(i, op, name)
            case IntShortcut():
                total = self.shortcut(i, op, self.rounding(op.requantiser, i), name)
                self.made[i] = self.level(i, total, op.requantiser, op.table, name)
            case IntPool():
                self.made[i] = self.level(i, self.pool(i, op, name), op.requantiser, None, name)
            case IntGate():
                self.made[i] = self.level(i, self.gate(i, op, name), op.requantiser, op.table, name)
            case _ if is_identity(layer):
                self.made[i] = "" if self.loose or i in self.network.spec.heads else self.made[layer.sources[0]]
            case _:
                assert grid is not None
                shapes = [self.shapes[j] for j in layer.sources]
                fits = bytes_zero(grid.qmin, grid.qmax) is not None
                made = move(self.graph, layer, [self.value(j) for j in layer.sources], shapes, name + "_moved" * fits)
                bounds = (0, 255) if grid.qmin >= 0 else (-128, 127)  # what is moved needs no clip
                self.made[i] = quantise(self.graph, made, grid.scale, bounds, name) if fits else made

    def conv(self, i: int, op: IntConv, name: str) -> str:
        """A convolution; a read-out leaves as values."""
        layer, _ = self.network.conv(i)
        if op.weight.dtype.itemsize > 1:
            raise InputError(f"{place(i, layer)}: weights of {op.w_bit} bits, and ONNX has 8; use --w-bit 8")
        by = op.requantiser
        how = None if by is None else self.rounding(by, i)
        unit = by_scale(op) if how is None else self.unit(how)
        if how is not None and op.table is None and how.splits:
            above = self.sums(layer, op, unit, f"{name}_above", f"{name}_sum_above")
            bent = unit if how.step_below else unit * how.slope
            below = self.sums(layer, op, bent, f"{name}_below", f"{name}_sum_below", again=True)
            return bent_in_two(self.graph, above, below, how, name)
        linear, end = layer.activation != "logistic", f"{name}_map"
        x = self.sums(layer, op, unit, name, end if by is None and linear else f"{name}_sum")
        if by is not None:
            return self.level(i, Sum(x, [(x, 1 / np.where(unit > 0, unit, 1))], True), by, op.table, name)
        return x if linear else self.graph.add("Sigmoid", [x], end)

    def sums(self, layer: s.Kernel, op: IntConv, unit: Array, name: str, called: str, *, again: bool = False) -> str:
        """The convolution itself: accumulators times ``unit``, float64 [O]; ``again``: its weights are read before."""
        j = layer.sources[0]
        weight = self.parameter(op.weight.numpy(), unit / self.network.grids[j].scale, f"{name}_weight", again=again)
        bias = self.parameter(op.bias.numpy(), unit, f"{name}_bias")
        return self.graph.add("Conv", [self.value(j), weight, bias], called, **conv_attributes(layer))

    def unit(self, how: Rounding) -> Array:
        """What one unit of an accumulator is worth, float64 [O]; any power of two where float64 takes over anyway."""
        worth = how.gain * how.scale
        if self.strict and how.tie is None and how.step_below is None:
            return np.full_like(worth, 2.0 ** int(np.frexp(worth.max())[1]))
        return worth

    def parameter(self, integers: Array, scale: Array, name: str, *, again: bool = False) -> str:
        """int8 weights or int32 biases, and their scale: one, or one an output channel.

        Where the same weights have another reader, this one reads them through a Reshape to the shape they have: once
        in the file, onnxruntime gives each reader its own, and can then turn both into uint8.
        """
        one, levels = (scale == scale[0]).all(), self.graph.constant(integers, f"{name}_levels")
        if again:
            shape = self.graph.constant(np.array(integers.shape, np.int64), f"{name}_shape")
            levels = self.graph.add("Reshape", [levels, shape], f"{name}_again")
        given = scale[0].astype(np.float32) if one else scale.astype(np.float32)
        inputs = [levels, self.graph.constant(given, f"{name}_scale")]
        if integers.dtype == np.int8:
            kind = np.zeros(() if one else len(scale), np.int8)
            inputs.append(
                self.graph.constant(kind, f"{name}_zero", own=True)
            )  # onnxruntime renames it with its weights
        return self.graph.add("DequantizeLinear", inputs, name, **({} if one else {"axis": 0}))

    def shortcut(self, i: int, op: IntShortcut, how: Rounding, name: str) -> Sum:
        """A sum of levels, each times its gain, which the scale of its dequantisation takes in where it is one."""
        sources = self.network.spec.layers[i].sources
        gains = op.gains.numpy().astype(np.float64)  # [sources, 1 or C]
        if self.strict and not self.room(i, op, how):
            pairs = zip(sources, gains, strict=True)
            return Sum("", [(self.value(j), gain / self.network.grids[j].scale) for j, gain in pairs], False)
        terms = []
        for j, gain in zip(sources, gains, strict=True):
            worth = gain * how.gain * how.scale
            one = worth.size == 1 and worth[0] > 0
            value = self.value(j, float(worth[0]) if one else None)
            terms.append(value if one else self.times(value, worth / self.network.grids[j].scale, name))
        x = terms[0]
        for n, term in enumerate(terms[1:], 2):
            x = self.graph.add("Add", [x, term], f"{name}_sum{n}")
        return Sum(x, [], True, apart=any(self.network.grids[j].qmin < 0 for j in sources))

    def room(self, i: int, op: IntShortcut, how: Rounding) -> bool:
        """Whether float32 holds every sum of a shortcut, and its ties can be told."""
        reach = np.array([self.network.grids[j].reach for j in self.network.spec.layers[i].sources])
        gains = np.abs(op.gains.numpy().astype(np.int64))
        largest = (gains * reach[:, None]).sum(0).max() / np.gcd.reduce(gains.ravel())
        powers = ((gains & (gains - 1)) == 0).all()
        return bool(powers and largest < 2**24 and how.tie is not None)

    def pool(self, i: int, op: IntPool, name: str) -> Sum:
        """A global average; where every element counts a sum, because a mean divides, and that rounds."""
        layer = self.network.spec.layers[i]
        j, how = layer.sources[0], self.rounding(op.requantiser, i)
        _, h, w = self.shapes[j]
        if h * w != op.count:
            raise InputError(
                f"{place(i, layer)}: averages {h}x{w} levels, but its gain is made for {op.count}; "
                "use the --img-size it was quantised for"
            )
        if not self.strict:
            value = self.value(j, float((how.gain * how.scale)[0]) * op.count)
            return Sum(self.graph.add("GlobalAveragePool", [value], f"{name}_mean"), [], True)
        axes = self.graph.constant(np.array([2, 3], np.int64), "height_width")
        x = self.graph.add("ReduceSum", [self.value(j), axes], f"{name}_sum", keepdims=1)
        return Sum("", [(x, np.array([1 / self.network.grids[j].scale]))], False)

    def gate(self, i: int, op: IntGate, name: str) -> Sum:
        """Features times their gate."""
        gate, features = self.network.spec.layers[i].sources
        how, own = self.rounding(op.requantiser, i), self.network.grids[gate].scale
        exact = how.tie is not None
        worth = (
            float((how.gain * how.scale)[0]) if exact or not self.strict else own * self.network.grids[features].scale
        )
        x = self.graph.add("Mul", [self.value(features, worth / own), self.value(gate)], f"{name}_product")
        return Sum(x, [(x, np.array([1 / worth]))], exact)

    def rounding(self, by: Requantiser, i: int) -> Rounding:
        """How layer ``i`` rounds."""
        return Rounding(by, self.network.grids[i].scale, self.strict)

    def level(self, i: int, total: Sum, by: Requantiser, table: Tensor | None, name: str) -> str:
        """Accumulator -> levels, through the table where there is one."""
        how = self.rounding(by, i)
        if table is None:
            return to_levels(self.graph, total, how, name)
        before, grid = to_levels(self.graph, total, how, f"{name}_before"), self.network.grids[i]
        given, made = bytes_zero(by.qmin, by.qmax), bytes_zero(grid.qmin, grid.qmax)
        assert given is not None and made is not None
        entries = np.zeros(given + by.qmin + len(table), np.uint8)  # by the byte of the level before
        entries[given + by.qmin :] = table.numpy() + made
        index = self.graph.add("Cast", [before], f"{name}_index", to=self.graph.onnx.TensorProto.INT32)
        return self.graph.add("Gather", [self.graph.constant(entries, f"{name}_table"), index], name)

    def model(self, taps: bool) -> Model:
        """What was written, with inputs and outputs declared."""
        graph, grids = self.graph, self.network.grids
        inputs = [graph.tensor("image", np.float32, ("N", *self.shapes[-1]))]
        for j in sorted(self.given):
            inputs.append(graph.tensor(f"given{j + 1:03d}", edge_type(grids[j]), ("N", *self.shapes[j])))
        outputs = []
        for i in tap_names(self.network) if taps else ():
            outputs.append(graph.tensor(self.made[i], edge_type(grids[i]), ("N", *self.shapes[i])))
        for i in dict.fromkeys(readouts(self.network.spec)):
            outputs.append(graph.tensor(self.made[i], np.float32, ("N", *self.shapes[i])))
        return graph.model(inputs, outputs)


def by_scale(op: IntConv) -> Array:
    """A read-out's unit, float64 [O]."""
    assert op.scale is not None
    return np.asarray(op.scale.numpy(), np.float64)


def feeds(network: IntegerNetwork, levels: dict[int, Tensor]) -> dict[str, Any]:
    """The inputs of a loose model: golden levels, in the type of each edge."""
    found = {}
    for j, n in levels.items():
        grid, known = network.grids[j], n.numpy()
        at = bytes_zero(grid.qmin, grid.qmax)
        stored = known.astype(np.float32) * np.float32(grid.scale) if at is None else (known + at).astype(np.uint8)
        found[f"given{j + 1:03d}"] = stored
    return found
