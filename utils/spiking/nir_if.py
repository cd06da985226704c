"""Stream mode in the nodes that simulators import: Conv2d, IF, SumPool2d (--dialect if). Not exact, and said how much.

A level n is a rate of n / L spikes a step, L being the network's window. Gains, scales and thresholds are folded into
the weights, so that every threshold is 1 and every spike is 1; the bias comes a little every step, with the half that
rounds. An image [C,H,W] in 0..1 is shown unchanged in each of ``steps`` steps; what the output adds up to over them is
the head's map. Importers differ from there on: the reset that is meant is by subtraction, which NIR's IF cannot say
(its text sets the membrane to v_reset), and NIR has no max pool: the mean of the window takes its place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from utils.darknet import spec as s
from utils.darknet.shapes import channels, sizes
from utils.darknet.walk import rule, run
from utils.files import writing
from utils.quantization.integer import IntShortcut
from utils.quantization.validate import readouts
from utils.spiking.nir_check import check_nir, nir_package
from utils.spiking.nir_export import IMAGE, Array, NirGraph, Part, Parts, part_weights, slice_parts
from utils.spiking.spike_schedule import SpikingNetwork

OUTPUT = "output"


def write_nir_if(path: str | Path, network: SpikingNetwork, height: int, width: int, steps: int) -> list[Path]:
    """Write ``.nir`` for images of ``height`` x ``width`` px, to be shown for ``steps`` steps.

    Importers take one output, so a network with several heads becomes a file a head: ``net.nir``, or ``net.head15.nir``
    and so on, by the number of the convolution that it reads, each with the part of the network that this one needs.

    Raises:
        InputError: the package is missing, or the network has something that this dialect cannot hold.
    """
    nir, path, ends, made = nir_package(), Path(path), readouts(network.spec), list[Path]()
    graphs = [to_nir_if(network, height, width, steps, end) for end in ends]
    for end, graph in zip(ends, graphs, strict=True):
        made.append(path if len(ends) == 1 else path.with_suffix(f".head{end}{path.suffix}"))
        with writing(made[-1]) as temporary:
            nir.write(str(temporary), graph)
    return made


def to_nir_if(network: SpikingNetwork, height: int, width: int, steps: int, end: int) -> Any:
    """The graph, a ``nir.NIRGraph``: input ``image`` [C,H,W] in 0..1, one output ``output``, the map of layer ``end``.

    Raises:
        InputError: the package is missing, or the network has something that this dialect cannot hold: what no NIR has
            (`check_nir`).
    """
    nir = nir_package()
    check_nir(network.integer, height, width)
    wide, needed = channels(network.spec), _needed(network.spec, end)
    graph, size = NirGraph(), sizes(network.spec, height, width)
    graph.add(IMAGE, nir.Input(np.array([wide[-1], height, width])))
    builder = _IfBuilder(nir, graph, network, size, steps)
    builder.worth[IMAGE] = 255 / network.window

    def step(i: int, layer: s.Layer, given: list[Parts]) -> Parts:
        return rule(NODES, layer, "node in NIR")(builder, i, layer, given) if i in needed else ()

    image: Parts = (Part(IMAGE, tuple(range(wide[-1])), wide[-1]),)
    run(network.spec, image, step)
    made = nir.NIRGraph(graph.nodes, graph.edges, type_check=False)
    made.metadata = builder.metadata(needed) | {"head": end}
    return made


def _needed(spec: s.ModelSpec, end: int) -> set[int]:
    """The layers that ``end`` reads, directly or through others, and itself."""
    found = {end}
    for i in range(end, -1, -1):
        found |= set(spec.layers[i].sources) if i in found else set()
    return found


@dataclass
class _IfBuilder:
    """``worth``: what one unit of a node's output stands for in spikes, where it is not 1."""

    nir: Any
    graph: NirGraph
    network: SpikingNetwork
    size: dict[int, tuple[int, int]]
    steps: int
    worth: dict[str, float] = field(default_factory=dict)

    def metadata(self, needed: set[int]) -> dict[str, Any]:
        """What a reader has to know of these layers: nothing of it is in the nodes."""
        layers = enumerate(self.network.spec.layers)
        pools = [i for i, layer in layers if isinstance(layer, s.MaxPool) and i in needed]
        return {
            "dialect": "if",
            "reset": "subtract",
            "window": self.network.window,
            "steps": self.steps,
            "input": "the image, a pixel n as n / 255, the same in every step",
            "output": "the sum over the steps is the head's map",
            "inexact": "max pools of layers " + ", ".join(map(str, pools)) + " are means" if pools else "",
        }

    def conv(self, i: int, layer: s.Conv, sources: list[Parts]) -> Parts:
        """Per step, of rates: w * m * 2^-f, and a head's w * scale * L / steps."""
        _, op = self.network.integer.conv(i)
        by, window = op.requantiser, self.network.window
        if by is None:
            assert op.scale is not None
            gain, bias = op.scale.numpy() * window / self.steps, op.bias.numpy() * op.scale.numpy() / self.steps
        else:
            gain = by.multiplier.numpy() * 2.0**-by.shift
            bias = op.bias.numpy() * gain / window + 0.5 / self.steps
        weight, names, at = op.weight.numpy() * gain[:, None, None, None], [], 0
        for k, part in enumerate(sources[0]):
            own = part_weights(weight, layer, part, at) * self.worth.get(part.node, 1.0)
            charge = bias if k == 0 else np.zeros(len(bias))
            node = self._conv2d(own, charge, self.size[layer.sources[0]], layer.stride, layer.pad, layer.dilation)
            names.append(self.graph.add(f"conv_{i}_{k}", node, part.node))
            at += len(part.of)
        return self._end(i, names) if by is None else self._fire(i, names)

    def shortcut(self, i: int, layer: s.Shortcut, given: list[Parts]) -> Parts:
        """Every part of every source through a 1x1 convolution that holds its gain, all into one neuron."""
        op = self.network.integer.ops[i]
        assert isinstance(op, IntShortcut)
        wide = channels(self.network.spec)[i]
        gains = op.gains.numpy() * float(op.requantiser.multiplier[0]) * 2.0**-op.requantiser.shift
        half = np.full(wide, 0.5 / self.steps)
        names: list[str] = []
        for source, (j, gain) in enumerate(zip(layer.sources, gains, strict=True)):
            at = 0
            for k, part in enumerate(given[source]):
                weight = np.zeros((wide, part.width, 1, 1))
                for n, channel in enumerate(part.of):
                    weight[at + n, channel] = gain[at + n] if len(gain) > 1 else gain[0]
                at += len(part.of)
                charge = half if not names else np.zeros(wide)
                node = self._conv2d(weight * self.worth.get(part.node, 1.0), charge, self.size[j])
                names.append(self.graph.add(f"add_{i}_{source}_{k}", node, part.node))
        return self._fire(i, names)

    def pool(self, i: int, layer: s.MaxPool, sources: list[Parts]) -> Parts:
        """The sum of the window, whose readers divide; as a convolution where a window hangs over the border."""
        before, inner = layer.pad // 2, self.size[layer.sources[0]]
        hangs = before > 0 or any(
            (out - 1) * layer.stride + layer.size > side for out, side in zip(self.size[i], inner, strict=True)
        )
        made = []
        for k, part in enumerate(sources[0]):
            if hangs:
                after = layer.pad - before
                pad = max(before, after)
                ones = np.zeros((layer.size + 2 * pad - layer.pad,) * 2)
                ones[pad - before :, pad - before :][: layer.size, : layer.size] = 1
                weight = np.eye(part.width)[:, :, None, None] * ones
                node = self._conv2d(weight, np.zeros(part.width), inner, (layer.stride,) * 2, pad)
            else:
                kernel, stride = (np.array([n, n]) for n in (layer.size, layer.stride))
                node = self.nir.SumPool2d(kernel_size=kernel, stride=stride, padding=np.array([0, 0]))
            name = self.graph.add(f"pool_{i}_{k}", node, part.node)
            self.worth[name] = self.worth.get(part.node, 1.0) / layer.size**2
            made.append(Part(name, part.of, part.width))
        return tuple(made)

    def _fire(self, i: int, names: list[str]) -> Parts:
        shape = (channels(self.network.spec)[i], *self.size[i])
        self.graph.add(f"if_{i}", self.nir.IF(r=np.ones(shape), v_threshold=np.ones(shape)), *names)
        return (Part(f"if_{i}", tuple(range(shape[0])), shape[0]),)

    def _end(self, i: int, names: list[str]) -> Parts:
        shape = np.array([channels(self.network.spec)[i], *self.size[i]])
        self.graph.add(OUTPUT, self.nir.Output(shape), *names)
        return ()

    def _conv2d(
        self,
        weight: Array,
        bias: Array,
        size: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        pad: int = 0,
        dilation: int = 1,
    ) -> Any:
        """Dense: nir takes the weights' second side for the channels that come in, and refuses groups."""
        return self.nir.Conv2d(size, weight, stride, (pad, pad), (dilation, dilation), 1, bias)


NODES: dict[type[s.Layer], Callable[[_IfBuilder, int, Any, list[Parts]], Parts]] = {
    s.Conv: _IfBuilder.conv,
    s.Shortcut: _IfBuilder.shortcut,
    s.MaxPool: _IfBuilder.pool,
    s.Route: lambda builder, i, layer, given: tuple(part for source in given for part in slice_parts(source, layer)),
    s.Dropout: lambda builder, i, layer, given: given[0],
    s.Output: lambda builder, i, layer, given: (),
}
