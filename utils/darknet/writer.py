"""Write a ModelSpec as the text of a Darknet cfg; ``parse_cfg(write_cfg(spec)) == spec``."""

from __future__ import annotations

from collections.abc import Iterable

from utils.darknet import spec as s

NEAR = 8  # references further back than this are written as absolute layer numbers, as the published cfgs do

Lines = list[tuple[str, object]]


def write_cfg(spec: s.ModelSpec) -> str:
    """The cfg's text, one section a layer.

    Raises:
        ValueError: a layer reads something else than its predecessor where a cfg has no key for that.
    """
    parts = [_section("net", spec.net)]
    for i, layer in enumerate(spec.layers):
        kind, lines = _layer(i, layer)
        parts.append(_section(kind, [*lines, *layer.options]))
    return "\n".join(parts)


def _section(kind: str, lines: Iterable[tuple[str, object]]) -> str:
    return "".join([f"[{kind}]\n", *(f"{key}={value}\n" for key, value in lines)])


def _reference(i: int, j: int) -> str:
    return str(j - i if i - j <= NEAR else j)


def _layer(i: int, layer: s.Layer) -> tuple[str, Lines]:
    if not isinstance(layer, s.Route) and layer.sources[0] != i - 1:
        raise ValueError(f"layer {i} reads layer {layer.sources[0]}: a cfg can only say that by a [route]")
    rest = ",".join(_reference(i, j) for j in layer.sources[1:])
    match layer:
        case s.Kernel():
            return _kernel(layer)
        case s.MaxPool():
            usual = layer.pad == layer.size - 1
            return "maxpool", [
                ("size", layer.size),
                ("stride", layer.stride),
                *([] if usual else [("padding", layer.pad)]),
            ]
        case s.Route():
            lines: Lines = [("layers", ",".join(_reference(i, j) for j in layer.sources))]
            return "route", lines + (
                [("groups", layer.groups), ("group_id", layer.group_id)] if layer.groups > 1 else []
            )
        case s.Shortcut():
            return "shortcut", [("from", rest), *_weighting(layer), ("activation", layer.activation)]
        case s.ScaleChannels():
            return "scale_channels", [("from", rest), ("activation", layer.activation)]
        case s.Reorg():
            return "reorg", [("stride", layer.stride)]
        case s.Upsample():
            return "upsample", [("stride", layer.stride), *([("zeros", 1)] if layer.zeros else [])]
        case s.SqueezeExcite():
            return "se", [("squeeze", layer.squeeze)]
        case s.AvgPool():
            return "avgpool", []
        case s.Dropout():
            return "dropout", [("probability", _number(layer.probability))]
        case s.Yolo():
            return "yolo", _yolo(layer)
        case s.Region():
            return "region", _region(layer)
    raise ValueError(f"layer {i}: {type(layer).__name__} has no cfg section")


def _kernel(layer: s.Kernel) -> tuple[str, Lines]:
    lines: Lines = [("batch_normalize", 1)] if layer.bn else []
    lines += [("filters", layer.filters), ("size", layer.size)]
    kind, dilation = "convolutional", 1
    if isinstance(layer, s.TransposedConv):
        kind = "transposed_convolutional"
        lines.append(("stride", layer.stride))
    elif isinstance(layer, s.Conv):
        dilation, (vertical, horizontal) = layer.dilation, layer.stride
        same = vertical == horizontal
        lines += [("stride", vertical)] if same else [("stride_y", vertical), ("stride_x", horizontal)]
    if layer.pad == layer.size // 2 * dilation:
        lines.append(("pad", 1))
    else:
        lines.append(("padding", layer.pad // dilation))
    lines += [("groups", layer.groups)] if layer.groups > 1 else []
    lines += [("dilation", dilation)] if dilation > 1 else []
    return kind, [*lines, ("activation", layer.activation)]


def _weighting(layer: s.Shortcut) -> Lines:
    if not layer.weighted:
        return []
    return [("weights_type", layer.weights_type), ("weights_normalization", layer.weights_normalization)]


def _head(layer: s.Detect) -> Lines:
    return [
        ("anchors", ", ".join(f"{_number(w)},{_number(h)}" for w, h in layer.anchors)),
        ("num", len(layer.anchors)),
        ("classes", layer.classes),
    ]


def _region(layer: s.Region) -> Lines:
    return [*_head(layer), ("coords", 4), ("softmax", int(layer.softmax))]


def _yolo(layer: s.Yolo) -> Lines:
    lines: Lines = [("mask", ",".join(map(str, layer.mask))), *_head(layer)]
    lines += [("scale_x_y", _number(layer.scale_x_y))] if layer.scale_x_y != 1 else []
    return lines + ([("new_coords", 1)] if layer.new_coords else [])


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)
