"""An IntegerNetwork as QONNX: integers in float tensors, Quant on the weights, MultiThreshold for every requantisation.

FINN's own form after its streamlining: a threshold for each level of each channel says everything that gain, bias,
bend and rounding do, exactly, whatever the gains are. Blott et al., FINN-R, section 4.2 (arXiv 1809.04570).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from utils.darknet import spec as s
from utils.darknet.ops import is_identity
from utils.darknet.shapes import channels, sizes
from utils.errors import InputError
from utils.export.onnx_graph import Array, Graph, Model, conv_attributes, library, move, place
from utils.export.onnx_round import by_channel
from utils.quantization.activation_qparams import QParams
from utils.quantization.exact_conv import accumulator_bounds
from utils.quantization.integer import IntConv, IntegerNetwork, IntGate, IntPool, IntShortcut, Requantiser
from utils.quantization.validate import readouts

DOMAIN = "qonnx.custom_op.general"
OPSET = 11  # the one qonnx and FINN prefer
EXACT = 2**24  # integers up to this are exact in float32


def quant_model(network: IntegerNetwork, size: tuple[int, int], layers: int | None = None) -> Model:
    """The network as a qonnx ModelWrapper, shapes and data types inferred.

    Args:
        network: what to write.
        size: (height, width) in px of the image.
        layers: the first so many alone, the last of them the output.

    Returns:
        A model with input "image", the 8-bit pixels as float [1,3,H,W], a tensor "layer003" of levels for every layer
        that makes some, and a float map for every head, "layer015_map".

    Raises:
        InputError: a layer has no such form; names the layer, its cfg line and the remedy.
    """
    wrapper = library("qonnx.core.modelwrapper", "qonnx").ModelWrapper
    datatype = library("qonnx.core.datatype", "qonnx").DataType
    shapes = library("qonnx.transformation.infer_shapes", "qonnx").InferShapes
    types = library("qonnx.transformation.infer_datatypes", "qonnx").InferDataTypes
    writer = _QonnxWriter(network, size)
    for i, layer in enumerate(network.spec.layers[:layers]):
        writer.write(i, layer)
    model = wrapper(writer.model(readouts(network.spec) if layers is None else (layers - 1,)))
    for name, value in writer.graph.constants.items():  # qonnx wants every tensor declared
        model.set_initializer(name, value)
    model.set_tensor_datatype("image", datatype["UINT8"])
    for name, kind in writer.kinds.items():
        model.set_tensor_datatype(name, datatype[kind])
    return model.transform(shapes()).transform(types())


def thresholds(by: Requantiser, bias: Array, bound: Array, common: int = 1) -> Array:
    """The smallest accumulator, without its bias, that reaches each level above the lowest.

    acc * g + 2^(f-1) >= k * 2^f  <=>  acc >= ceil((2k - 1) * 2^(f-1) / g), with g = m for k > 0, else m_neg.

    Args:
        by: gains and bounds.
        bias: int64 [C], or [1].
        bound: the largest |acc| without bias, int64 [C] or [1]; what lies beyond is brought just outside of it.
        common: a factor that acc lacks.

    Returns:
        int64 [C or 1, hi - lo], nondecreasing in each row.
    """
    shift = max(0, 1 - by.shift)
    gains = {
        positive: gain.numpy().astype(np.int64) * common << shift
        for positive, gain in ((True, by.multiplier), (False, by.multiplier_neg))
    }
    count = max(len(by.multiplier), len(bias), len(bound))
    bias, bound = np.broadcast_to(bias, count), np.broadcast_to(bound, count)
    columns = []
    for k in range(by.qmin + 1, by.qmax + 1):
        gain, asked = np.broadcast_to(gains[k > 0], count), (2 * k - 1) << (by.shift + shift - 1)
        at = -(-asked // np.maximum(gain, 1))
        at = np.where(gain > 0, at, bound + np.abs(bias) + 1 if k > 0 else -bound - np.abs(bias) - 1)
        columns.append(np.clip(at - bias, -bound, bound + 1))
    return np.stack(columns, 1)


def as_float32(steps: Array) -> Array:
    """Thresholds as float tensors hold them: from 2^24 on, where not every integer is a float32, the next one above.

    A sum in float32 is at least the threshold exactly where it is at least the next float32.
    """
    near = steps.astype(np.float32)
    return np.where(near.astype(np.int64) < steps, np.nextafter(near, np.float32(np.inf)), near)


def through_table(steps: Array, table: Array) -> Array | None:
    """Thresholds of a requantiser followed by a table that never falls; None where it does."""
    if (np.diff(table) < 0).any():
        return None
    lowest = table[0]
    # level >= k where the requantiser's level has passed as many steps as the table has entries below k
    passed = [int(np.searchsorted(table, k)) for k in range(lowest + 1, table[-1] + 1)]
    return steps[:, [n - 1 for n in passed]]


def level_kind(grid: QParams) -> str:
    """The smallest integer type that holds the levels, as qonnx calls it."""
    return f"{'UINT' if grid.qmin >= 0 else 'INT'}{grid.bits}"


class _QonnxWriter:
    """Layer by layer; ``made`` is the tensor of levels of each edge, ``kinds`` the integer types of tensors."""

    def __init__(self, network: IntegerNetwork, size: tuple[int, int]) -> None:
        self.graph, self.network = Graph("qonnx"), network
        wide, extent = channels(network.spec), sizes(network.spec, *size)
        self.shapes = {-1: (wide[-1], *size)} | {i: (wide[i], *extent[i]) for i in extent}
        self.made = {-1: "image"}
        self.kinds: dict[str, str] = {}

    def write(self, i: int, layer: s.Layer) -> None:
        """One layer."""
        op, name = self.network.ops.get(i), f"layer{i:03d}"
        given = [self.made[j] for j in layer.sources if j in self.made]
        match op:
            case IntConv():
                self.made[i] = self.conv(i, op, name)
            case IntShortcut():
                self.made[i] = self.shortcut(i, op, name)
            case IntPool():
                self.made[i] = self.pool(i, op, name)
            case IntGate():
                acc = self.graph.add("Mul", given, f"{name}_acc")
                bound = np.array([np.prod([self.network.grids[j].reach for j in layer.sources])])
                self.made[i] = self.level(i, acc, op.requantiser, np.zeros(1, np.int64), bound, op.table, name)
            case _ if is_identity(layer):
                self.made[i] = given[0]
            case _:
                shapes = [self.shapes[j] for j in layer.sources]
                self.made[i] = move(self.graph, layer, given, shapes, name)

    def conv(self, i: int, op: IntConv, name: str) -> str:
        """A convolution; the bias goes into the thresholds, or, of a read-out, is added."""
        layer, _ = self.network.conv(i)
        graph, bias = self.graph, op.bias.numpy().astype(np.int64)
        one, none, bits = (
            graph.constant(np.array(value, np.float32), called)
            for value, called in ((1, "one"), (0, "zero"), (op.w_bit, f"bits_{op.w_bit}"))
        )
        weight = graph.constant(op.weight.numpy().astype(np.float32), f"{name}_weight_levels")
        how = {"signed": 1, "narrow": 1, "rounding_mode": "ROUND", "domain": DOMAIN}
        weight = graph.add("Quant", [weight, one, none, bits], f"{name}_weight", **how)
        acc = graph.add("Conv", [self.made[layer.sources[0]], weight], f"{name}_acc", **conv_attributes(layer))
        bound = accumulator_bounds(op.weight, op.bias * 0, self.network.reach_into(i)).numpy()
        if op.requantiser is not None:
            return self.level(i, acc, op.requantiser, bias, bound, op.table, name)
        assert op.scale is not None
        acc = graph.add("Add", [acc, self.number(by_channel(bias)[None], f"{name}_bias")], f"{name}_sum")
        linear = layer.activation != "logistic"
        scale = self.number(by_channel(op.scale.numpy())[None], f"{name}_scale")
        x = graph.add("Mul", [acc, scale], f"{name}_map" if linear else f"{name}_raw")
        return x if linear else graph.add("Sigmoid", [x], f"{name}_map")

    def shortcut(self, i: int, op: IntShortcut, name: str) -> str:
        """A sum of levels times gains; where float32 could not hold it, levels from 0 up are centred first."""
        layer, grids = self.network.spec.layers[i], self.network.grids
        gains = op.gains.numpy().astype(np.int64)
        common = max(1, int(np.gcd.reduce(gains.ravel())))
        gains = gains // common  # [sources, 1 or C]; the requantiser takes what is common
        by = op.requantiser
        reach = np.array([grids[j].reach for j in layer.sources])
        middle = np.array([(grids[j].qmax + 1) // 2 if grids[j].qmin >= 0 else 0 for j in layer.sources])
        bound, offset = (np.abs(gains) * reach[:, None]).sum(0), np.zeros(1, np.int64)
        centred = bound.max() >= EXACT
        if centred:
            offset = (gains * middle[:, None]).sum(0)
            bound = (np.abs(gains) * np.where(middle > 0, middle, reach)[:, None]).sum(0)
        if bound.max() >= EXACT:
            raise InputError(
                f"{place(i, layer)}: its sum needs more than the 24 bits of a float tensor; use --quantized pow2"
            )
        terms = []
        for j, gain, low in zip(layer.sources, gains, middle, strict=True):
            x = self.made[j]
            if centred and low:
                x = self.graph.add("Add", [x, self.number(np.array(-low), f"minus_{low}")], f"{name}_centred")
            if (gain != 1).any():
                x = self.graph.add("Mul", [x, self.number(by_channel(gain), f"{name}_gain")], f"{name}_term")
            terms.append(x)
        acc = terms[0]
        for term in terms[1:]:
            acc = self.graph.add("Add", [acc, term], f"{name}_acc")
        return self.level(i, acc, by, offset, bound, op.table, name, common)

    def pool(self, i: int, op: IntPool, name: str) -> str:
        """A global average, as the sum it is."""
        layer = self.network.spec.layers[i]
        _, h, w = self.shapes[layer.sources[0]]
        if h * w != op.count:
            raise InputError(
                f"{place(i, layer)}: averages {h}x{w} levels, but its gain is made for {op.count}; "
                "use the --img-size it was quantised for"
            )
        acc = self.graph.add("ReduceSum", [self.made[layer.sources[0]]], f"{name}_acc", axes=[2, 3], keepdims=1)
        bound = np.array([self.network.reach_into(i) * op.count])
        return self.level(i, acc, op.requantiser, np.zeros(1, np.int64), bound, None, name)

    def level(
        self,
        i: int,
        acc: str,
        by: Requantiser,
        bias: Array,
        bound: Array,
        table: Tensor | None,
        name: str,
        common: int = 1,
    ) -> str:
        """Accumulator -> levels: thresholds, and a Gather after them where a table falls somewhere."""
        grid = self.network.grids[i]
        steps = thresholds(by, bias, np.atleast_1d(bound), common)
        if table is not None:
            folded = through_table(steps, table.numpy())
            if folded is None:
                before = self.steps(acc, steps, QParams(1, by.qmin, by.qmax), f"{name}_before")
                return self.look_up(before, table.numpy(), by.qmin, grid, name)
            steps, grid = folded, QParams(1, int(table.min()), int(table.max()))
        return self.steps(acc, steps, grid, name)

    def steps(self, acc: str, steps: Array, grid: QParams, name: str) -> str:
        """A MultiThreshold."""
        kind = level_kind(grid)
        how = {"out_dtype": kind, "out_scale": 1.0, "out_bias": float(grid.qmin), "domain": DOMAIN}
        name = self.graph.add("MultiThreshold", [acc, self.number(as_float32(steps), f"{name}_steps")], name, **how)
        self.kinds[name] = kind
        return name

    def look_up(self, levels: str, table: Array, qmin: int, grid: QParams, name: str) -> str:
        """A table of any shape, by standard operators."""
        index = self.graph.add("Cast", [levels], f"{name}_index", to=self.graph.onnx.TensorProto.INT64)
        turned = np.roll(table, qmin).astype(np.float32)  # an index below 0 counts from the end
        name = self.graph.add("Gather", [self.graph.constant(turned, f"{name}_table"), index], name)
        self.kinds[name] = level_kind(grid)
        return name

    def number(self, value: Array, name: str) -> str:
        """A constant as float32."""
        return self.graph.constant(value.astype(np.float32), name)

    def model(self, ends: Sequence[int]) -> Model:
        """What was written, with input and outputs declared."""
        inputs = [self.graph.tensor("image", np.float32, (1, *self.shapes[-1]))]
        outputs = [self.graph.tensor(self.made[i], np.float32, (1, *self.shapes[i])) for i in dict.fromkeys(ends)]
        return self.graph.model(inputs, outputs, opset=OPSET, domain=DOMAIN)
