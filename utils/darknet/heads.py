"""The convolutions that end in a detection head, and giving them another number of classes."""

from __future__ import annotations

from dataclasses import replace

from utils.darknet import spec as s
from utils.errors import InputError


def head_convolutions(spec: s.ModelSpec) -> dict[int, int]:
    """Layer number of each head -> that of the convolution whose filters are its predictions.

    Raises:
        InputError: a head is not fed by one convolution.
    """
    found, kernels = {}, spec.kernels
    for i in spec.heads:
        j = spec.layers[i].sources[0]
        if j not in kernels:
            raise InputError(f"cfg line {spec.layers[i].line}: a detection head must follow a [convolutional]")
        found[i] = j
    return found


def rehead(spec: s.ModelSpec, classes: int, *, scale_x_y: float | None = None) -> s.ModelSpec:
    """The same network for another number of classes: the heads and the filters of the convolutions before them.

    ``scale_x_y`` changes how far a cell of a [yolo] reaches, which only heads that are trained anew can follow; a
    [region] has no such key.
    """
    layers, kernels = list(spec.layers), spec.kernels
    for i, j in head_convolutions(spec).items():
        head, conv = layers[i], kernels[j]
        assert isinstance(head, s.Detect)
        head = replace(head, classes=classes)
        if scale_x_y and isinstance(head, s.Yolo):
            head = replace(head, scale_x_y=scale_x_y)
        layers[i], layers[j] = head, replace(conv, filters=head.filters)
    return replace(spec, layers=tuple(layers))
