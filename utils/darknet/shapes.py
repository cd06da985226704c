"""Channels, strides and sizes of every layer, from the graph alone; the validator of a ModelSpec."""

from __future__ import annotations

from fractions import Fraction

from utils.darknet import spec as s
from utils.errors import InputError


def channels(spec: s.ModelSpec, name: str = "cfg") -> dict[int, int]:
    """Output channels per layer number (-1: the image).

    Raises:
        InputError: widths that do not fit together, or a layer that reads one not yet made; with file and line.
    """
    width = {-1: spec.channels}
    for i, layer in enumerate(spec.layers):
        place = f"{name} line {layer.line}"
        for j in layer.sources:
            if j not in width:
                raise InputError(f"{place}: layer {i} reads layer {j}, which does not come before it")
        width[i] = _channels(layer, [width[j] for j in layer.sources], place)
    return width


def _channels(layer: s.Layer, given: list[int], place: str) -> int:
    match layer:
        case s.Kernel():
            if given[0] % layer.groups or layer.filters % layer.groups:
                raise InputError(
                    f"{place}: groups={layer.groups} divides neither or only one of {given[0]} channels in "
                    f"and {layer.filters} filters; it must divide both"
                )
            return layer.filters
        case s.Shortcut() | s.ScaleChannels() if len(set(given)) > 1:
            kind = "shortcut" if isinstance(layer, s.Shortcut) else "scale_channels"
            joined, layers = " and ".join(map(str, given)), " and ".join(map(str, layer.sources))
            raise InputError(f"{place}: {kind} of layers {layers} joins {joined} channels")
        case s.Route():
            for n in given:
                if n % layer.groups:
                    raise InputError(f"{place}: route cuts {n} channels into groups={layer.groups}")
            return sum(n // layer.groups for n in given)
        case s.Reorg():
            if given[0] % layer.stride**2:
                raise InputError(
                    f"{place}: [reorg] with stride={layer.stride} reads {given[0]} channels; "
                    f"it takes a multiple of {layer.stride**2}"
                )
            return given[0] * layer.stride**2
        case s.Detect() if given[0] != layer.filters:
            kind, own = ("yolo", "masks") if isinstance(layer, s.Yolo) else ("region", "anchors")
            needed, count = layer.filters, len(layer.own_anchors)
            raise InputError(
                f"{place}: [{kind}] reads {given[0]} channels but needs {needed} = {count} {own} x "
                f"({layer.classes} classes + 5); set filters={needed} in the convolution before it"
            )
    return given[0]


def strides(spec: s.ModelSpec) -> dict[int, Fraction]:
    """Input px per output px, vertically, of every layer (-1: the image, 1); 0 from a global pooling on."""
    stride = {-1: Fraction(1)}
    for i, layer in enumerate(spec.layers):
        given = stride[layer.sources[-1]]
        match layer:
            case s.Conv():
                stride[i] = given * layer.stride[0]
            case s.MaxPool() | s.Reorg():
                stride[i] = given * layer.stride
            case s.Upsample() | s.TransposedConv():
                stride[i] = given / layer.stride
            case s.AvgPool():
                stride[i] = Fraction(0)
            case _:
                stride[i] = given
    return stride


def sizes(spec: s.ModelSpec, height: int, width: int) -> dict[int, tuple[int, int]]:
    """Output (height, width) in px of every layer for an image of the given size.

    Raises:
        InputError: maps of different size are joined, or one cannot be parted (the image is no multiple of the stride).
    """
    size = {-1: (height, width)}
    for i, layer in enumerate(spec.layers):
        given = [size[j] for j in layer.sources]
        size[i] = _size(layer, given)
        if len(set(given)) > 1 and not isinstance(layer, s.ScaleChannels):
            joined = " and ".join(f"{h}x{w}" for h, w in given)
            raise InputError(
                f"cfg line {layer.line}: layer {i} joins maps of {joined} px at an image of {height}x{width}; "
                f"use --img-size a multiple of {granularity(spec)}"
            )
        if isinstance(layer, s.Reorg) and any(side % layer.stride for side in given[0]):
            raise InputError(
                f"cfg line {layer.line}: [reorg] with stride={layer.stride} cannot part a map of "
                f"{given[0][0]}x{given[0][1]} px; use --img-size a multiple of {granularity(spec)}"
            )
    return size


def densities(spec: s.ModelSpec) -> dict[int, Fraction]:
    """Share of each layer's values (-1: the image) that are no inserted zeros: 1, but behind an [upsample] with zeros.

    What computes, or mixes neighbours, fills the zeros.
    """
    width, dense = channels(spec), {-1: Fraction(1)}
    for i, layer in enumerate(spec.layers):
        given = [dense[j] for j in layer.sources]
        match layer:
            case s.Upsample():
                dense[i] = given[0] / (layer.stride**2 if layer.zeros else 1)
            case s.Route():
                parts = [width[j] // layer.groups for j in layer.sources]
                dense[i] = sum((d * n for d, n in zip(given, parts, strict=True)), Fraction(0)) / sum(parts)
            case s.Dropout() | s.Output():
                dense[i] = given[0]
            case _:
                dense[i] = Fraction(1)
    return dense


def granularity(spec: s.ModelSpec) -> int:
    """The image's sides must be multiples of this: the largest stride of the network."""
    return max(1, *(int(value) for value in strides(spec).values()))


def _size(layer: s.Layer, given: list[tuple[int, int]]) -> tuple[int, int]:
    h, w = given[-1]
    match layer:
        case s.Conv():
            reach = layer.dilation * (layer.size - 1) + 1
            return tuple((x + 2 * layer.pad - reach) // step + 1 for x, step in zip((h, w), layer.stride, strict=True))  # type: ignore[return-value]
        case s.MaxPool():
            return tuple((x + layer.pad - layer.size) // layer.stride + 1 for x in (h, w))  # type: ignore[return-value]
        case s.Upsample() | s.TransposedConv():
            return h * layer.stride, w * layer.stride
        case s.Reorg():
            return h // layer.stride, w // layer.stride
        case s.AvgPool():
            return 1, 1
    return h, w
