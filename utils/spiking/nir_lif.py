"""A network trained as spikes in NIR's own words: Conv2d, LIF, SumPool2d; and the file run as importers run it.

NIR's LIF is tau dv/dt = v_leak - v + r I, a spike where v > v_threshold, and then v = v_reset. A step dt of it is
v = d v + (1 - d) r I with d = 1 - dt / tau, so that with r = 1 a current of ours is written 1 / (1 - d) times as large,
in the weights. That is a neuron whose reset is to 0, exactly. One whose reset is by the threshold has no word in NIR:
``metadata["reset"]`` says so, and the report says what importers make of it. A max pool of spikes is their OR: a sum,
and a LIF that forgets all in a step (tau = dt) and fires above one half.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from utils.darknet import spec as s
from utils.darknet.fold import fold_bn
from utils.darknet.network import Network
from utils.darknet.ops import facts
from utils.darknet.shapes import channels, sizes
from utils.darknet.walk import rule, run
from utils.errors import InputError
from utils.files import writing
from utils.spiking.nir_check import nir_package
from utils.spiking.nir_export import IMAGE, Array, NirGraph, Part, Parts, part_weights, slice_parts
from utils.spiking.nir_if import OUTPUT

DT = 1e-4  # s; snnTorch's, which has no other


def write_nir_lif(path: str | Path, network: Network, height: int, width: int) -> Path:
    """Write a ``.nir`` file for images of ``height`` x ``width`` px.

    Raises:
        InputError: the package is missing, or the network has something that NIR cannot hold; names the layer.
    """
    nir, graph = nir_package(), to_nir_lif(network, height, width)
    with writing(Path(path)) as temporary:
        nir.write(str(temporary), graph)
    return Path(path)


def to_nir_lif(network: Network, height: int, width: int) -> Any:
    """The graph, a ``nir.NIRGraph``: input ``image`` [C,H,W], one output ``output``, shown ``timesteps`` steps of `DT`.

    What the output adds up to over them is the head's map.

    Raises:
        InputError: the package is missing, or the network has something that NIR cannot hold; names the layer.
    """
    nir = nir_package()
    if network.spec.reads_last:
        raise InputError("[net] readout=last: NIR's outputs here add all steps up; train with readout=mean")
    check_nir_lif(network.spec)
    network = fold_bn(network)
    spec, size, wide = network.spec, sizes(network.spec, height, width), channels(network.spec)
    builder = _LifBuilder(nir, NirGraph(), network.state, spec, size)
    builder.graph.add(IMAGE, nir.Input(np.array([wide[-1], height, width])))

    def step(i: int, layer: s.Layer, given: list[Parts]) -> Parts:
        return rule(NODES, layer, "node in NIR")(builder, i, layer, given)

    image: Parts = (Part(IMAGE, tuple(range(wide[-1])), wide[-1]),)
    run(spec, image, step)
    made = nir.NIRGraph(builder.graph.nodes, builder.graph.edges, type_check=False)
    resets = sorted({neuron.reset for neuron in spec.neurons.values()})
    made.metadata = {
        "dialect": "lif",
        "reset": "subtract" if resets == ["soft"] else "zero",
        "dt": DT,
        "steps": spec.timesteps,
        "input": "frames, one a step" if spec.input_frames else "the image, 0..1, the same in every step",
        "output": "the sum over the steps is the head's map",
    }
    return made


def check_nir_lif(spec: s.ModelSpec) -> None:
    """Refuse by name what is no leaky integrate-and-fire network of convolutions and max pools with one head.

    Raises:
        InputError: names the layer, its cfg line and what is in the way.
    """
    resets: dict[str, int] = {}
    for i, layer in enumerate(spec.layers):
        place, known = f"layer {i} (cfg line {layer.line})", facts(layer)
        if type(layer) not in NODES and i not in spec.heads:
            raise InputError(f"{place}: [{known.section}] has no node in NIR's importers; use a chain of convolutions")
        if isinstance(layer, s.Conv):
            _check_conv(spec, i, layer, place)
        if i in spec.neurons and spec.neurons[i].membrane_start:
            raise InputError(f"{place}: membrane_start=: NIR's membranes start at 0; train with --at-rest")
        if i in spec.neurons:
            resets.setdefault(spec.neurons[i].reset, i)
    if len(resets) > 1:
        i = max(resets.values())
        raise InputError(f"layer {i} (cfg line {spec.layers[i].line}): another reset= than before; use one for all")
    if len(spec.heads) > 1:
        i = spec.heads[1]
        raise InputError(
            f"layer {i} (cfg line {spec.layers[i].line}): a second head, and importers of NIR take one output; use a "
            "cfg of one scale"
        )


def _check_conv(spec: s.ModelSpec, i: int, layer: s.Conv, place: str) -> None:
    if layer.weight_quant != "none":
        raise InputError(
            f"{place}: weight_quant={layer.weight_quant} rounds what NIR has as floats; train a network without it"
        )
    neuron = spec.neurons.get(i)
    if neuron is None:
        if layer.activation != "linear" or not any(i in spec.layers[j].sources for j in spec.heads):
            raise InputError(f"{place}: activation={layer.activation} sends no spikes; use lif")
        return
    if neuron.kind != "lif":
        raise InputError(f"{place}: activation={neuron.kind} has no node in NIR; train with --spiking lif")
    if neuron.signed:
        raise InputError(f"{place}: signed=1 sends -1 as well, NIR's LIF does not; train without it")
    if neuron.membrane_bits:
        raise InputError(f"{place}: membrane_bits= rounds the membrane, NIR's LIF does not; train without it")
    if not 0 <= neuron.membrane_decay < 1:
        raise InputError(f"{place}: membrane_decay={neuron.membrane_decay:g} is no leak; use one from 0 to below 1")


@dataclass
class _LifBuilder:
    nir: Any
    graph: NirGraph
    state: Mapping[str, Tensor]
    spec: s.ModelSpec
    size: dict[int, tuple[int, int]]

    def conv(self, i: int, layer: s.Conv, sources: list[Parts]) -> Parts:
        """A convolution for every part of the input, all into one neuron or output."""
        neuron = self.spec.neurons.get(i)
        gain = 1 / (1 - neuron.membrane_decay) if neuron else 1 / self.spec.timesteps
        weight, bias = (
            self.state[f"layers.{i}.conv.{name}"].detach().cpu().double().numpy() * gain for name in ("weight", "bias")
        )
        names, at = [], 0
        for k, part in enumerate(sources[0]):
            own = part_weights(weight, layer, part, at)
            charge = bias if k == 0 else np.zeros(len(bias))
            names.append(self._conv2d(f"conv_{i}_{k}", part, own, charge, layer))
            at += len(part.of)
        shape = (layer.filters, *self.size[i])
        if neuron is None:
            self.graph.add(OUTPUT, self.nir.Output(np.array(shape)), *names)
            return ()
        return self._fire(f"lif_{i}", shape, neuron.v_th, DT / (1 - neuron.membrane_decay), *names)

    def pool(self, i: int, layer: s.MaxPool, sources: list[Parts]) -> Parts:
        """The OR of each window."""
        before, inner = layer.pad // 2, self.size[layer.sources[0]]
        pad = max(before, layer.pad - before)
        ones = np.zeros((layer.size + 2 * pad - layer.pad,) * 2)
        ones[pad - before :, pad - before :][: layer.size, : layer.size] = 1
        made: list[Part] = []
        for k, part in enumerate(sources[0]):
            weight = np.eye(part.width)[:, :, None, None] * ones
            node = self.nir.Conv2d(inner, weight, (layer.stride,) * 2, (pad, pad), (1, 1), 1, np.zeros(part.width))
            name = self.graph.add(f"sum_{i}_{k}", node, part.node)
            self._fire(f"or_{i}_{k}", (part.width, *self.size[i]), 0.5, DT, name)
            made.append(Part(f"or_{i}_{k}", part.of, part.width))
        return tuple(made)

    def _fire(self, name: str, shape: tuple[int, ...], v_th: float, tau: float, *sources: str) -> Parts:
        each = (np.full(shape, value) for value in (tau, 1.0, 0.0, v_th, 0.0))
        self.graph.add(name, self.nir.LIF(*each), *sources)
        return (Part(name, tuple(range(shape[0])), shape[0]),)

    def _conv2d(self, name: str, part: Part, weight: Array, bias: Array, layer: s.Conv) -> str:
        """Dense: nir takes the weights' second side for the channels that come in, and refuses groups."""
        inner, pads, wide = self.size[layer.sources[0]], (layer.pad,) * 2, (layer.dilation,) * 2
        return self.graph.add(name, self.nir.Conv2d(inner, weight, layer.stride, pads, wide, 1, bias), part.node)


NODES: dict[type[s.Layer], Any] = {
    s.Conv: _LifBuilder.conv,
    s.MaxPool: _LifBuilder.pool,
    s.Route: lambda builder, i, layer, given: tuple(part for source in given for part in slice_parts(source, layer)),
    s.Dropout: lambda builder, i, layer, given: given[0],
    s.Output: lambda builder, i, layer, given: (),
}
