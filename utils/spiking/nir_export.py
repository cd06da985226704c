"""Layerwise mode in NIR, with nothing but NIR's own nodes (--dialect exact): whatever an importer makes of resets.

NIR (Pedersen et al., Neuromorphic Intermediate Representation, Nature Communications 2024; nir.readthedocs.io) has an
IF whose membrane falls to ``v_reset``, which loses what was above the threshold: the soft reset would be lost. It is
written out instead, as ``I`` (an integrator), ``Threshold``, and a ``Scale`` by -theta back into the integrator, which
acts one step later. The rest is gates: an input ``start``, one pulse of ones at step 0, charges every neuron with its
bias, half a threshold and minus more than it can ever receive; ``Delay`` hands it that back when its window opens, and
takes it away again when the window, and with it the highest level, is over. A max pool is the OR of its trains: a sum
of spikes and a threshold of one half. A concat into a convolution is several convolutions into one neuron.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.darknet import spec as s
from utils.darknet.shapes import channels, sizes
from utils.darknet.walk import rule, run
from utils.files import writing
from utils.quantization.integer import IntShortcut, Requantiser
from utils.quantization.validate import readouts
from utils.spiking.nir_check import check_nir, nir_package
from utils.spiking.spike_schedule import SpikingNetwork

Array = NDArray[np.float64]
IMAGE, START = "image", "start"


@dataclass(frozen=True)
class Part:
    """A stretch of an edge: the channels ``of`` a node's output, which has ``width`` of them."""

    node: str
    of: tuple[int, ...]
    width: int


Parts = tuple[Part, ...]


@dataclass
class NirGraph:
    """Nodes and edges as they come up."""

    nodes: dict[str, Any] = field(default_factory=dict)
    edges: list[tuple[str, str]] = field(default_factory=list)

    def add(self, name: str, node: Any, *sources: str) -> str:
        """A node that reads others; returns its name."""
        self.nodes[name] = node
        self.edges += [(source, name) for source in sources]
        return name


def write_nir(path: str | Path, network: SpikingNetwork, height: int, width: int) -> Path:
    """Write a ``.nir`` file for images of ``height`` x ``width`` px.

    Raises:
        InputError: the package is missing, or the network has something that NIR cannot hold; names the layer.
    """
    nir = nir_package()
    graph = to_nir(network, height, width)
    with writing(Path(path)) as temporary:
        nir.write(str(temporary), graph)
    return Path(path)


def to_nir(network: SpikingNetwork, height: int, width: int) -> Any:
    """The graph, a ``nir.NIRGraph``.

    Inputs: ``image``, the pixel levels 0..255 [C,H,W] at step 0 and nothing after, and ``start``, ones [1,H,W] at step
    0. A step is one unit of ``Delay``. Outputs: a membrane ``output_<layer>`` for each read-out, which after
    ``metadata["steps"]`` steps holds the accumulator; times ``scale_<layer>`` it is the head's value.

    Raises:
        InputError: the package is missing, or the network has something that NIR cannot hold; names the layer.
    """
    nir = nir_package()
    check_nir(network.integer, height, width)
    integer, wide = network.integer, channels(network.spec)
    graph = NirGraph()
    size = sizes(network.spec, height, width)
    graph.add(IMAGE, nir.Input(np.array([wide[-1], height, width])))
    graph.add(START, nir.Input(np.array([1, height, width])))
    builder = _Builder(nir, graph, network, size)

    def step(i: int, layer: s.Layer, given: list[Parts]) -> Parts:
        moved = rule(NODES, layer, "node in NIR")(builder, i, layer, given)
        if i in integer.ops and i not in ends:
            return (Part(f"fire_{i}", tuple(range(wide[i])), wide[i]),)
        return moved

    ends = readouts(network.spec)
    image: Parts = (Part(IMAGE, tuple(range(wide[-1])), wide[-1]),)
    run(network.spec, image, step)
    graph_of_all = nir.NIRGraph(graph.nodes, graph.edges, type_check=False)
    graph_of_all.metadata = builder.metadata()
    return graph_of_all


@dataclass
class _Builder:
    nir: Any
    graph: NirGraph
    network: SpikingNetwork
    size: dict[int, tuple[int, int]]

    def metadata(self) -> dict[str, Any]:
        """What a reader wants to know; nothing in it is needed to run the graph."""
        scales = {
            f"scale_{i}": self.network.integer.conv(i)[1].scale.numpy()  # type: ignore[union-attr]
            for i in readouts(self.network.spec)
        }
        return {"mode": "phase", "window": self.network.window, "steps": self.network.latency, **scales}

    def conv(self, i: int, layer: s.Conv, sources: list[Parts]) -> Parts:
        """A convolution for every part of the input, all into one integrator."""
        given = sources[0]
        _, op = self.network.integer.conv(i)
        by = op.requantiser
        gain = np.ones(layer.filters) if by is None else by.multiplier.numpy().astype(np.float64)
        weight = op.weight.numpy().astype(np.float64) * gain[:, None, None, None]
        names, at = [], 0
        for k, part in enumerate(given):
            size = self.size[layer.sources[0]]
            node = self._conv2d(part_weights(weight, layer, part, at), size, layer.stride, layer.pad, layer.dilation)
            names.append(self.graph.add(f"conv_{i}_{k}", node, part.node))
            at += len(part.of)
        bias = op.bias.numpy().astype(np.float64) * gain
        if by is None:
            self._integrator(i, f"output_{i}", names, bias)
        else:
            largest = np.abs(weight).sum((1, 2, 3)).max() * self.network.integer.reach_into(i) + np.abs(bias).max()
            self._neuron(i, by, names, bias, largest)
        return ()

    def shortcut(self, i: int, layer: s.Shortcut, given: list[Parts]) -> Parts:
        """Every part of every source through a 1x1 convolution that holds its gain, all into one integrator."""
        op = self.network.integer.ops[i]
        assert isinstance(op, IntShortcut)
        wide = channels(self.network.spec)[i]
        gains = op.gains.numpy().astype(np.float64) * float(op.requantiser.multiplier[0])
        names = []
        for source, (j, gain) in enumerate(zip(layer.sources, gains, strict=True)):
            at = 0
            for k, part in enumerate(given[source]):
                weight = np.zeros((wide, part.width, 1, 1))
                for n, channel in enumerate(part.of):
                    weight[at + n, channel] = gain[at + n] if len(gain) > 1 else gain[0]
                at += len(part.of)
                node = self._conv2d(weight, self.size[j])
                names.append(self.graph.add(f"add_{i}_{source}_{k}", node, part.node))
        largest = float(np.abs(gains).sum(0).max()) * self.network.integer.reach_into(i)
        self._neuron(i, op.requantiser, names, np.zeros(wide), largest)
        return ()

    def pool(self, i: int, layer: s.MaxPool, sources: list[Parts]) -> Parts:
        """The OR of the trains: ones over each window, and a threshold of one half."""
        before, after = layer.pad // 2, layer.pad - layer.pad // 2
        pad = max(before, after)
        side = layer.size + 2 * pad - layer.pad
        ones = np.zeros((side, side))
        ones[pad - before : pad - before + layer.size, pad - before : pad - before + layer.size] = 1
        made = []
        for k, part in enumerate(sources[0]):
            weight = np.eye(part.width)[:, :, None, None] * ones
            node = self._conv2d(weight, self.size[layer.sources[0]], (layer.stride, layer.stride), pad)
            name = self.graph.add(f"sum_{i}_{k}", node, part.node)
            shape = (part.width, *self.size[i])
            name = self.graph.add(f"or_{i}_{k}", self.nir.Threshold(np.full(shape, 0.5)), name)
            made.append(Part(name, part.of, part.width))
        return tuple(made)

    def _neuron(self, i: int, by: Requantiser, charges: list[str], bias: Array, largest: float) -> None:
        """Integrator, threshold, soft reset, and the three gates of its window."""
        theta, opens = 2.0**by.shift, self.network.start[i] * self.network.window
        shut = 2.0 ** np.ceil(np.log2(2 * largest + 2 * theta))
        body = self._integrator(i, f"membrane_{i}", charges, bias + theta / 2 - shut)
        for name, step, sign in (("open", opens, 1.0), ("close", opens + by.qmax, -1.0)):
            delay = self.graph.add(f"{name}_{i}", self.nir.Delay(np.full((1, *self.size[-1]), float(step))), START)
            self._pulse(i, f"{name}ing_{i}", np.full(len(bias), sign * shut), delay, body)
        shape = (len(bias), *self.size[i])
        fire = self.graph.add(f"fire_{i}", self.nir.Threshold(np.full(shape, theta - min(theta, 1.0) / 4)), body)
        reset = self.graph.add(f"reset_{i}", self.nir.Scale(np.full(shape, -theta)), fire)
        self.graph.edges.append((reset, body))

    def _integrator(self, i: int, name: str, charges: list[str], start: Array) -> str:
        body = self.graph.add(name, self.nir.I(np.ones((len(start), *self.size[i]))), *charges)
        self._pulse(i, f"starting_{i}", start, START, body)
        if name.startswith("output"):
            shape = np.array([len(start), *self.size[i]])
            self.graph.add(f"read_{i}", self.nir.Output(shape), body)
        return body

    def _pulse(self, i: int, name: str, charge: Array, source: str, target: str) -> None:
        """The start pulse, brought to the layer's size and times a charge for every channel."""
        stride = tuple(-(-whole // part) for whole, part in zip(self.size[-1], self.size[i], strict=True))
        node = self._conv2d(charge[:, None, None, None], self.size[-1], (stride[0], stride[1]))
        self.graph.add(name, node, source)
        self.graph.edges.append((name, target))

    def _conv2d(
        self,
        weight: Array,
        size: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        pad: int = 0,
        dilation: int = 1,
    ) -> Any:
        """Never grouped: nir takes the weights' second side for the channels that come in, and refuses groups."""
        bias = np.zeros(len(weight))
        return self.nir.Conv2d(size, weight, stride, (pad, pad), (dilation, dilation), 1, bias)


NODES: dict[type[s.Layer], Callable[[_Builder, int, Any, list[Parts]], Parts]] = {  # what is left of it to its readers
    s.Conv: _Builder.conv,
    s.Shortcut: _Builder.shortcut,
    s.MaxPool: _Builder.pool,
    s.Route: lambda builder, i, layer, given: tuple(part for source in given for part in slice_parts(source, layer)),
    s.Dropout: lambda builder, i, layer, given: given[0],
    s.Fitted: lambda builder, i, layer, given: _first(given[0], layer.filters),
    s.Output: lambda builder, i, layer, given: (),
}


def _first(source: Parts, channels: int) -> Parts:
    """The first channels of a source; those that a sum has beyond them get nothing."""
    taken: list[Part] = []
    for part in source:
        more = part.of[: channels - sum(len(before.of) for before in taken)]
        if more:
            taken.append(Part(part.node, more, part.width))
    return tuple(taken)


def slice_parts(source: Parts, layer: s.Route) -> Parts:
    """The channels that a route takes of one source."""
    flat = [(part, channel) for part in source for channel in part.of]
    share = len(flat) // layer.groups
    taken: list[Part] = []
    for part, channel in flat[layer.group_id * share : (layer.group_id + 1) * share]:
        if taken and taken[-1].node == part.node:
            taken[-1] = Part(part.node, (*taken[-1].of, channel), part.width)
        else:
            taken.append(Part(part.node, (channel,), part.width))
    return tuple(taken)


def part_weights(weight: Array, layer: s.Conv, part: Part, at: int) -> Array:
    """[O, width of the part's node, k, k]: the weights of a stretch of the input, dense, zeros where none are."""
    out = np.zeros((layer.filters, part.width, layer.size, layer.size))
    each, into = weight.shape[1], layer.filters // layer.groups
    for n, channel in enumerate(part.of):
        group, k = divmod(at + n, each)
        rows = slice(group * into, (group + 1) * into)
        out[rows, channel] += weight[rows, k]
    return out
