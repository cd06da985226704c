"""What the edges of a float network carry: a histogram of every channel, taken on calibration images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from utils.darknet import spec as s
from utils.darknet.activations import ACTIVATIONS
from utils.darknet.forward import without_tensors
from utils.darknet.modules import convolve
from utils.darknet.network import Network
from utils.darknet.ops import activation_of
from utils.darknet.shortcuts import source_shares
from utils.darknet.walk import rule, walk

BINS = 512
MERGED_BINS = 4096
BEFORE, AFTER = 0, 1  # the activation
NARROWEST = 1e-30  # of a channel's range, or what divides by it overflows: a channel may be always the same
ENOUGH_SIDE = 32  # pixels a side of a map that are worth counting; more tell the same


@dataclass(frozen=True)
class Histogram:
    """Values of an edge, channel by channel.

    ``counts`` [C,B]; bin b of channel c stands for the value ``low[c] + b * (high[c] - low[c]) / (B - 1)``, so that the
    many zeros of a ReLU are counted as exactly zero.
    """

    counts: Tensor
    low: Tensor
    high: Tensor

    def values(self) -> Tensor:
        """The value each bin stands for, [C,B]."""
        bins = self.counts.shape[1]
        return self.low[:, None] + torch.arange(bins) * ((self.high - self.low) / (bins - 1))[:, None]

    def scaled(self, gain: Tensor) -> Histogram:
        """The histogram of the values times a positive ``gain`` [C]."""
        return Histogram(self.counts, self.low * gain, self.high * gain)

    def merged(self) -> tuple[Tensor, Tensor]:
        """All channels in one: values [B'], counts [B']."""
        values = self.values().flatten()
        low, high = float(values.min()), float(values.max())
        step = (high - low) / (MERGED_BINS - 1) or 1.0
        index = ((values - low) / step + 0.5).long().clamp_(0, MERGED_BINS - 1)
        counts = torch.zeros(MERGED_BINS).index_add_(0, index, self.counts.flatten())
        return low + torch.arange(MERGED_BINS) * step, counts


def float_edges(network: Network, x: Tensor, *, keep: bool = False) -> Iterator[tuple[int, Tensor]]:
    """Run a folded network, yielding (layer, its output); the image is layer -1.

    With ``keep`` nothing is freed on the way; else an edge goes after its last reader.
    """
    for i, _, y in float_layers(network, x, keep=keep):
        yield i, y


def float_layers(network: Network, x: Tensor, *, keep: bool = False) -> Iterator[tuple[int, Tensor, Tensor]]:
    """As ``float_edges``, with what the activation got between them: (layer, before, output); alike without one."""
    before = {-1: x}

    def step(i: int, layer: s.Layer, given: list[Tensor]) -> Tensor:
        before[i], after = float_step(i, layer, given, network.state)
        return after

    for i, y in walk(network.spec, x, step, keep=None if keep else ()):
        yield i, before.pop(i), y


def float_step(i: int, layer: s.Layer, inputs: list[Tensor], state: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """One layer of a folded network: before and after its activation."""
    y = rule(FLOATS, layer, "float form")(i, layer, inputs, state)
    return y, ACTIVATIONS[activation_of(layer)](y)


def _conv(i: int, layer: s.Kernel, inputs: list[Tensor], state: Mapping[str, Tensor]) -> Tensor:
    return convolve(layer, inputs[0], state[f"layers.{i}.conv.weight"], state[f"layers.{i}.conv.bias"])


def _sum(i: int, layer: s.Shortcut, inputs: list[Tensor], state: Mapping[str, Tensor]) -> Tensor:
    if layer.weighted:
        shares = shortcut_shares(layer, state[f"layers.{i}.weights"]).float().unsqueeze(-1).unsqueeze(-1)
        inputs = [x * share for x, share in zip(inputs, shares, strict=True)]
    return torch.stack(inputs).sum(0)


FLOATS: dict[type[s.Layer], Callable[[int, Any, list[Tensor], Mapping[str, Tensor]], Tensor]] = {
    s.Kernel: _conv,
    s.Shortcut: _sum,
    s.Layer: lambda i, layer, inputs, state: without_tensors(layer, inputs),
}


def shortcut_shares(layer: s.Shortcut, weights: Tensor | None) -> Tensor:
    """What each source of a sum counts, float64 [sources, 1 or C]: its normalised weights, which no image changes."""
    if weights is None:
        return torch.ones(len(layer.sources), 1, dtype=torch.float64)
    return source_shares(weights.double(), layer.weights_normalization).view(len(layer.sources), -1)


@torch.no_grad()
def collect(network: Network, batches: Sequence[Tensor], edges: Iterable[int]) -> dict[int, Histogram]:
    """Histograms of the given edges over the batches, in two passes: extremes, then counts."""
    return collect_both(network, batches, edges, ())[0]


@torch.no_grad()
def collect_both(
    network: Network, batches: Sequence[Tensor], edges: Iterable[int], charges: Iterable[int]
) -> tuple[dict[int, Histogram], dict[int, Histogram]]:
    """Histograms of the outputs of ``edges``, and of what the activations of the layers ``charges`` get."""
    wanted = {(i, AFTER) for i in edges} | {(i, BEFORE) for i in charges}
    low: dict[tuple[int, int], Tensor] = {}
    high: dict[tuple[int, int], Tensor] = {}

    def seen(x: Tensor) -> Iterator[tuple[tuple[int, int], Tensor]]:
        for i, *values in float_layers(network, x):
            yield from (((i, side), y) for side, y in enumerate(values) if (i, side) in wanted)

    for x in batches:
        for key, y in seen(x):
            a, b = y.amin((0, 2, 3)), y.amax((0, 2, 3))
            low[key] = torch.minimum(low.get(key, a), a)
            high[key] = torch.maximum(high.get(key, b), b)
    counts = {key: torch.zeros(len(low[key]) * BINS) for key in wanted}
    for x in batches:
        for key, y in seen(x):
            counts[key] += _count(y, low[key], high[key])
    found = {key: Histogram(counts[key].view(-1, BINS), low[key], high[key]) for key in wanted}
    outputs, before = ({i: h for (i, side), h in found.items() if side == which} for which in (AFTER, BEFORE))
    return outputs, before


def _count(y: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Bin counts of [N,C,H,W], flattened [C*BINS]; a large map is counted at every k-th pixel of every k-th row."""
    thin = max(1, round((y.shape[2] * y.shape[3]) ** 0.5 / ENOUGH_SIDE))
    y = y[:, :, thin // 2 :: thin, thin // 2 :: thin]
    per_unit = (BINS - 1) / (high - low).clamp_min(NARROWEST)
    bins = ((y - low[:, None, None]) * per_unit[:, None, None] + 0.5).long().clamp_(0, BINS - 1)
    bins += torch.arange(len(low))[:, None, None] * BINS
    return torch.bincount(bins.flatten(), minlength=len(low) * BINS).float()
