"""The convolutions that end in a detection head, and giving them another number of classes."""

from __future__ import annotations

from dataclasses import replace

from utils.darknet import spec as s
from utils.errors import InputError


def head_convolutions(spec: s.ModelSpec) -> dict[int, int]:
    """Layer number of each [yolo] -> that of the convolution whose filters are its predictions.

    Raises:
        InputError: a head is not fed by one convolution.
    """
    found = {}
    for i in spec.heads:
        j = spec.layers[i].sources[0]
        if j < 0 or not isinstance(spec.layers[j], s.Conv):
            raise InputError(f"cfg line {spec.layers[i].line}: [yolo] must follow a [convolutional]")
        found[i] = j
    return found


def rehead(spec: s.ModelSpec, classes: int, *, scale_x_y: float | None = None) -> s.ModelSpec:
    """The same network for another number of classes: the heads and the filters of the convolutions before them.

    ``scale_x_y`` changes how far a cell reaches, which only heads that are trained anew can follow.
    """
    layers = list(spec.layers)
    for i, j in head_convolutions(spec).items():
        yolo, conv = layers[i], layers[j]
        assert isinstance(yolo, s.Yolo) and isinstance(conv, s.Conv)
        layers[i] = replace(yolo, classes=classes, scale_x_y=scale_x_y or yolo.scale_x_y)
        layers[j] = replace(conv, filters=len(yolo.mask) * (classes + 5))
    return replace(spec, layers=tuple(layers))
