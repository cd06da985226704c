"""What an activation makes of a current that does not change, and of none: what pruning asks of it."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from utils.darknet.activations import ACTIVATIONS, keeps_zero
from utils.darknet.firing import constant_response
from utils.darknet.neuron_spec import NEURONS
from utils.darknet.ops import activation_of
from utils.darknet.spec import Layer, ModelSpec


def response(spec: ModelSpec, layer: Layer) -> Callable[[Tensor], Tensor]:
    """The activation of a layer as a function of a constant; of a neuron the mean of what it sends over its steps."""
    name = activation_of(layer)
    if name not in NEURONS:
        return ACTIVATIONS[name]
    return constant_response(spec.neuron_of(layer))  # type: ignore[arg-type]


def is_silent_at_zero(name: str) -> bool:
    """Whether an activation makes 0 of 0, as every neuron does: thresholds are above 0."""
    return name in NEURONS or keeps_zero(name)
