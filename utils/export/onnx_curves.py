"""Activations as ONNX: the curves of a float network's graph, of standard operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from utils.darknet.activations import SLOPES
from utils.export.onnx_graph import Graph

Curve = Callable[[Graph, str, str], str]  # (graph, what it reads, name) -> what it makes


def _number(graph: Graph, value: float) -> str:
    return graph.constant(np.array(value, np.float32), f"float_{value:g}".replace("-", "minus_").replace(".", "_"))


def _times(graph: Graph, x: str, factor: float, name: str) -> str:
    return graph.add("Mul", [x, _number(graph, factor)], name)


def _clipped(graph: Graph, x: str, ends: Sequence[float], name: str) -> str:
    return graph.add("Clip", [x, *(_number(graph, end) for end in ends)], name)


def _bent(low: float, high: float, slope: float, outer: float, shift: float) -> Curve:
    """``slope`` x + ``shift`` between two ends, a slope of ``outer`` on both sides."""

    def curve(graph: Graph, x: str, name: str) -> str:
        inner = _clipped(graph, x, (low, high), f"{name}_inner")
        rest = _times(graph, graph.add("Sub", [x, inner], f"{name}_rest"), outer, f"{name}_outer")
        steep = _times(graph, inner, slope, f"{name}_steep")
        return graph.add("Add", [graph.add("Add", [steep, _number(graph, shift)], f"{name}_shift"), rest], name)

    return curve


def _ramp(graph: Graph, x: str, name: str) -> str:
    return graph.add("Add", [graph.add("Relu", [x], f"{name}_up"), _times(graph, x, 0.1, f"{name}_tenth")], name)


def _gelu(graph: Graph, x: str, name: str) -> str:
    square = graph.add("Mul", [x, x], f"{name}_square")
    inner = graph.add("Add", [_times(graph, square, 0.035677, f"{name}_bent"), _number(graph, 0.797885)], f"{name}_way")
    gate = graph.add("Tanh", [graph.add("Mul", [x, inner], f"{name}_sum")], f"{name}_tanh")
    gate = graph.add("Add", [gate, _number(graph, 1)], f"{name}_gate")
    return graph.add("Mul", [_times(graph, x, 0.5, f"{name}_half"), gate], name)


def _loggy(graph: Graph, x: str, name: str) -> str:
    twice = _times(graph, graph.add("Sigmoid", [x], f"{name}_gate"), 2, f"{name}_twice")
    return graph.add("Sub", [twice, _number(graph, 1)], name)


def _stair(graph: Graph, x: str, name: str) -> str:
    """Flat from an even number, rising from an odd one: 1 for every 2, less what is missing to the next even one."""
    step = graph.add("Floor", [_times(graph, x, 0.5, f"{name}_half")], f"{name}_step")
    into = graph.add("Sub", [x, _times(graph, step, 2, f"{name}_even")], f"{name}_into")  # 0 to 2
    rise = graph.add("Relu", [graph.add("Sub", [into, _number(graph, 1)], f"{name}_late")], f"{name}_rise")
    return graph.add("Add", [step, rise], name)


def _hard_mish(graph: Graph, x: str, name: str) -> str:
    gate = _clipped(graph, graph.add("Add", [x, _number(graph, 2)], f"{name}_two"), (0, 2), f"{name}_gate")
    return graph.add("Mul", [_times(graph, x, 0.5, f"{name}_half"), gate], name)


def _mish(graph: Graph, x: str, name: str) -> str:
    gate = graph.add("Tanh", [graph.add("Softplus", [x], f"{name}_soft")], f"{name}_gate")
    return graph.add("Mul", [x, gate], name)


def _swish(graph: Graph, x: str, name: str) -> str:
    return graph.add("Mul", [x, graph.add("Sigmoid", [x], f"{name}_gate")], name)


def _hard_sigmoid(graph: Graph, x: str, name: str) -> str:
    """Written out: OpenCV takes a HardSigmoid before a product for a hard swish, whatever the other factor is."""
    sixth, half, zero, one = (
        graph.constant(np.array(n, np.float32), f"float_{key}")
        for n, key in ((1 / 6, "sixth"), (0.5, "half"), (0, 0), (1, 1))
    )
    x = graph.add("Add", [graph.add("Mul", [x, sixth], f"{name}_sixth"), half], f"{name}_ramp")
    return graph.add("Clip", [x, zero, one], name)


def _h_swish(graph: Graph, x: str, name: str) -> str:
    gate = graph.add("HardSigmoid", [x], f"{name}_gate", alpha=1 / 6, beta=0.5)
    return graph.add("Mul", [x, gate], name)


def _leaky(slope: float) -> Curve:
    return lambda graph, x, name: graph.add("LeakyRelu", [x], name, alpha=slope)


CURVES: dict[str, Curve] = {
    "linear": lambda graph, x, name: x,
    "relu": lambda graph, x, name: graph.add("Relu", [x], name),
    "relu6": lambda graph, x, name: _clipped(graph, x, (0, 6), name),
    **{name: _leaky(slope) for name, slope in SLOPES.items()},
    "logistic": lambda graph, x, name: graph.add("Sigmoid", [x], name),
    "swish": _swish,
    "mish": _mish,
    "hard_sigmoid": _hard_sigmoid,
    "h_swish": _h_swish,
    "elu": lambda graph, x, name: graph.add("Elu", [x], name, alpha=1.0),
    "gelu": _gelu,
    "hard_mish": _hard_mish,
    "hardtan": lambda graph, x, name: _clipped(graph, x, (-1, 1), name),
    "lhtan": _bent(0, 1, 1, 0.001, 0),
    "loggy": _loggy,
    "plse": _bent(-4, 4, 0.125, 0.01, 0.5),
    "ramp": _ramp,
    "relie": _leaky(0.01),
    "selu": lambda graph, x, name: graph.add("Selu", [x], name, alpha=1.6732, gamma=1.0507),
    "stair": _stair,
    "tanh": lambda graph, x, name: graph.add("Tanh", [x], name),
}
