"""Building ONNX graphs: nodes, constants, and the layers that only move values."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from utils.darknet import spec as s
from utils.darknet.walk import rule
from utils.errors import InputError

END = 2**62  # of a slice that goes to the end
OPSET = 13  # the first whose DequantizeLinear has a scale a channel
IR_VERSION = 8  # read by every onnxruntime since 1.10

Array = np.ndarray
Model = Any  # onnx.ModelProto; onnx is imported only when somebody asks for it
Shape = Sequence[int | str]
Shapes = Sequence[tuple[int, int, int]]  # (C, H, W) of a layer's inputs


def library(name: str, form: str) -> ModuleType:
    """A package that only exports need.

    Raises:
        InputError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.split(".")[0]
        raise InputError(f"export.py {form} needs {package}: pip install -r requirements-export.txt") from error


def by_qonnx() -> Callable[..., dict[str, Array]]:
    """qonnx's executor, without onnxruntime's warnings about the models that qonnx makes of single nodes."""
    library("onnxruntime", "qonnx").set_default_logger_severity(3)  # errors
    execute: Callable[..., dict[str, Array]] = library("qonnx.core.onnx_exec", "qonnx").execute_onnx
    return execute


class Graph:
    """A graph under construction: nodes in order, and constants, each once. Names are those of the output tensors."""

    def __init__(self, form: str = "onnx") -> None:
        self.onnx = library("onnx", form)
        self.nodes: list[Any] = []
        self.constants: dict[str, Array] = {}
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._used: set[str] = set()

    def add(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """Append a node of one output; returns the output's name, ``name`` or the next free one like it."""
        name = self._free(name)
        self.nodes.append(self.onnx.helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, value: Array, name: str, *, own: bool = False) -> str:
        """A constant tensor; equal ones are stored once, but for those that must be ``own``."""
        value = np.ascontiguousarray(value) if np.ndim(value) else np.asarray(value)
        key = (str(value.dtype) + name * own, value.shape, value.tobytes())
        if key not in self._known:
            self._known[key] = self._free(name)
            self.constants[self._known[key]] = value
        return self._known[key]

    def tensor(self, name: str, kind: Any, shape: Shape) -> Any:
        """The declaration of an input or output; ``kind`` is a numpy type."""
        helper = self.onnx.helper
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(kind)), list(shape))

    def model(self, inputs: Sequence[Any], outputs: Sequence[Any], *, opset: int = OPSET, domain: str = "") -> Model:
        """The whole, not yet checked; ``domain`` names one more set of operators."""
        helper, numpy_helper = self.onnx.helper, self.onnx.numpy_helper
        stored = [numpy_helper.from_array(value, name) for name, value in self.constants.items()]
        graph = helper.make_graph(self.nodes, "darkspike", list(inputs), list(outputs), stored)
        sets = [helper.make_opsetid("", opset)] + ([helper.make_opsetid(domain, 1)] if domain else [])
        return helper.make_model(graph, producer_name="darkspike", ir_version=IR_VERSION, opset_imports=sets)

    def _free(self, name: str) -> str:
        free, n = name, 2
        while free in self._used:
            free, n = f"{name}_{n}", n + 1
        self._used.add(free)
        return free


def check(model: Model, form: str = "onnx") -> None:
    """The checker's and the shape inference's opinion.

    Raises:
        InputError: they refuse the model.
    """
    onnx = library("onnx", form)
    try:
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"{form}: the checker refuses the model: {reason}; please report this network") from error


def save(model: Model, path: Path) -> None:
    """Write the model's file."""
    path.write_bytes(model.SerializeToString())


def place(i: int, layer: s.Layer) -> str:
    """How an error names a layer."""
    return f"layer {i} (cfg line {layer.line})"


def conv_attributes(layer: s.Kernel) -> dict[str, Any]:
    """A convolution's geometry, as Conv or ConvTranspose takes it."""
    common = {"kernel_shape": [layer.size] * 2, "pads": [layer.pad] * 4, "group": layer.groups}
    return common | rule(STEPS, layer, "ONNX form")(layer)


STEPS: dict[type[s.Layer], Callable[[Any], dict[str, Any]]] = {
    s.Conv: lambda layer: {"strides": list(layer.stride), "dilations": [layer.dilation] * 2},
    s.TransposedConv: lambda layer: {"strides": [layer.stride] * 2, "output_padding": [layer.output_padding] * 2},
}


def move(graph: Graph, layer: s.Layer, given: Sequence[str], shapes: Shapes, name: str) -> str:
    """Max pool, upsample, route, reorg, dropout: every output value is one of the input values.

    Args:
        graph: gets the nodes.
        layer: the layer.
        given: its input tensors, of any type that moves.
        shapes: (C, H, W) of each.
        name: of the output.

    Raises:
        InputError: ONNX has no such layer.
    """
    return rule(MOVES, layer, "ONNX form yet")(graph, layer, given, shapes, name)


def _max_pool(graph: Graph, layer: s.MaxPool, given: Sequence[str], shapes: Shapes, name: str) -> str:
    before, after = layer.pad // 2, layer.pad - layer.pad // 2
    _, *sides = shapes[0]
    used = [(side + layer.pad - layer.size) // layer.stride * layer.stride + layer.size > side for side in sides]
    after = after if before or any(used) else 0  # readers refuse uneven padding, also such as no window reaches
    pads = [before, before, after, after]  # ONNX pads with nothing, so that padding never wins
    return graph.add("MaxPool", given, name, kernel_shape=[layer.size] * 2, strides=[layer.stride] * 2, pads=pads)


def _upsample(graph: Graph, layer: s.Upsample, given: Sequence[str], shapes: Shapes, name: str) -> str:
    if layer.zeros:
        return _spread(graph, layer.stride, given[0], shapes[0], name)
    region = graph.constant(np.zeros(0, np.float32), "no_region")
    times = graph.constant(np.array([1, 1, layer.stride, layer.stride], np.float32), f"times_{layer.stride}")
    how = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return graph.add("Resize", [given[0], region, times], name, **how)


def _route(graph: Graph, layer: s.Route, given: Sequence[str], shapes: Shapes, name: str) -> str:
    called = name if len(given) == 1 else f"{name}_part"
    parts = [_slice(graph, layer, x, c, called) for x, (c, _, _) in zip(given, shapes, strict=True)]
    return parts[0] if len(parts) == 1 else graph.add("Concat", parts, name, axis=1)


def _slice(graph: Graph, layer: s.Route, x: str, channels: int, name: str) -> str:
    if layer.groups == 1:
        return x
    width = channels // layer.groups
    ends = (layer.group_id * width, (layer.group_id + 1) * width, 1)
    return graph.add("Slice", [x, *(graph.constant(np.array([n], np.int64), f"at_{n}") for n in ends)], name)


def _spread(graph: Graph, stride: int, x: str, shape: tuple[int, int, int], name: str) -> str:
    """Every value, and zeros behind it: each px gets a square of its own, padded with 0."""
    c, h, w = shape
    apart, whole = np.array([0, c, h, 1, w, 1], np.int64), np.array([0, c, h * stride, w * stride], np.int64)
    ends = np.array([0] * 9 + [stride - 1, 0, stride - 1], np.int64)
    x = graph.add("Reshape", [x, graph.constant(apart, f"{name}_apart")], f"{name}_six")
    x = graph.add("Pad", [x, graph.constant(ends, f"ends_{stride}")], f"{name}_padded")
    return graph.add("Reshape", [x, graph.constant(whole, f"{name}_whole")], name)


def _fit(graph: Graph, layer: s.Fitted, given: Sequence[str], shapes: Shapes, name: str) -> str:
    (c, h, w), x = shapes[0], given[0]
    stride, kept = layer.stride, min(c, layer.filters)
    if kept < c or stride > 1:
        ends = ([0, 0, 0], [kept, END, END], [1, 2, 3], [1, stride, stride])
        x = graph.add(
            "Slice", [x, *(graph.constant(np.array(n, np.int64), f"{name}_at") for n in ends)], f"{name}_first"
        )
    if layer.spread > 1:
        x = _spread(graph, layer.spread, x, (kept, h // stride, w // stride), f"{name}_spread")
    if kept == layer.filters:
        return x
    more = graph.constant(np.array([0, 0, 0, 0, 0, layer.filters - kept, 0, 0], np.int64), f"{name}_more")
    return graph.add("Pad", [x, more], name)


def _reorg(graph: Graph, layer: s.Reorg, given: Sequence[str], shapes: Shapes, name: str) -> str:
    stride, x, (c, h, w) = layer.stride, given[0], shapes[0]  # Darknet's order: see utils/darknet/reorder.py
    parted = np.array([0, c // stride**2, h, stride, w, stride], np.int64)
    whole = np.array([0, c * stride**2, h // stride, w // stride], np.int64)
    x = graph.add("Reshape", [x, graph.constant(parted, f"{name}_parted")], f"{name}_six")
    x = graph.add("Transpose", [x], f"{name}_turned", perm=[0, 3, 5, 1, 2, 4])
    return graph.add("Reshape", [x, graph.constant(whole, f"{name}_whole")], name)


def _reorg3d(graph: Graph, layer: s.Reorg3d, given: Sequence[str], shapes: Shapes, name: str) -> str:
    stride, x, (c, h, w) = layer.stride, given[0], shapes[0]
    parted = np.array([0, c, h // stride, stride, w // stride, stride], np.int64)
    whole = np.array([0, c * stride**2, h // stride, w // stride], np.int64)
    x = graph.add("Reshape", [x, graph.constant(parted, f"{name}_parted")], f"{name}_six")
    x = graph.add("Transpose", [x], f"{name}_turned", perm=[0, 3, 5, 1, 2, 4])
    return graph.add("Reshape", [x, graph.constant(whole, f"{name}_whole")], name)


def _as_it_is(graph: Graph, layer: s.Layer, given: Sequence[str], shapes: Shapes, name: str) -> str:
    return given[0]


MOVES: dict[type[s.Layer], Callable[[Graph, Any, Sequence[str], Shapes, str], str]] = {
    s.MaxPool: _max_pool,
    s.Upsample: _upsample,
    s.Route: _route,
    s.Reorg: _reorg,
    s.Reorg3d: _reorg3d,
    s.Fitted: _fit,
    s.Dropout: _as_it_is,
    s.Output: _as_it_is,
}
