"""What the edges of a float network carry: a histogram of every channel, taken on calibration images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from utils.darknet import spec as s
from utils.darknet.activations import ACTIVATIONS
from utils.darknet.network import Network
from utils.quantization.walk import last_readers, move

BINS = 512
MERGED_BINS = 4096
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
    spec, state, out = network.spec, network.state, {-1: x}
    last = last_readers(spec)
    yield -1, x
    for i, layer in enumerate(spec.layers):
        inputs = [out[j] for j in layer.sources]
        match layer:
            case s.Conv():
                y = float_conv(layer, inputs[0], state[f"layers.{i}.conv.weight"], state[f"layers.{i}.conv.bias"])
                out[i] = ACTIVATIONS[layer.activation](y)
            case s.Shortcut():
                out[i] = ACTIVATIONS[layer.activation](torch.stack(inputs).sum(0))
            case _:
                out[i] = move(layer, inputs, float("-inf"))
        yield i, out[i]
        for j in () if keep else set(layer.sources):
            if last[j] == i:
                del out[j]


def float_conv(layer: s.Conv, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The convolution of a folded layer, before its activation."""
    return F.conv2d(x, weight, bias, layer.stride, layer.pad, layer.dilation, layer.groups)


@torch.no_grad()
def collect(network: Network, batches: Sequence[Tensor], edges: Iterable[int]) -> dict[int, Histogram]:
    """Histograms of the given edges over the batches, in two passes: extremes, then counts."""
    wanted = set(edges)
    low: dict[int, Tensor] = {}
    high: dict[int, Tensor] = {}
    for x in batches:
        for i, y in float_edges(network, x):
            if i in wanted:
                a, b = y.amin((0, 2, 3)), y.amax((0, 2, 3))
                low[i] = torch.minimum(low.get(i, a), a)
                high[i] = torch.maximum(high.get(i, b), b)
    counts = {i: torch.zeros(len(low[i]) * BINS) for i in wanted}
    for x in batches:
        for i, y in float_edges(network, x):
            if i in wanted:
                counts[i] += _count(y, low[i], high[i])
    return {i: Histogram(counts[i].view(-1, BINS), low[i], high[i]) for i in wanted}


def _count(y: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Bin counts of [N,C,H,W], flattened [C*BINS]; a large map is counted at every k-th pixel of every k-th row."""
    thin = max(1, round((y.shape[2] * y.shape[3]) ** 0.5 / ENOUGH_SIDE))
    y = y[:, :, thin // 2 :: thin, thin // 2 :: thin]
    per_unit = (BINS - 1) / (high - low).clamp_min(torch.finfo(torch.float32).tiny)
    bins = ((y - low[:, None, None]) * per_unit[:, None, None] + 0.5).long().clamp_(0, BINS - 1)
    bins += torch.arange(len(low))[:, None, None] * BINS
    return torch.bincount(bins.flatten(), minlength=len(low) * BINS).float()
