"""Layers that read what they made at the step before, and the output of the networks that may have them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from utils.darknet.layers import Layer
from utils.darknet.neuron_spec import NeuronKeys
from utils.darknet.output_layers import Output


@dataclass(frozen=True, kw_only=True)
class Recurrent(Layer):
    """``filters`` units, each of which reads every value it is given and what every unit made at the step before.

    ``neuron_kind`` is the neuron that its units are, "" where they are none.
    """

    neuron_kind: ClassVar[str] = ""
    filters: int


@dataclass(frozen=True, kw_only=True)
class SpikingRnn(Recurrent):
    """Units that are neurons with state: what comes back to them are spikes.

    ``sends``: what later layers read, ``spikes``, or the ``membrane`` as it is before the reset. ``step_norm``: batch
    norm of what comes in and of what comes back, with statistics of their own for each of the first so many steps; a
    later step has those of the last. 0: none.
    """

    neuron: NeuronKeys = field(default_factory=NeuronKeys)
    sends: str = "spikes"
    step_norm: int = 0


@dataclass(frozen=True, kw_only=True)
class LifRnn(SpikingRnn):
    """``[lif_rnn]``: leaky integrate-and-fire units."""

    neuron_kind: ClassVar[str] = "lif"


@dataclass(frozen=True, kw_only=True)
class LtcRnn(SpikingRnn):
    """``[ltc_rnn]``: units of liquid time constants, whose gates read every unit's current and state."""

    neuron_kind: ClassVar[str] = "ltc"


@dataclass(frozen=True, kw_only=True)
class Lstm(Recurrent):
    """``[lstm]``: long short-term memory, whose values are analog; what the spiking ones are compared with."""


@dataclass(frozen=True, kw_only=True)
class SequenceOutput(Output):
    """``[sequence]``: what a network says of a sequence, a map of its source at every step.

    ``predicts``: a ``class`` (scores) or a ``value``. ``at``: the loss looks at the ``last`` step or at ``every`` one.
    ``data`` names the set where --data does not; ``order`` is how a picture becomes a sequence: its ``pixels`` one by
    one, the same in an order that is drawn once (``permuted``), or its ``rows``.
    """

    predicts: str = "class"
    at: str = "last"
    data: str = ""
    order: str = "pixels"
