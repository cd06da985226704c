"""A network of spikes for hardware in integers alone, and whether it is that network to the bit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from utils.darknet import spec as s
from utils.darknet.forward import without_tensors
from utils.darknet.modules import convolve
from utils.darknet.walk import run
from utils.errors import InputError
from utils.temporal.execution import FRAMES
from utils.temporal.hardware import INT8, LEVELS, Leak, read_image, rounded

EXACT = 2**24  # float32 holds whole numbers up to here, and so do membranes of 25 bits


@dataclass(frozen=True)
class LifLayer:
    """A convolution in integers, and its neurons.

    ``weight`` int8 [O, I, k, k], ``bias`` int32 [O]; both, and membranes, are whole numbers of 2^``exponent``, int64
    [O]. A neuron fires above ``threshold``, int64 [O], powers of two. A read-out has no ``leak`` and no threshold.
    """

    weight: Tensor
    bias: Tensor
    exponent: Tensor
    threshold: Tensor | None = None
    leak: Leak | None = None
    soft: bool = False


@dataclass(frozen=True)
class LifNetwork:
    """The layers by number, and the steps T that they run."""

    spec: s.ModelSpec
    layers: Mapping[int, LifLayer]

    @property
    def pixels(self) -> frozenset[int]:
        """Edges that carry pixels: the image, and what only moves it."""
        return read_image(self.spec)


def lower_lif(model: Any) -> LifNetwork:
    """The integers of a network in eval mode (`models.Darknet`) whose convolutions all have weights of 8 bits.

    Raises:
        InputError: a convolution has other weights, or a membrane could grow beyond 24 bits; names the layer.
    """
    spec, layers, pixels = model.spec, dict[int, LifLayer](), read_image(model.spec)
    spikes = most_spikes(spec)
    for i, layer in spec.kernels.items():
        if layer.weight_quant != INT8:
            raise InputError(f"cfg line {layer.line}: weight_quant={layer.weight_quant}; train with --hw-friendly")
        block, neuron = model.layers[str(i)], spec.neurons.get(i)
        on = rounded(block.conv, block.bn, block.levels, neuron.v_th if neuron else 1.0)
        exponent = on.exponent.to(torch.int64).cpu()
        made = LifLayer(on.weight.to(torch.int8).cpu(), on.bias.to(torch.int32).cpu(), exponent)
        if neuron:
            threshold = 1 << (round(math.log2(neuron.v_th)) - exponent)
            leak = Leak.of(neuron.membrane_decay)
            made = LifLayer(made.weight, made.bias, exponent, threshold, leak, neuron.reset == "soft")
        bound = reach(made, LEVELS if layer.sources[0] in pixels else spikes[layer.sources[0]])
        if bound >= EXACT:
            raise InputError(
                f"layer {i} (cfg line {layer.line}): a membrane may grow to {bound:.3g} units, more than 24 bits; use "
                "fewer channels, or a smaller membrane_decay"
            )
        layers[i] = made
    return LifNetwork(spec, layers)


def most_spikes(spec: s.ModelSpec) -> dict[int, int]:
    """The largest number of spikes that an edge can carry in a step: sums of spikes are several."""

    def step(i: int, layer: s.Layer, given: list[int]) -> int:
        if i in spec.neurons:
            return 1
        return sum(given) if isinstance(layer, s.Shortcut) else max(given)

    return run(spec, LEVELS, step)


def reach(made: LifLayer, most: int) -> float:
    """How far from 0 a membrane can be, or a current without a leak: currents of ``most`` a tap add up."""
    current = float((made.weight.double().abs().flatten(1).sum(1) * most + made.bias.double().abs()).max())
    return (current + 1) / (1 - made.leak.decay) if made.leak else current  # rounding down adds less than 1 a step


@dataclass(frozen=True)
class LifTrace:
    """What every layer and the image (-1) ``sent`` in each step, int64 [T, N, C, H, W]; of read-outs the ``totals``."""

    sent: Mapping[int, Tensor]
    totals: Mapping[int, Tensor]


class LifExecutor(nn.Module):
    """Integers alone: int64 membranes, shifts, comparisons. ``forward`` gives what the network's does.

    ``membrane_bits``: what the membranes seen so far need, sign included.
    """

    def __init__(self, network: LifNetwork) -> None:
        super().__init__()
        self.network, self.membrane_bits = network, 1
        self.eval()

    @torch.no_grad()
    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, C, H, W] in 0..1, or frames [N, T, C, H, W] -> head maps: accumulators times 2^exponent / T."""
        return self.run(x)[0]

    @torch.no_grad()
    def run(self, x: Tensor) -> tuple[list[Tensor], dict[int, Tensor]]:
        """As forward; and the spikes of every layer of neurons, int64 [T, N, C, H, W]."""
        trace, spec = self.trace(x), self.network.spec
        steps = len(trace.sent[-1])
        heads = [self._read(j, trace.totals[j], steps) for j in (spec.layers[i].sources[0] for i in spec.heads)]
        return heads, {i: trace.sent[i] for i in spec.neurons}

    @torch.no_grad()
    def trace(self, x: Tensor) -> LifTrace:
        """All integers of a run.

        Raises:
            InputError: pixels are no bytes, for which the bounds of membranes hold.
        """
        spec, own = self.network.spec, x.dim() == FRAMES
        steps = x.shape[1] if own else spec.timesteps
        membranes = dict[int, Tensor]()
        sent: dict[int, list[Tensor]] = {i: [] for i in range(-1, len(spec.layers)) if i not in spec.heads}
        for t in range(steps):
            levels = ((x[:, t] if own else x).double() * LEVELS).round().to(torch.int64)
            if levels.min() < 0 or levels.max() > LEVELS:
                raise InputError(f"images have pixels outside of 0..{LEVELS}, and the integers take bytes")

            def step(i: int, layer: s.Layer, given: list[Tensor]) -> Tensor:
                return self._layer(i, layer, given, membranes)

            out = run(spec, levels, step)
            for i in sent:
                sent[i].append(out[i])
        found = {i: torch.stack(values) for i, values in sent.items()}
        return LifTrace(found, {i: found[i].sum(0) for i in (spec.layers[j].sources[0] for j in spec.heads)})

    def _layer(self, i: int, layer: s.Layer, given: list[Tensor], membranes: dict[int, Tensor]) -> Tensor:
        if i not in self.network.layers:
            return without_tensors(layer, [x.double() for x in given]).to(torch.int64)
        made = self.network.layers[i]
        # float64 holds these sums exactly, in whatever order they are added up
        charge = convolve(layer, given[0].double(), made.weight.double(), made.bias.double())  # type: ignore[arg-type]
        current = charge.round().to(torch.int64)
        if made.leak is None or made.threshold is None:
            return current
        threshold = made.threshold[:, None, None]
        v = membranes.get(i, torch.zeros_like(current))
        part = v >> made.leak.shift
        u = current + (v - part if made.leak.most else part)
        spikes = (u > threshold).to(torch.int64)
        membranes[i] = u - threshold * spikes if made.soft else u * (1 - spikes)
        self.membrane_bits = max(self.membrane_bits, int(u.abs().max()).bit_length() + 1)
        return spikes

    def _read(self, i: int, total: Tensor, steps: int) -> Tensor:
        unit = torch.exp2(self.network.layers[i].exponent.double())[:, None, None]
        return (total.double() * unit / steps).float()


@torch.no_grad()
def equal_to_the_bit(model: Any, executor: LifExecutor, x: Tensor) -> bool:
    """Whether heads and every spike of every step of a network are those of its integers, on some images."""
    heads, sent = executor.run(x)
    out = model.activations(x)
    same = all(torch.equal(sent[i].float().flatten(0, 1), out[i].float().cpu()) for i in sent)
    return same and all(torch.equal(a, b.cpu()) for a, b in zip(heads, model(x), strict=True))
