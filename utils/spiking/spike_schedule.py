"""IntegerNetwork -> SpikingNetwork: when every layer fires, and for how long."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from utils.darknet.read_outs import written_out
from utils.darknet.shapes import channels, sizes
from utils.darknet.spec import Activated, ModelSpec, ScaleChannels, SqueezeExcite
from utils.errors import InputError
from utils.quantization.integer import IntConv, IntegerNetwork, IntGate, IntShortcut
from utils.quantization.validate import TABLED, readouts

MEMBRANE_BYTES = 4  # of a neuron or a read-out


@dataclass(frozen=True)
class SpikingNetwork:
    """An integer network with a timetable.

    ``start[i]`` is the window in which edge ``i`` fires (the image: 0; a layer of neurons: one after its latest input;
    a layer that only moves spikes: with its latest input). An input that fired in an earlier window waits in a buffer
    of counts. ``window`` is L, the steps of one window: the most spikes any neuron of the network can fire.
    """

    integer: IntegerNetwork
    start: dict[int, int]
    window: int

    @property
    def spec(self) -> ModelSpec:
        """The layers."""
        return self.integer.spec

    @property
    def depth(self) -> int:
        """Layers of neurons on the longest path from the image to a head."""
        return max(self.start.values())

    @property
    def latency(self) -> int:
        """Steps from a frame's first input to its last output: (depth + 1) * L."""
        return (self.depth + 1) * self.window

    @property
    def interval(self) -> int:
        """Steps between frames, all layers busy: L. It is the throughput, never the latency."""
        return self.window

    def describe(self) -> str:
        """Both times, in one line."""
        return (
            f"window L = {self.window} steps; one frame leaves every {self.interval} steps, "
            f"a frame takes {self.latency} steps ((depth {self.depth} + 1) x L)"
        )


def encode(integer: IntegerNetwork) -> SpikingNetwork:
    """Give every layer its window.

    Raises:
        InputError: a layer that integrate-and-fire neurons cannot do; names it, its cfg line and what to retrain.
    """
    check_spikes(integer)
    start, window = {-1: 0}, 1
    for i, layer in enumerate(integer.spec.layers):
        if i not in integer.grids:
            continue
        latest = max(start[j] for j in layer.sources)
        op = integer.ops.get(i)
        start[i] = latest + (op is not None)
        if op is not None:
            by = op.requantiser
            assert by is not None
            window = max(window, by.qmax, -by.qmin)
    return SpikingNetwork(integer, start, window)


def check_spikes(integer: IntegerNetwork) -> None:
    """Refuse what no integrate-and-fire neuron does: a table, a product of two activities.

    A sum's gains may be negative: those synapses inhibit, as a convolution's do. A global average is a neuron a channel
    that every pixel reaches with the same weight, the division in its threshold.

    Raises:
        InputError: as ``encode``.
    """
    gate = next((i for i, op in integer.ops.items() if isinstance(op, IntGate)), None)
    if gate is not None:  # before the tables of its own activations, which no other activation would mend
        raise InputError(
            f"{integer.place(gate)}: [scale_channels] has no spiking form (nor has [se], which it may be of); retrain "
            "a cfg without it (train.py --cfg ... --act relu)"
        )
    for i, op in integer.ops.items():
        if isinstance(op, IntConv | IntShortcut) and op.table is not None:
            activation = getattr(integer.spec.layers[i], "activation", "")
            raise InputError(
                f"{integer.place(i)}: activation={activation} has no spiking form; retrain with one that has "
                f"(train.py --weights ... --act relu={activation}, or leaky-pow2={activation})"
            )


def check_spiking_spec(spec: ModelSpec) -> None:
    """As ``check_spikes``, of a cfg that is not quantised yet.

    Raises:
        InputError: names the layer and its cfg line.
    """
    written, number, _ = written_out(spec)  # an average beside the scores is taken of what leaves the spikes
    old = {new: i for i, new in number.items()}
    read_out = set(readouts(written))
    for new, layer in enumerate(written.layers):
        i = old.get(new, new)
        place, kind = f"layer {i} (cfg line {layer.line})", type(layer).__name__
        if isinstance(layer, ScaleChannels | SqueezeExcite):
            raise InputError(f"{place}: {kind} has no spiking form; end before spikes, or change the cfg")
        if isinstance(layer, Activated) and layer.activation in TABLED and new not in read_out:
            raise InputError(
                f"{place}: activation={layer.activation} has no spiking form; end before spikes, or train it with one "
                "that has (train.py --act relu)"
            )


def spiking_layers(integer: IntegerNetwork) -> tuple[int, ...]:
    """The layers that have neurons: every operation but the read-outs."""
    return tuple(i for i, op in integer.ops.items() if not (isinstance(op, IntConv) and op.requantiser is None))


def state_bytes(network: SpikingNetwork, counts: dict[int, Tensor]) -> int:
    """Membranes of all neurons and read-outs, and counts held for a reader that fires more than one window later."""
    spec, grids, width = network.spec, network.integer.grids, channels(network.spec)
    size = sizes(spec, *counts[-1].shape[2:])
    values = {i: width[i] * size[i][0] * size[i][1] for i in size}
    membranes = sum(values[i] for i in network.integer.ops)
    waiting = set()
    for layer in spec.layers:
        sources = [j for j in layer.sources if j in network.start]
        latest = max((network.start[j] for j in sources), default=0)
        waiting |= {j for j in sources if network.start[j] < latest}
    held = sum(values[j] * _count_bits(grids[j].qmin, grids[j].qmax) for j in waiting)
    return membranes * MEMBRANE_BYTES + (held + 7) // 8


def _count_bits(qmin: int, qmax: int) -> int:
    return max(qmax.bit_length(), (-qmin - 1).bit_length() + 1 if qmin else 0)
