"""Counting what the spikes do: spikes, synaptic operations from true fan-out, state."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.grad import conv2d_input

from utils.darknet import spec as s
from utils.darknet.counts import Counts, count
from utils.darknet.forward import move, move_channels
from utils.darknet.ops import facts
from utils.darknet.shapes import channels
from utils.darknet.walk import run
from utils.quantization.integer import IntConv, IntegerNetwork
from utils.quantization.packing import packed_size
from utils.quantization.validate import readouts
from utils.spiking.energy import INT8, Energy, energy
from utils.spiking.layerwise import LayerwiseExecutor
from utils.spiking.spike_schedule import state_bytes


@dataclass(frozen=True)
class LayerCost:
    """One layer, means per frame: neurons, spikes they fire, and the operations that its *input* causes in it.

    ``steps``: how often the ``input_macs`` are done for a frame; ``gate_macs``: what gates of its neurons multiply.
    """

    neurons: int
    spikes: float
    sops: float
    macs: int
    input_macs: int
    adds: int
    steps: int = 1
    gate_macs: int = 0


@dataclass(frozen=True)
class SpikeCost:
    """A spiking network's costs per frame, averaged over ``frames``.

    ``macs`` are its synapses, counted by the same rule as ``sops``: taps on the padding, on the zeros of an upsample
    and zero weights are none. ``dense``: what the conventional twin computes, all of that included. ``state_bytes``:
    one 32-bit membrane a neuron and read-out, and the counts that wait for a later window.
    """

    layers: dict[int, LayerCost]
    dense: Counts
    frames: int
    state_bytes: int
    weight_bytes: int

    def _total(self, name: str) -> float:
        return sum(getattr(layer, name) for layer in self.layers.values())

    @property
    def neurons(self) -> int:
        """Neurons; read-outs are none."""
        return int(self._total("neurons"))

    @property
    def spikes(self) -> float:
        """Spikes per frame, negative ones counted too."""
        return self._total("spikes")

    @property
    def spikes_per_neuron(self) -> float:
        """Mean spikes of a neuron per frame."""
        return self.spikes / max(1, self.neurons)

    @property
    def sops(self) -> float:
        """Synaptic operations per frame: accumulates caused by spikes."""
        return self._total("sops")

    @property
    def macs(self) -> int:
        """Its synapses: what the conventional twin multiplies where neither a weight nor a value is always zero."""
        return int(self._total("macs"))

    @property
    def input_macs(self) -> int:
        """Those of ``macs`` that stay multiplications, because they read pixels."""
        return int(self._total("input_macs"))

    @property
    def multiplications(self) -> int:
        """All that is multiplied for a frame: ``input_macs`` at each step that they are done in, and gates."""
        return sum(layer.input_macs * layer.steps + layer.gate_macs for layer in self.layers.values())

    @property
    def sops_per_mac(self) -> float:
        """Synaptic operations for each multiplication they replace: the mean spikes of a synapse."""
        return self.sops / max(1, self.macs - self.input_macs)

    @property
    def energy(self) -> Energy:
        """pJ per frame, for the float twin, the int8 twin and the spikes."""
        return energy(self.dense, self.multiplications, self.sops)

    @property
    def break_even(self) -> float:
        """Spikes a synapse at which the spikes cost what the int8 twin does: what pixels multiply is paid by both."""
        for_spikes = self.energy.ann_int8 - self.multiplications * INT8.mac
        return for_spikes / (INT8.accumulate * max(1, self.macs - self.input_macs))

    @property
    def verdict(self) -> str:
        """The honest line: at how many spikes a synapse an int8 network is as good."""
        x, even = self.sops_per_mac, self.break_even
        side = f"{'under' if x < even else 'over'} the {even:.2f} at which int8 costs the same"
        said = f"{x:.2f} spikes a synapse, {side}" if self.macs > self.input_macs else "no synapse reads spikes"
        return f"{said}; {self.energy.verdict}"


@torch.no_grad()
def measure(executor: LayerwiseExecutor, batches: Iterable[Tensor]) -> SpikeCost:
    """Run images [N,C,H,W] of n / 255, all of one size, and count.

    Raises:
        ValueError: there are no images.
    """
    network = executor.spiking
    held: list[int] = []

    def counted() -> Iterator[tuple[int, dict[int, Tensor]]]:
        for x in batches:
            counts = executor.counts(x)
            held[:] = [state_bytes(network, counts)]
            yield len(x), counts

    work = work_of(network.integer)
    cost = cost_of(network.spec, work, counted(), state_bytes=0, weight_bytes=weight_bytes(network.integer))
    return replace(cost, state_bytes=held[0])


def work_of(network: IntegerNetwork) -> dict[int, Tensor | None]:
    """The layers that compute: a convolution's weights, None for those that only add."""
    return {i: op.weight if isinstance(op, IntConv) else None for i, op in network.ops.items()}


def cost_of(
    spec: s.ModelSpec,
    work: Mapping[int, Tensor | None],
    counted: Iterable[tuple[int, dict[int, Tensor]]],
    *,
    state_bytes: int,
    weight_bytes: int,
    neurons: Collection[int] | None = None,
    analog: Mapping[int, Tensor] | None = None,
) -> SpikeCost:
    """Costs from spikes counted elsewhere.

    Args:
        spec: the layers.
        work: what ``work_of`` gives; of the weights only zero or not counts.
        counted: (images, edge -> spikes [N,C,H,W] of each neuron, or [1,C,H,W] summed over the images), -1 for the
            image's own shape, whose values do not matter.
        state_bytes: of one image.
        weight_bytes: of the network.
        neurons: the layers that fire; None: all that compute but the read-outs.
        analog: edge -> bool [C], the channels whose values are multiplied; None: those that carry pixels.

    Raises:
        ValueError: there are no images.
    """
    firing = [i for i in work if i not in readouts(spec)] if neurons is None else [*neurons]
    spikes, sops, frames = dict.fromkeys(firing, 0.0), dict.fromkeys(work, 0.0), 0
    tally: _Tally | None = None
    for images, counts in counted:
        tally = tally or _Tally(spec, work, counts, analog)
        frames += images
        for i in spikes:
            spikes[i] += float(counts[i].abs().sum(dtype=torch.float64))
        for i in sops:
            sops[i] += tally.sops(i, counts)
    if tally is None:
        raise ValueError("no images to measure on")
    layers = {
        i: LayerCost(
            neurons=tally.neurons(i) if neurons is None or i in neurons else 0,
            spikes=spikes.get(i, 0.0) / frames,
            sops=sops[i] / frames,
            macs=tally.macs(i),
            input_macs=tally.input_macs(i),
            adds=tally.adds(i),
        )
        for i in work
    }
    _, height, width = tally.shapes[-1]
    return SpikeCost(layers, count(spec, (height, width)), frames, state_bytes, weight_bytes)


def fan_out(layer: s.Conv, weight: Tensor, height: int, width: int) -> Tensor:
    """How many accumulators a spike of each input neuron reaches; float64 [I,H,W].

    Borders, stride, groups and zero weights are accounted for: it is the gradient of the summed convolution with the
    mask of nonzero weights.
    """
    mask = (weight != 0).double()
    size = (1, weight.shape[1] * layer.groups, height, width)
    reach = layer.dilation * (layer.size - 1) + 1
    out = [(side + 2 * layer.pad - reach) // step + 1 for side, step in zip((height, width), layer.stride, strict=True)]
    ones = torch.ones(1, layer.filters, *out, dtype=torch.float64)
    return conv2d_input(size, mask, ones, layer.stride, layer.pad, layer.dilation, layer.groups)[0]


def weight_bytes(network: IntegerNetwork) -> int:
    """Packed weights and int32 biases."""
    convs = [op for op in network.ops.values() if isinstance(op, IntConv)]
    return sum(packed_size(op.weight.numel(), op.w_bit) + 4 * len(op.bias) for op in convs)


def pixel_channels(network: IntegerNetwork) -> dict[int, Tensor]:
    """Edge -> bool [C], the channels that carry pixels, moved but never fired by a neuron."""
    return _pixels(network.spec, network.ops)


def _pixels(spec: s.ModelSpec, work: Collection[int]) -> dict[int, Tensor]:
    width, heads = channels(spec), set(spec.heads)

    def step(i: int, layer: s.Layer, given: list[Tensor]) -> Tensor:
        if i in work or i in heads:
            return torch.zeros(width[i], dtype=torch.bool)
        return move_channels(layer, [x.float() for x in given]) > 0

    return run(spec, torch.ones(width[-1], dtype=torch.bool), step)


def _live(spec: s.ModelSpec, work: Collection[int], shapes: Mapping[int, Sequence[int]]) -> dict[int, Tensor]:
    """Edge behind an upsample with zeros, or a [fit] -> where it has none, 1 or 0 [C,H,W], float64.

    Zeros are nobody's work.
    """
    live: dict[int, Tensor] = {}
    heads = set(spec.heads)
    for i, layer in enumerate(spec.layers):
        spreads = facts(layer).fills(layer)
        if i in work or i in heads or not (spreads or any(j in live for j in layer.sources)):
            continue
        given = [live[j] if j in live else torch.ones(*shapes[j], dtype=torch.float64) for j in layer.sources]
        live[i] = move(layer, [mask[None] for mask in given])[0]
    return live


class _Tally:
    """Fan-out of every layer for one image size."""

    def __init__(
        self,
        spec: s.ModelSpec,
        work: Mapping[int, Tensor | None],
        counts: dict[int, Tensor],
        analog: Mapping[int, Tensor] | None,
    ) -> None:
        self.spec = spec
        self.shapes = {i: count.shape[1:] for i, count in counts.items()}
        self.pixels = _pixels(spec, work) if analog is None else analog
        self.fans: dict[int, Tensor] = {}
        live, convs = _live(spec, work, self.shapes), spec.convs
        for i, weight in work.items():
            if weight is not None:
                layer = convs[i]
                fan = fan_out(layer, weight, *self.shapes[layer.sources[0]][1:])
                self.fans[i] = fan * live[layer.sources[0]] if layer.sources[0] in live else fan

    def _reads(self, i: int) -> list[tuple[int, Tensor]]:
        """(source, fan-out [C,H,W]) of each input; a shortcut's neuron adds every spike once."""
        sources = self.spec.layers[i].sources
        if i in self.fans:
            return [(sources[0], self.fans[i])]
        return [(j, torch.ones(self.shapes[j], dtype=torch.float64)) for j in sources]

    def sops(self, i: int, counts: dict[int, Tensor]) -> float:
        total = 0.0
        for j, fan in self._reads(i):
            spikes = counts[j].abs().sum(0, dtype=torch.float64).cpu()
            total += float((spikes * fan)[~self.pixels[j]].sum())
        return total

    def neurons(self, i: int) -> int:
        return self.shapes[i].numel() if i in self.shapes else 0

    def macs(self, i: int) -> int:
        return int(self.fans[i].sum()) if i in self.fans else 0

    def input_macs(self, i: int) -> int:
        return int(sum(float(fan[self.pixels[j]].sum()) for j, fan in self._reads(i)))

    def adds(self, i: int) -> int:
        if i in self.fans:
            return 0
        if isinstance(self.spec.layers[i], s.AvgPool):
            return self.shapes[self.spec.layers[i].sources[0]].numel() - self.shapes[i].numel()
        return self.shapes[i].numel() * (len(self.spec.layers[i].sources) - 1)
