"""Convolutions of integers on floating-point units, exact to the last bit."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from utils.darknet.modules import convolve
from utils.darknet.spec import Kernel

FLOAT32_EXACT = 2**24
FLOAT64_EXACT = 2**53
MAX_SLICES = 6  # above, float64 at a seventh of the speed is no slower


class ExactConv(nn.Module):
    """acc[o] = sum over i, k of w[o,i,k] * n[i,k] + bias[o], for integers held in floats.

    A sum of integers is exact in floating point, whatever its order, while no partial sum can pass 2^24 (float32) or
    2^53 (float64). The bound sum|w| * max|n| + |bias| decides: float32 where it fits; else the input channels are cut
    into a few slices that each fit, and their exact results are added in float64; else float64 throughout.
    On a GPU always float64, because there the library may choose a transform (Winograd, FFT); the result, at most a
    tiny fraction off an integer, is rounded back to it.
    """

    def __init__(self, layer: Kernel, weight: Tensor, bias: Tensor, reach: int) -> None:
        super().__init__()
        self.layer = layer
        bounds = accumulator_bounds(weight, bias, reach)
        assert int(bounds.max()) < FLOAT64_EXACT
        self.fits = int(bounds.max()) < FLOAT32_EXACT
        self.slices = exact_slices(weight, reach, layer.groups)
        self.register_buffer("weight", weight.float().contiguous(memory_format=torch.channels_last), persistent=False)
        self.register_buffer("bias", bias.double().view(1, -1, 1, 1), persistent=False)
        self.weight: Tensor
        self.bias: Tensor

    def forward(self, n: Tensor) -> Tensor:
        """Levels [N,I,H,W], float32 -> accumulators [N,O,H,W], float32 where they fit, else float64."""
        if n.device.type != "cpu":
            exact = convolve(self.layer, n.double(), self.weight.double())
            return exact.round_().add_(self.bias)
        if self.fits:
            return convolve(self.layer, n, self.weight, self.bias.flatten().float())
        if not self.slices:
            return convolve(self.layer, n.double(), self.weight.double()).add_(self.bias)
        total = self.bias
        for part in self.slices:
            total = total + convolve(self.layer, n[:, part], self.weight[:, part])
        return total


def accumulator_bounds(weight: Tensor, bias: Tensor, reach: int) -> Tensor:
    """The largest |acc| any input can cause, per output channel: sum|w| * max|n| + |bias|; int64 [O]."""
    return weight.to(torch.int64).abs().flatten(1).sum(1) * reach + bias.to(torch.int64).abs()


def accumulator_bits(weight: Tensor, bias: Tensor, reach: int) -> int:
    """The width, sign included, that holds whatever any input can cause."""
    return width_of(accumulator_bounds(weight, bias, reach))


def width_of(bounds: Tensor) -> int:
    """The width, sign included, of accumulators that go from -bounds to bounds."""
    return int(bounds.max()).bit_length() + 1


def exact_slices(weight: Tensor, reach: int, groups: int) -> list[slice]:
    """Slices of input channels, each safe in float32; none if it takes more than ``MAX_SLICES`` or there are groups."""
    if groups > 1:
        return []
    per_channel = weight.to(torch.int64).abs().sum((2, 3)) * reach  # [O,I]
    slices: list[slice] = []
    start = 0
    while start < weight.shape[1]:
        fits = per_channel[:, start:].cumsum(1).amax(0) < FLOAT32_EXACT
        count = int(fits.sum())
        if count == 0 or len(slices) == MAX_SLICES:
            return []
        slices.append(slice(start, start + count))
        start += count
    return slices
