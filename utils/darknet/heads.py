"""The convolutions that end in a network's outputs, and giving them another number of classes."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from utils.darknet import spec as s
from utils.darknet.ops import facts
from utils.darknet.shapes import channels
from utils.errors import InputError

log = logging.getLogger(__name__)


def head_convolutions(spec: s.ModelSpec) -> dict[int, int]:
    """Layer number of each output -> that of the convolution whose filters are its predictions.

    A class may be the average of such a convolution's map.

    Raises:
        InputError: an output is not fed by one convolution.
    """
    found, kernels = {}, spec.kernels
    for i in spec.heads:
        j = spec.layers[i].sources[0]
        while j >= 0 and j not in kernels and _passes(spec.layers[j], spec.layers[i]):
            j = spec.layers[j].sources[0]
        if j not in kernels:
            what = "a detection head" if hasattr(spec.layers[i], "own_anchors") else "an output"
            raise InputError(f"cfg line {spec.layers[i].line}: {what} must follow a [convolutional]")
        found[i] = j
    return found


def _passes(layer: s.Layer, output: s.Layer) -> bool:
    """Whether scores may pass a layer on their way to the output: implicit values, or an average of a class's map."""
    averages = facts(layer).identity or facts(layer).section == "avgpool"
    return isinstance(layer, s.Informed) or (isinstance(output, s.Classify) and averages)


def class_count(spec: s.ModelSpec) -> int:
    """How many classes the outputs tell apart; 0 where there is no output."""
    told = [getattr(spec.layers[i], "classes", channels(spec)[i]) for i in spec.heads]  # a [softmax] does not say
    return max(told, default=0)


def only_output(spec: s.ModelSpec, why: str) -> Any:
    """The one output of a network that has no use for several; ``why`` ends the refusal.

    Raises:
        InputError: there are several.
    """
    first, *more = (spec.layers[i] for i in spec.heads)
    if more:
        section = facts(first).section
        raise InputError(f"cfg line {more[-1].line}: {len(more) + 1} [{section}] layers; keep one, {why}")
    return first


def rehead(spec: s.ModelSpec, classes: int, *, scale_x_y: float | None = None) -> s.ModelSpec:
    """The same network for another number of classes: the heads and the filters of the convolutions before them.

    ``scale_x_y`` changes how far a cell of a [yolo] reaches, which only heads that are trained anew can follow; a
    [region] has no such key.
    """
    layers, kernels = list(spec.layers), spec.kernels
    for i, j in head_convolutions(spec).items():
        head: Any = layers[i]
        if hasattr(head, "classes"):  # a [softmax] does not say
            head = replace(head, classes=classes)
        if getattr(head, "parents", ()) and len(head.parents) != classes:
            head = replace(head, tree="", parents=())  # a hierarchy of other classes
        if scale_x_y and isinstance(head, s.Yolo):
            head = replace(head, scale_x_y=scale_x_y)
        layers[i] = head
        layers[j] = replace(kernels[j], filters=head.filters if hasattr(head, "own_anchors") else classes)
    return replace(spec, layers=tuple(layers))


def fresh_last_layer(spec: s.ModelSpec, classes: int, data: str, place: str, *, fresh: bool) -> s.ModelSpec:
    """A network whose last layer is all that knows its classes, for the ``classes`` of ``data``.

    Raises:
        InputError: it is for others, and ``fresh`` does not allow a new one.
    """
    known = class_count(spec)
    if known == classes:
        return spec
    if not fresh:
        raise InputError(
            f"{place}: an output for {known} classes, {data} has {classes}; "
            f"add -pt to give it a fresh last layer for {classes}, or change the cfg's last filters"
        )
    log.info("%s: the last layer for %d classes replaced by a fresh one for %d (-pt)", place, known, classes)
    return rehead(spec, classes)
