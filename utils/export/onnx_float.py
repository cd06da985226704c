"""A folded float network as ONNX: what an int8 model is to be compared with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from utils.darknet import spec as s
from utils.darknet.activations import SLOPES
from utils.darknet.network import Network
from utils.darknet.ops import activation_of, facts, is_identity, rule
from utils.darknet.shapes import channels, sizes
from utils.darknet.walk import run
from utils.errors import InputError
from utils.export.onnx_graph import Graph, Model, conv_attributes, move, place
from utils.quantization.validate import readouts


def float_model(network: Network, size: tuple[int, int]) -> Model:
    """Convolutions, sums and moves in float32, of standard operators.

    Args:
        network: batch norm folded.
        size: (height, width) in px of the image.

    Returns:
        A model with input "image", float [N,3,H,W] in 0..1, and a float map for every head, "layer015_map".

    Raises:
        InputError: a layer or activation has no form here; names the layer and its cfg line.
    """
    graph, spec = Graph(), network.spec
    wide, extent = channels(spec), sizes(spec, *size)
    shapes = {-1: (wide[-1], *size)} | {i: (wide[i], *extent[i]) for i in extent}
    ends = dict.fromkeys(readouts(spec))

    def step(i: int, layer: s.Layer, given: list[str]) -> str:
        name, kernels = f"layer{i:03d}_map" if i in ends else f"layer{i:03d}", spec.kernels
        if i in kernels:
            return _conv(graph, i, kernels[i], given[0], network.state, name)
        if facts(layer).computes:
            return _activate(graph, i, layer, rule(SUMS, layer, "ONNX form yet")(graph, layer, given, name), name)
        if is_identity(layer):
            return given[0]
        return move(graph, layer, given, [shapes[j] for j in layer.sources], name)

    made = run(spec, "image", step)
    image = graph.tensor("image", np.float32, ("N", *shapes[-1]))
    return graph.model([image], [graph.tensor(made[i], np.float32, ("N", *shapes[i])) for i in ends])


def _sum(graph: Graph, layer: s.Shortcut, given: list[str], name: str) -> str:
    if layer.weighted:
        raise InputError(f"cfg line {layer.line}: a weighted [shortcut] has no float ONNX form; use a cfg without")
    total = given[0]
    for n, other in enumerate(given[1:], 2):
        total = graph.add("Add", [total, other], f"{name}_sum{n}")
    return total


def _window(graph: Graph, layer: s.LocalAvgPool, given: list[str], name: str) -> str:
    before, after = layer.pad // 2, layer.pad - layer.pad // 2
    how = {"kernel_shape": [layer.size] * 2, "strides": [layer.stride] * 2, "pads": [before, before, after, after]}
    return graph.add("AveragePool", given, name, **how, count_include_pad=0)


SUMS: dict[type[s.Layer], Callable[[Graph, Any, list[str], str], str]] = {
    s.Shortcut: _sum,
    s.LocalAvgPool: _window,
}


def _conv(graph: Graph, i: int, layer: s.Kernel, x: str, state: dict[str, Tensor], name: str) -> str:
    if layer.bn:
        raise InputError(f"{place(i, layer)}: batch norm is not folded; call fold_bn first")
    weights = [
        graph.constant(state[f"layers.{i}.conv.{key}"].detach().float().numpy(), f"{name}_{key}")
        for key in ("weight", "bias")
    ]
    linear = layer.activation == "linear"
    kind = "ConvTranspose" if layer.inputs_first else "Conv"
    x = graph.add(kind, [x, *weights], name if linear else f"{name}_sum", **conv_attributes(layer))
    return _activate(graph, i, layer, x, name)


def _activate(graph: Graph, i: int, layer: s.Layer, x: str, name: str) -> str:
    activation = activation_of(layer)
    match activation:
        case "linear":
            return x
        case "relu":
            return graph.add("Relu", [x], name)
        case "relu6":
            ends = [graph.constant(np.array(end, np.float32), f"float_{end}") for end in (0, 6)]
            return graph.add("Clip", [x, *ends], name)
        case "leaky" | "leaky_pow2":
            return graph.add("LeakyRelu", [x], name, alpha=SLOPES[activation])
        case "logistic":
            return graph.add("Sigmoid", [x], name)
        case "swish":
            return graph.add("Mul", [x, graph.add("Sigmoid", [x], f"{name}_gate")], name)
        case "mish":
            gate = graph.add("Tanh", [graph.add("Softplus", [x], f"{name}_soft")], f"{name}_gate")
            return graph.add("Mul", [x, gate], name)
    raise InputError(f"{place(i, layer)}: activation={activation} has no float ONNX form here; use relu or leaky")
