"""A float network as ONNX: for tools that quantise by themselves, and what an int8 model is to be compared with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from utils.darknet import spec as s
from utils.darknet.antialiasing import blur_kernel
from utils.darknet.expand import expand
from utils.darknet.network import Network
from utils.darknet.ops import activation_of, facts, is_identity
from utils.darknet.shapes import channels, granularity, sizes
from utils.darknet.shortcuts import source_shares
from utils.darknet.walk import rule, run
from utils.errors import InputError
from utils.export.onnx_curves import CURVES
from utils.export.onnx_decode import BOXES, SCORES, Grid, decode_heads
from utils.export.onnx_graph import Graph, Model, conv_attributes, move, place
from utils.quantization.validate import readouts


@dataclass(frozen=True)
class FloatGraph:
    """Where a layer is written: the graph, the network's tensors, the place for messages, its channels."""

    graph: Graph
    state: dict[str, Tensor]
    i: int
    width: int

    def tensor(self, key: str) -> Tensor:
        """One of the layer's own, float32."""
        return self.state[f"layers.{self.i}.{key}"].detach().float()


def float_model(
    network: Network, size: tuple[int, int], *, dynamic: bool = False, decode: bool = False, taps: bool = False
) -> Model:
    """Convolutions, sums and moves in float32, of standard operators.

    Args:
        network: batch norm folded.
        size: (height, width) in px of the image.
        dynamic: sides that divide by the network's largest stride, whichever; ``size`` is then one of them.
        decode: boxes [N,M,4] (x1, y1, x2, y2 in px of the image) and scores [N,M,classes] instead of maps.
        taps: the maps too, behind the boxes.

    Returns:
        A model with input "image", float [N,3,H,W] in 0..1, and a float map for every head, "layer015_map".

    Raises:
        InputError: a layer or activation has no form here, or not at every size; names the layer and its cfg line.
    """
    network, _ = expand(network, (s.SqueezeExcite, s.Shortcut))
    graph, spec = Graph(), network.spec
    if dynamic:
        _check_dynamic(spec)
    wide, extent = channels(spec), sizes(spec, *size)
    shapes = {-1: (wide[-1], *size)} | {i: (wide[i], *extent[i]) for i in extent}
    ends = dict.fromkeys(readouts(spec))

    def step(i: int, layer: s.Layer, given: list[str]) -> str:
        name = f"layer{i:03d}_map" if i in ends else f"layer{i:03d}"
        on = FloatGraph(graph, network.state, i, wide[i])
        if i in spec.kernels:
            return _conv(on, spec.kernels[i], given[0], name)
        if facts(layer).computes:
            return _activate(graph, i, layer, rule(SUMS, layer, "ONNX form yet")(on, layer, given, name), name)
        if is_identity(layer):
            return given[0]
        return move(graph, layer, given, [shapes[j] for j in layer.sources], name)

    made = run(spec, "image", step)
    open_size: tuple[int | str, int | str] = ("height", "width") if dynamic else size
    image = graph.tensor("image", np.float32, ("N", wide[-1], *open_size))
    maps = [graph.tensor(made[i], np.float32, _map_shape(made[i], shapes[i], dynamic)) for i in ends]
    if not decode:
        return graph.model([image], maps)
    boxes = decode_heads(graph, spec, Grid(made, extent, size, dynamic))
    outputs = [graph.tensor(name, np.float32, ("N", "M" if dynamic else boxes.count, n)) for name, n in boxes.widths]
    return graph.model([image], outputs + (maps if taps else []))


def decoded_names() -> tuple[str, str]:
    """The outputs of a model with boxes."""
    return BOXES, SCORES


def _map_shape(name: str, shape: tuple[int, int, int], dynamic: bool) -> tuple[int | str, ...]:
    return ("N", shape[0], f"{name}_height", f"{name}_width") if dynamic else ("N", *shape)


def _check_dynamic(spec: s.ModelSpec) -> None:
    step = granularity(spec)
    for i, layer in enumerate(spec.layers):
        spreads = (isinstance(layer, s.Upsample) and layer.zeros) or (isinstance(layer, s.Fitted) and layer.spread > 1)
        if isinstance(layer, s.Reorg | s.Reorg3d) or spreads:
            raise InputError(
                f"--dynamic: {place(i, layer)}: [{facts(layer).section}] is written for one size; leave --dynamic away "
                f"and export for each --img-size (multiples of {step})"
            )


def _sum(on: FloatGraph, layer: s.Shortcut, given: list[str], name: str) -> str:
    graph = on.graph
    if layer.weighted:
        shares = source_shares(on.tensor("weights"), layer.weights_normalization).reshape(len(given), -1, 1, 1)
        given = [
            graph.add("Mul", [x, graph.constant(share[None].numpy(), f"{name}_share")], f"{name}_part")
            for x, share in zip(given, shares, strict=True)
        ]
    total = given[0]
    for n, other in enumerate(given[1:], 2):
        total = graph.add("Add", [total, other], f"{name}_sum{n}")
    return total


def _window(on: FloatGraph, layer: s.LocalAvgPool, given: list[str], name: str) -> str:
    before, after = layer.pad // 2, layer.pad - layer.pad // 2
    how = {"kernel_shape": [layer.size] * 2, "strides": [layer.stride] * 2, "pads": [before, before, after, after]}
    return on.graph.add("AveragePool", given, name, **how, count_include_pad=0)


def _blur(on: FloatGraph, layer: s.Blur, given: list[str], name: str) -> str:
    width = on.width
    kernel = (blur_kernel(layer) / sum(layer.row) ** 2).expand(width, 1, -1, -1)
    weight = on.graph.constant(kernel.numpy(), f"{name}_weight")
    how = {"kernel_shape": [layer.size] * 2, "strides": list(layer.stride), "pads": [layer.pad] * 4}
    return on.graph.add("Conv", [given[0], weight], name, **how, group=width)


SUMS: dict[type[s.Layer], Callable[[FloatGraph, Any, list[str], str], str]] = {
    s.Shortcut: _sum,
    s.Activation: lambda on, layer, given, name: given[0],
    s.LocalAvgPool: _window,
    s.Blur: _blur,
    s.AvgPool: lambda on, layer, given, name: on.graph.add("GlobalAveragePool", given, name),
    s.Product: lambda on, layer, given, name: on.graph.add("Mul", given, f"{name}_product"),
    s.ScaleChannels: lambda on, layer, given, name: on.graph.add("Mul", given[::-1], f"{name}_scaled"),
}


def _conv(on: FloatGraph, layer: s.Kernel, x: str, name: str) -> str:
    graph, i = on.graph, on.i
    if layer.bn:
        raise InputError(f"{place(i, layer)}: batch norm is not folded; call fold_bn first")
    weights = [graph.constant(on.tensor(f"conv.{key}").numpy(), f"{name}_{key}") for key in ("weight", "bias")]
    linear = layer.activation == "linear"
    kind = "ConvTranspose" if layer.inputs_first else "Conv"
    x = graph.add(kind, [x, *weights], name if linear else f"{name}_sum", **conv_attributes(layer))
    return _activate(graph, i, layer, x, name)


def _activate(graph: Graph, i: int, layer: s.Layer, x: str, name: str) -> str:
    activation = activation_of(layer)
    if activation not in CURVES:
        raise InputError(f"{place(i, layer)}: activation={activation} has no float ONNX form here; use relu or leaky")
    return CURVES[activation](graph, x, name)
