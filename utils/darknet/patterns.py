"""What becomes of a constant channel: what an activation makes of it, and how it lies among zeros.

Behind an [upsample] with zeros or a blur it is a constant among zeros.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

from utils.darknet import spec as s
from utils.darknet.activations import ACTIVATIONS, keeps_zero
from utils.darknet.firing import constant_response
from utils.darknet.neuron_spec import NEURONS
from utils.darknet.ops import activation_of
from utils.darknet.shapes import channels
from utils.darknet.walk import rule, run

# The upsamplings since the zeros came in, of nearest neighbours with a minus sign; of a blur its size and strides.
Pattern = tuple[int | tuple[int, int, int], ...]
Found = tuple[Pattern, tuple[int, ...]]  # behind a layer; the sources whose channels can only stay


def patterns(spec: s.ModelSpec) -> tuple[dict[int, Pattern], dict[int, tuple[int, ...]]]:
    """Follow constant channels through the network.

    Channels of one pattern stand in for one another, whatever their constants: carriers stay exact. Where a pattern
    would meet another one, a pool, or a kernel of its own without batch norm, no constant could stand for it.

    Returns:
        The pattern of every layer's output (-1: the image), () where a constant is one; and the barriers: layer ->
        those of its sources whose channels can only stay.
    """
    barriers: dict[int, tuple[int, ...]] = {}
    width = channels(spec)

    def step(i: int, layer: s.Layer, given: list[Pattern]) -> Pattern:
        found = rule(PATTERNS, layer, "rule for constants among zeros")
        pattern, stopped = found(layer, given, width[layer.sources[0]])
        if not stopped:
            return pattern
        barriers[i] = stopped
        return ()

    return run(spec, (), step), barriers


def _with_pattern(layer: s.Layer, given: list[Pattern]) -> tuple[int, ...]:
    return tuple(j for j, pattern in zip(layer.sources, given, strict=True) if pattern)


def _through_kernel(layer: s.Conv, given: list[Pattern], width: int) -> Found:
    return (), layer.sources if layer.depthwise(width) and not layer.bn and given[0] else ()


def _through_transposed(layer: s.TransposedConv, given: list[Pattern], width: int) -> Found:
    uneven = layer.stride > 1
    return (), layer.sources if layer.depthwise(width) and not layer.bn and (given[0] or uneven) else ()


def _enlarged(layer: s.Upsample, given: list[Pattern], width: int) -> Found:
    spreads = layer.zeros and layer.stride > 1
    step = layer.stride if spreads else -layer.stride
    return (*given[0], step) if given[0] or spreads else (), ()


def _blurred(layer: s.Blur, given: list[Pattern], width: int) -> Found:
    """Its border is darker by the zeros around the map: alike for all constants, and no other layer's."""
    darkens = given[0] or layer.pad > 0
    return (*given[0], (layer.size, *layer.stride)) if darkens else (), ()


def _scaled(layer: s.ScaleChannels, given: list[Pattern], width: int) -> Found:
    kept = not given[0] and is_silent_at_zero(layer.activation)
    return given[-1], () if kept else _with_pattern(layer, given)


def _joined(layer: s.Layer, given: list[Pattern], width: int) -> Found:
    kept = is_silent_at_zero(activation_of(layer)) and len(set(given)) == 1
    return given[-1], () if kept else _with_pattern(layer, given)


def _handed_on(layer: s.Layer, given: list[Pattern], width: int) -> Found:
    return given[-1], ()


def _stopped(layer: s.Layer, given: list[Pattern], width: int) -> Found:
    return given[-1], _with_pattern(layer, given)


PATTERNS: dict[type[s.Layer], Callable[[Any, list[Pattern], int], Found]] = {
    s.Conv: _through_kernel,
    s.TransposedConv: _through_transposed,
    s.Upsample: _enlarged,
    s.Blur: _blurred,
    s.ScaleChannels: _scaled,
    s.Shortcut: _joined,
    s.Activation: _joined,
    s.Route: _joined,
    s.Fitted: lambda layer, given, width: (given[0], layer.sources if layer.spread > 1 or given[0] else ()),
    s.SqueezeExcite: _handed_on,
    s.Dropout: _handed_on,
    s.Output: _handed_on,
    s.Layer: _stopped,  # a pool mixes a constant and the zeros around it
}


def share(pattern: Pattern) -> float:
    """What of a constant's map is not zero: its mean, of a constant of 1, away from borders that a blur darkens."""
    return 1 / math.prod(stride**2 for stride in pattern if isinstance(stride, int) and stride > 0)


def response(spec: s.ModelSpec, layer: s.Layer) -> Callable[[Tensor], Tensor]:
    """The activation of a layer as a function of a constant; of a neuron the mean of what it sends over its steps."""
    name = activation_of(layer)
    if name not in NEURONS:
        return ACTIVATIONS[name]
    return constant_response(spec.neuron_of(layer))  # type: ignore[arg-type]


def is_silent_at_zero(name: str) -> bool:
    """Whether an activation makes 0 of 0, as every neuron does: thresholds are above 0."""
    return name in NEURONS or keeps_zero(name)
