"""The network as data: an immutable list of layers. Here every kind of layer can be had by name."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

from utils.darknet.implicit_layers import ControlChannels, Implicit, ImplicitAdd, ImplicitMul, Informed, ShiftChannels
from utils.darknet.layers import (
    Activated,
    Activation,
    Connected,
    Conv,
    Crop,
    Dropout,
    Fitted,
    Kernel,
    Layer,
    Options,
    Product,
    Reorg,
    Reorg3d,
    Route,
    ScaleChannels,
    Shortcut,
    SqueezeExcite,
    TransposedConv,
    Upsample,
)
from utils.darknet.neuron_spec import NEURONS, NeuronKeys, NeuronSpec, neuron_spec
from utils.darknet.output_layers import (
    Classify,
    Detect,
    GaussianYolo,
    Output,
    Region,
    Segment,
    Softmax,
    TurnedYolo,
    Yolo,
)
from utils.darknet.pool_layers import AvgPool, Blur, LocalAvgPool, MaxPool, Pool
from utils.darknet.recurrent_layers import LifRnn, Lstm, LtcRnn, Recurrent, SequenceOutput, SpikingRnn

__all__ = [
    "Activated",
    "Activation",
    "AvgPool",
    "Blur",
    "Classify",
    "Connected",
    "ControlChannels",
    "Conv",
    "Crop",
    "Detect",
    "Dropout",
    "Fitted",
    "GaussianYolo",
    "Implicit",
    "ImplicitAdd",
    "ImplicitMul",
    "Informed",
    "Kernel",
    "Layer",
    "LifRnn",
    "LocalAvgPool",
    "Lstm",
    "LtcRnn",
    "MaxPool",
    "ModelSpec",
    "Options",
    "Output",
    "Pool",
    "Product",
    "Recurrent",
    "Region",
    "Reorg",
    "Reorg3d",
    "Route",
    "ScaleChannels",
    "Segment",
    "SequenceOutput",
    "ShiftChannels",
    "Shortcut",
    "Softmax",
    "SpikingRnn",
    "SqueezeExcite",
    "TransposedConv",
    "TurnedYolo",
    "Upsample",
    "Yolo",
]


@dataclass(frozen=True, kw_only=True)
class ModelSpec:
    """A whole network: the keys of ``[net]`` and the layers.

    ``net`` holds the keys as written, in order; the properties below are the ones that shape the network. ``neuron`` is
    what ``[net]`` says of all neurons, whose keys ``net`` does not repeat. Properties that search the layers do so
    once, and are read at every forward pass: change none of what they return.
    """

    layers: tuple[Layer, ...]
    net: Options = ()
    neuron: NeuronKeys = field(default_factory=NeuronKeys)

    def _number(self, key: str, default: int) -> int:
        return int(float(dict(self.net).get(key, default)))

    @property
    def height(self) -> int:
        """Input height, px."""
        return self._number("height", 416)

    @property
    def width(self) -> int:
        """Input width, px."""
        return self._number("width", 416)

    @property
    def channels(self) -> int:
        """Image channels."""
        return self._number("channels", 3)

    @property
    def resize(self) -> str:
        """How Darknet fits an image into the network's: "letterbox" where ``letter_box=1``, else "stretch"."""
        return "letterbox" if self._number("letter_box", 0) else "stretch"

    @property
    def resize_here(self) -> str:
        """How it sees images where it is trained here from the start: as its cfg says, else letterboxed."""
        return self.resize if "letter_box" in dict(self.net) else "letterbox"

    def saying(self, resize: str) -> ModelSpec:
        """The same network, ``letter_box`` added or left away so that ``resize`` is this."""
        if self.resize == resize:
            return self
        net = [(key, value) for key, value in self.net if key != "letter_box"]
        return replace(self, net=(*net, *([("letter_box", "1")] if resize == "letterbox" else [])))

    @property
    def batch(self) -> int:
        """Images per optimizer step, as Darknet means ``batch``; 1 in a cfg that was made for inference."""
        return self._number("batch", 1)

    @property
    def subdivisions(self) -> int:
        """Darknet's parts of a batch; a mini-batch is batch / subdivisions images."""
        return max(1, self._number("subdivisions", 1))

    @cached_property
    def heads(self) -> tuple[int, ...]:
        """Layer numbers of the output layers, in cfg order."""
        return tuple(i for i, layer in enumerate(self.layers) if isinstance(layer, Output))

    @cached_property
    def kernels(self) -> dict[int, Kernel]:
        """The layers with a kernel by number, in cfg order."""
        return {i: layer for i, layer in enumerate(self.layers) if isinstance(layer, Kernel)}

    @cached_property
    def convs(self) -> dict[int, Conv]:
        """Those of ``kernels`` that are no transposed ones: all of them where these are written out (`expand`)."""
        return {i: layer for i, layer in enumerate(self.layers) if isinstance(layer, Conv)}

    @cached_property
    def normed(self) -> dict[int, Kernel]:
        """Those of ``kernels`` that have batch norm."""
        return {i: layer for i, layer in self.kernels.items() if layer.bn}

    @cached_property
    def activated(self) -> dict[int, Activated]:
        """The layers that end in an activation by number, in cfg order."""
        return {i: layer for i, layer in enumerate(self.layers) if isinstance(layer, Activated)}

    @property
    def timesteps(self) -> int:
        """Steps that a network with state runs for one image, or of one sequence, T; 1 of others."""
        return self._number("timesteps", 1)

    @property
    def input_frames(self) -> bool:
        """Whether the network is shown T frames, one a step, and not the same image in each."""
        return dict(self.net).get("input", "repeat") == "frames"

    @property
    def reads_last(self) -> bool:
        """Whether outputs are read at the last step, and not as the mean over all of them."""
        return dict(self.net).get("readout", "mean") == "last"

    @cached_property
    def neurons(self) -> dict[int, NeuronSpec]:
        """The activations that keep state by layer, in cfg order."""
        kinds = {i: layer for i, layer in self.activated.items() if layer.activation in NEURONS}
        return {i: self.neuron_of(layer) for i, layer in kinds.items()}

    def neuron_of(self, layer: Activated | SpikingRnn) -> NeuronSpec:
        """A layer's neuron, every choice made."""
        kind = layer.activation if isinstance(layer, Activated) else layer.neuron_kind
        return neuron_spec(kind, layer.neuron, self.neuron, self.timesteps)

    @cached_property
    def recurrent(self) -> dict[int, Recurrent]:
        """The layers that read what they made at the step before by number, in cfg order."""
        return {i: layer for i, layer in enumerate(self.layers) if isinstance(layer, Recurrent)}

    @cached_property
    def stateful(self) -> frozenset[int]:
        """Layers that keep state from step to step: those of ``neurons`` and ``recurrent``."""
        return frozenset(self.neurons) | frozenset(self.recurrent)

    @cached_property
    def last_readers(self) -> dict[int, int]:
        """Edge -> the last layer that reads it; after that layer the edge's value can go."""
        return {j: i for i, layer in enumerate(self.layers) for j in layer.sources}
