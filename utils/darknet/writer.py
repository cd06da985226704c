"""Write a ModelSpec as the text of a Darknet cfg; ``parse_cfg(write_cfg(spec)) == spec``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from utils.darknet import spec as s
from utils.darknet.antialiasing import in_sections
from utils.darknet.ops import facts
from utils.darknet.sharing import owners
from utils.darknet.walk import rule

NEAR = 8  # references further back than this are written as absolute layer numbers, as the published cfgs do

Lines = list[tuple[str, object]]


def write_cfg(spec: s.ModelSpec) -> str:
    """The cfg's text, one section a layer.

    Raises:
        ValueError: a layer reads something else than its predecessor where a cfg has no key for that.
    """
    parts = [_section("net", [*spec.net, *spec.neuron.lines()])]
    sections = in_sections(spec)
    owner = owners(tuple(layer for layer, _ in sections))
    for i, (layer, antialiasing) in enumerate(sections):
        kind, lines = _layer(i, layer)
        more: Lines = [("antialiasing", antialiasing)] if antialiasing else []
        more += [("share_index", owner[i])] if i in owner else []
        parts.append(_section(kind, [*lines, *more, *layer.options]))
    return "\n".join(parts)


def _section(kind: str, lines: Iterable[tuple[str, object]]) -> str:
    return "".join([f"[{kind}]\n", *(f"{key}={value}\n" for key, value in lines)])


def _reference(i: int, j: int) -> str:
    return str(j - i if i - j <= NEAR else j)


def _layer(i: int, layer: s.Layer) -> tuple[str, Lines]:
    known = facts(layer)
    if not known.lists_sources and layer.sources[0] != i - 1:
        raise ValueError(f"layer {i} reads layer {layer.sources[0]}: a cfg can only say that by a [route]")
    named = layer.sources if known.lists_sources else layer.sources[1:]
    references = ",".join(_reference(i, j) for j in named)
    return known.section, rule(KEYS, layer, "cfg section")(layer, references)


def _conv(layer: s.Conv, references: str) -> Lines:
    vertical, horizontal = layer.stride
    same = vertical == horizontal
    stride: Lines = [("stride", vertical)] if same else [("stride_y", vertical), ("stride_x", horizontal)]
    return _kernel(layer, stride, layer.dilation)


def _connected(layer: s.Connected, references: str) -> Lines:
    normed: Lines = [("batch_normalize", 1)] if layer.bn else []
    return [*normed, ("output", layer.filters), ("activation", layer.activation)]


def _crop(layer: s.Crop, references: str) -> Lines:
    lines: Lines = [("crop_height", layer.kept[0]), ("crop_width", layer.kept[1])]
    return lines + ([("noadjust", 1)] if layer.noadjust else [])


def _softmax(layer: s.Softmax, references: str) -> Lines:
    lines: Lines = [("groups", layer.groups)]
    return lines + ([("temperature", _number(layer.temperature))] if layer.temperature != 1 else [])


def _segment(layer: s.Segment, references: str) -> Lines:
    return [("classes", layer.classes), ("ignore", layer.ignore), ("factor", layer.factor)]


def _transposed(layer: s.TransposedConv, references: str) -> Lines:
    return _kernel(layer, [("stride", layer.stride)], 1)


def _kernel(layer: s.Kernel, stride: Lines, dilation: int) -> Lines:
    lines: Lines = [("batch_normalize", 1)] if layer.bn else []
    lines += [("filters", layer.filters), ("size", layer.size), *stride]
    if layer.pad == layer.size // 2 * dilation:
        lines.append(("pad", 1))
    else:
        lines.append(("padding", layer.pad // dilation))
    lines += [("groups", layer.groups)] if layer.groups > 1 else []
    lines += [("dilation", dilation)] if dilation > 1 else []
    lines += [("weight_quant", layer.weight_quant)] if layer.weight_quant != "none" else []
    return [*lines, ("activation", layer.activation), *layer.neuron.lines()]


def _pool(layer: s.Pool, references: str) -> Lines:
    usual = layer.pad == layer.size - 1
    return [("size", layer.size), ("stride", layer.stride), *([] if usual else [("padding", layer.pad)])]


def _route(layer: s.Route, references: str) -> Lines:
    slices: Lines = [("groups", layer.groups), ("group_id", layer.group_id)] if layer.groups > 1 else []
    return [("layers", references), *slices]


def _shortcut(layer: s.Shortcut, references: str) -> Lines:
    return [("from", references), *_weighting(layer), ("activation", layer.activation), *layer.neuron.lines()]


def _weighting(layer: s.Shortcut) -> Lines:
    if not layer.weighted:
        return []
    return [("weights_type", layer.weights_type), ("weights_normalization", layer.weights_normalization)]


def _activation(layer: s.Activation, references: str) -> Lines:
    return [("activation", layer.activation), *layer.neuron.lines()]


def _fit(layer: s.Fitted, references: str) -> Lines:
    steps: Lines = [("stride", layer.stride)] if layer.stride > 1 else []
    return [
        ("from", references),
        ("filters", layer.filters),
        *steps,
        *([("spread", layer.spread)] * (layer.spread > 1)),
    ]


def _head(layer: s.Detect) -> Lines:
    return [
        ("anchors", ", ".join(f"{_number(w)},{_number(h)}" for w, h in layer.anchors)),
        ("num", len(layer.anchors)),
        ("classes", layer.classes),
    ]


def _rnn(layer: s.SpikingRnn, references: str) -> Lines:
    lines: Lines = [("output", layer.filters)]
    lines += [("sends", layer.sends)] if layer.sends != "spikes" else []
    lines += [("step_norm", layer.step_norm)] if layer.step_norm else []
    return [*lines, *layer.neuron.lines()]


def _sequence(layer: s.SequenceOutput, references: str) -> Lines:
    lines: Lines = [("predicts", layer.predicts), ("at", layer.at)]
    lines += [("data", layer.data)] if layer.data else []
    return lines + ([("order", layer.order)] if layer.order != "pixels" else [])


def _region(layer: s.Region, references: str) -> Lines:
    tree: Lines = [("tree", layer.tree), ("parents", ",".join(map(str, layer.parents)))] if layer.parents else []
    return [*_head(layer), ("coords", 4), ("softmax", int(layer.softmax)), *tree]


def _yolo(layer: s.Yolo, references: str) -> Lines:
    lines: Lines = [("mask", ",".join(map(str, layer.mask))), *_head(layer)]
    lines += [("scale_x_y", _number(layer.scale_x_y))] if layer.scale_x_y != 1 else []
    lines += [("nms_kind", layer.nms_kind)] if layer.nms_kind != "default" else []
    lines += [("beta_nms", _number(layer.beta_nms))] if layer.beta_nms != 0.6 else []
    return lines + ([("new_coords", 1)] if layer.new_coords else [])


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


KEYS: dict[type[s.Layer], Callable[[Any, str], Lines]] = {  # (layer, the sources it names) -> keys and values
    s.Conv: _conv,
    s.TransposedConv: _transposed,
    s.MaxPool: _pool,
    s.AvgPool: lambda layer, references: [],
    s.LocalAvgPool: _pool,
    s.Upsample: lambda layer, references: [("stride", layer.stride), *([("zeros", 1)] if layer.zeros else [])],
    s.Route: _route,
    s.Shortcut: _shortcut,
    s.Activation: _activation,
    s.Fitted: _fit,
    s.SqueezeExcite: lambda layer, references: [("squeeze", layer.squeeze)],
    s.ScaleChannels: lambda layer, references: [("from", references), ("activation", layer.activation)],
    s.Product: lambda layer, references: [("from", references), ("activation", layer.activation)],
    s.Implicit: lambda layer, references: [("filters", layer.filters)],
    s.Informed: lambda layer, references: [("from", references)],
    s.Reorg3d: lambda layer, references: [("stride", layer.stride)],
    s.Dropout: lambda layer, references: [("probability", _number(layer.probability))],
    s.Reorg: lambda layer, references: [("stride", layer.stride)],
    s.Yolo: _yolo,
    s.Connected: _connected,
    s.Crop: _crop,
    s.Softmax: _softmax,
    s.Segment: _segment,
    s.Region: _region,
    s.SpikingRnn: _rnn,
    s.Lstm: lambda layer, references: [("output", layer.filters)],
    s.SequenceOutput: _sequence,
}
