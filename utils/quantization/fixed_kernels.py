"""Means of windows and blurs in integers: depthwise convolutions whose weights are small whole numbers."""

from __future__ import annotations

import torch

from utils.darknet import spec as s
from utils.darknet.antialiasing import blur_kernel
from utils.quantization.activation_qparams import QParams
from utils.quantization.exact_conv import accumulator_bounds, width_of
from utils.quantization.gains import make_requantiser
from utils.quantization.integer import IntConv


def as_conv(layer: s.LocalAvgPool | s.Blur, width: int) -> s.Conv:
    """The convolution that computes it; a mean of windows with padding has none."""
    how = {"filters": width, "size": layer.size, "stride": layer.steps, "pad": layer.pad, "groups": width}
    return s.Conv(sources=layer.sources, line=layer.line, **how)  # type: ignore[arg-type]


def lower_fixed(layer: s.LocalAvgPool | s.Blur, source: QParams, target: QParams, width: int) -> IntConv:
    """acc = sum of 1, 2 or 4 times the levels; the gain divides it, so it is a shift only by a power of two."""
    kernel = blur_kernel(layer)
    weight = kernel.to(torch.int8).expand(width, 1, -1, -1).contiguous()
    nothing = torch.zeros(width, dtype=torch.int32)
    bounds = accumulator_bounds(weight, nothing, source.reach)
    ratio = torch.full((width,), source.scale / float(kernel.sum()) / target.scale, dtype=torch.float64)
    return IntConv(
        weight=weight,
        bias=nothing,
        w_bit=int(kernel.max()).bit_length() + 1,
        acc_bits=width_of(bounds),
        requantiser=make_requantiser(ratio, 1.0, target, bounds),
    )
