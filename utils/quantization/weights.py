"""Weights on integer grids: one scale an output channel, or one a layer."""

from __future__ import annotations

import torch
from torch import Tensor

from utils.quantization.compiled import passes
from utils.quantization.ranges import power_of_two

SHARES = 60
SMALLEST_SHARE = 0.4  # of the channel's largest weight; low bits gain from clipping, 8 bits hardly
IN_CACHE = 2**14  # weights, 128 KiB of float64
ROUNDED = 1e-9  # of an error: far beyond what the order of a sum changes
FLOAT32_OFF = 2.0**-21  # of the largest weight: four roundings
SPARE = 1 / 16  # of a declared accumulator, for what bias correction adds
LEAST_RAISE = 1.005
CLEARLY = 0.8  # of the squared error of the power of two in use
LARGEST_BIAS = 2**22  # in accumulator units; keeps an almost dead channel's bias in int32 and the sum in float32


def weight_levels(bits: int) -> int:
    """The largest weight level; the grid is symmetric, -128 is not used."""
    return 2 ** (bits - 1) - 1


def weight_scales(weight: Tensor, bias: Tensor, s_in: float, bits: int, style: str = "google") -> Tensor:
    """The scale of least squared weight error of every output channel, float64 [O].

    A channel whose weights are all 0, or tiny beside its bias, takes a scale large enough for its bias. In the styles
    that have one scale a layer all are the same, and for "pow2" the power of two of least error.
    """
    floor = bias.double().abs() / (s_in * LARGEST_BIAS)
    if style == "google":
        return _least_error(weight.double().flatten(1), floor, bits)
    flat, floor = weight.double().flatten()[None], floor.amax(0, keepdim=True)
    one = _least_error(flat, floor, bits)
    if style == "pow2":
        one = torch.full_like(one, best_power(flat, float(one), bits, least=float(floor)))
    return one.expand(len(weight)).clone()


def best_power(weight: Tensor, scale: float, bits: int, *, least: float = 0.0, stay: float = 0.0) -> float:
    """The power of two of least squared error near ``scale``, not below ``least``.

    At few bits one that clips a little is often better than one of twice the step; docs/decisions/009. One that is in
    use already, ``stay``, is left only for one that is clearly better, because every change is a jump.
    """
    above, flat = power_of_two(scale), weight.double().flatten()
    powers = [power for power in (above, above / 2, above * 2) if power >= least]
    errors = {power: float(_squared_errors(flat[None], flat.new_tensor([power]), bits)) for power in powers}
    best = min(powers, key=errors.__getitem__)
    return stay if stay in errors and errors[best] > CLEARLY * errors[stay] else best


def _squared_errors(rows: Tensor, scale: Tensor, bits: int) -> Tensor:
    """Of each row of [R,K], float64, on a grid of its scale [R]."""
    on_grid = _on_levels(rows, scale[:, None], bits).mul_(scale[:, None])
    return on_grid.sub_(rows).square_().sum(1)


def _least_error(flat: Tensor, floor: Tensor, bits: int) -> Tensor:
    """The scale of each row of [R,K], not below ``floor`` [R]."""
    best = _best_shares(flat, bits) if passes() is None or flat.device.type != "cpu" else _best(flat, bits)
    best = torch.maximum(best, floor)
    live = best > torch.finfo(torch.float32).tiny
    fallback = float(best[live].max()) if live.any() else 1.0
    return torch.where(live, best, torch.full_like(best, fallback))


def _best(flat: Tensor, bits: int) -> Tensor:
    """What `_best_shares` finds, by compiled passes: near errors of all grids, then those of the ones left in double.

    A near error is off by what float32 rounds each value, ``off``, at most. Where two are as good but for the order of
    their sums, `_best_shares` itself decides.
    """
    compiled, top = passes(), weight_levels(bits)
    assert compiled is not None
    flat, largest = flat.contiguous(), flat.abs().amax(1, keepdim=True)
    shares = torch.linspace(1, SMALLEST_SHARE, SHARES, dtype=torch.float64)
    scales = (largest * shares / top).clamp_min(torch.finfo(torch.float64).tiny)
    near = compiled.near_errors(flat.float(), scales, top)
    off = largest * FLOAT32_OFF
    least = near + 2 * off * (near * flat.shape[1]).sqrt() + flat.shape[1] * off.square() + near * FLOAT32_OFF * 100
    asked = ~(2 * near - least > least.amin(1, keepdim=True))  # whatever is not finite is asked for
    errors = compiled.squared_errors(flat, scales, top, asked)
    best, at = errors.min(1, keepdim=True)
    found = scales.gather(1, at).flatten()
    unsure = ((errors <= best * (1 + ROUNDED)).sum(1) > 1).nonzero().flatten()
    if len(unsure):
        found[unsure] = _best_shares(flat[unsure], bits)
    return found


def _best_shares(flat: Tensor, bits: int) -> Tensor:
    rows = max(1, IN_CACHE // flat.shape[1])  # sixty passes over a few rows read memory once
    return torch.cat([_best_of_block(block, bits) for block in flat.split(rows)])


def _best_of_block(flat: Tensor, bits: int) -> Tensor:
    top = weight_levels(bits)
    largest = flat.abs().amax(1)
    best = largest / top
    error = torch.full_like(best, torch.inf)
    for share in torch.linspace(1, SMALLEST_SHARE, SHARES, dtype=torch.float64):
        scale = (largest * share / top).clamp_min(torch.finfo(torch.float64).tiny)
        off = _squared_errors(flat, scale, bits)
        best = torch.where(off < error, scale, best)
        error = torch.minimum(off, error)
    return best


def fit_accumulator(
    weight: Tensor, bias: Tensor, scale: Tensor, *, s_in: float, reach: int, bits: int, acc_bits: int, style: str
) -> Tensor:
    """Scales raised until the sums fit ``acc_bits``, sign included, whatever the input; float64 [O].

    The bound is exact, sum|w| * ``reach`` + |bias| in integers; a share of it is kept for a bias that is corrected
    later. In "google" each channel is raised by itself; where a layer has one scale it is, for "pow2" by doubling.

    Args:
        weight: [O,I/groups,k,k], float.
        bias: [O], float.
        scale: where to start, [O].
        s_in: scale of the input.
        reach: the largest |level| of the input.
        bits: of the weights.
        acc_bits: width of the accumulator.
        style: of the scheme.

    Source: the bound of Colbert et al., A2Q, ICCV 2023, kept by the scale instead of by training.
    """
    room = (2 ** (acc_bits - 1) - 1) * (1 - SPARE)
    while True:
        w, b = round_weights(weight, scale, bits).double(), round_half_up(bias.double() / (s_in * scale)).double()
        over = (w.abs().flatten(1).sum(1) * reach + b.abs()) / room
        if not bool((over > 1).any()):
            return scale
        raised = torch.where(over > 1, scale * over.clamp_min(LEAST_RAISE), scale)
        scale = raised if style == "google" else raised.max().expand_as(scale).clone()
        if style == "pow2":
            scale = torch.full_like(scale, power_of_two(float(scale[0])))


def round_weights(weight: Tensor, scale: Tensor, bits: int) -> Tensor:
    """floor(w / s + 1/2), clipped to the symmetric grid; int8, from 9 bits on int16, same shape as ``weight``."""
    kind = torch.int8 if bits <= 8 else torch.int16
    return _on_levels(weight.double(), scale.view(-1, *[1] * (weight.dim() - 1)), bits).to(kind)


def _on_levels(weight: Tensor, scale: Tensor, bits: int) -> Tensor:
    """The levels, in float64; ``scale`` has the weight's axes."""
    top = weight_levels(bits)
    return (weight / scale).add_(0.5).floor_().clamp_(-top, top)


def round_half_up(value: Tensor) -> Tensor:
    """floor(x + 1/2) in float64, as int64; the only rounding there is."""
    return (value.double() + 0.5).floor().to(torch.int64)
