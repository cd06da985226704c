"""The convolutions that end in a network's outputs, and giving them another number of classes."""

from __future__ import annotations

from dataclasses import replace

from utils.darknet import spec as s
from utils.darknet.shapes import channels
from utils.errors import InputError


def head_convolutions(spec: s.ModelSpec) -> dict[int, int]:
    """Layer number of each output -> that of the convolution whose filters are its predictions.

    A class may be the average of such a convolution's map.

    Raises:
        InputError: an output is not fed by one convolution.
    """
    found, kernels = {}, spec.kernels
    for i in spec.heads:
        j = spec.layers[i].sources[0]
        while isinstance(spec.layers[i], s.Classify) and j >= 0 and isinstance(spec.layers[j], s.AvgPool | s.Dropout):
            j = spec.layers[j].sources[0]
        if j not in kernels:
            what = "a detection head" if isinstance(spec.layers[i], s.Detect) else "an output"
            raise InputError(f"cfg line {spec.layers[i].line}: {what} must follow a [convolutional]")
        found[i] = j
    return found


def class_count(spec: s.ModelSpec) -> int:
    """How many classes the outputs tell apart; 0 where there is no output."""
    detectors = [layer.classes for layer in spec.layers if isinstance(layer, s.Detect)]
    if detectors or not spec.heads:
        return max(detectors, default=0)
    return channels(spec)[spec.heads[-1]]


def rehead(spec: s.ModelSpec, classes: int, *, scale_x_y: float | None = None) -> s.ModelSpec:
    """The same network for another number of classes: the heads and the filters of the convolutions before them.

    ``scale_x_y`` changes how far a cell of a [yolo] reaches, which only heads that are trained anew can follow; a
    [region] has no such key.
    """
    layers, kernels = list(spec.layers), spec.kernels
    for i, j in head_convolutions(spec).items():
        head, conv = layers[i], kernels[j]
        if not isinstance(head, s.Detect):
            layers[j] = replace(conv, filters=classes)
            continue
        head = replace(head, classes=classes)
        if scale_x_y and isinstance(head, s.Yolo):
            head = replace(head, scale_x_y=scale_x_y)
        layers[i], layers[j] = head, replace(conv, filters=head.filters)
    return replace(spec, layers=tuple(layers))
