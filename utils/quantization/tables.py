"""Activations that are no bend at 0, by table: a level before the activation in, a level after it out.

The pre-activation gets a grid of its own, 8 signed bits whatever the layer's bits are, so a table has 256 entries.
"""

from __future__ import annotations

import torch
from torch import Tensor

from utils.darknet import spec as s
from utils.darknet.activations import ACTIVATIONS
from utils.quantization.activation_qparams import QParams, level_bounds
from utils.quantization.histogram import Histogram
from utils.quantization.ranges import CANDIDATES, METHODS, SMALLEST, power_of_two
from utils.quantization.scheme import Scheme
from utils.quantization.validate import TABLED, readouts
from utils.quantization.weights import round_half_up

CHARGE_BITS = 8


def tabled_layers(spec: s.ModelSpec) -> tuple[int, ...]:
    """The layers whose activation is a table; a read-out's is computed in float."""
    kept = set(readouts(spec))
    return tuple(i for i, layer in spec.activated.items() if layer.activation in TABLED and i not in kept)


def charge_grids(spec: s.ModelSpec, histograms: dict[int, Histogram], scheme: Scheme) -> dict[int, QParams]:
    """The grid of the pre-activation of every layer with a table.

    Args:
        spec: the layers.
        histograms: of the pre-activation, by layer.
        scheme: how ranges are chosen; "mse" counts the error after the activation, because it is what goes on (and a
            sigmoid does not care how far behind its flat ends the range stops). In style pow2 the scale is the next
            power of two.
    """
    activated = spec.activated
    return {i: charge_grid(histograms[i], activated[i].activation, scheme) for i in tabled_layers(spec)}


def charge_grid(histogram: Histogram, activation: str, scheme: Scheme) -> QParams:
    """The grid of one pre-activation, from a histogram of its values."""
    qmin, qmax = level_bounds(CHARGE_BITS, signed=True)
    member = (*histogram.merged(), qmin, qmax)
    scale = (
        _least_error(*member, activation, scheme)
        if scheme.ranges == "mse"
        else METHODS[scheme.ranges]([member], scheme)
    )
    return QParams(power_of_two(scale) if scheme.style == "pow2" else scale, qmin, qmax)


def _least_error(values: Tensor, counts: Tensor, qmin: int, qmax: int, activation: str, scheme: Scheme) -> float:
    full = METHODS["minmax"]([(values, counts, qmin, qmax)], scheme)
    wanted = ACTIVATIONS[activation](values)
    best, least = full, torch.inf
    for share in torch.linspace(1, SMALLEST, CANDIDATES, dtype=torch.float64).tolist():
        level = (values / (full * share) + 0.5).floor_().clamp_(qmin, qmax)
        error = float(
            ((ACTIVATIONS[activation](level * full * share) - wanted).square_() * counts).sum(dtype=torch.float64)
        )
        if error < least:
            best, least = full * share, error
    return best


def make_table(activation: str, before: QParams, target: QParams) -> Tensor:
    """The level after the activation for each level before it, int32 [before.hi - before.lo + 1].

    floor(f(p * s_before) / s_out + 1/2) in float64, clipped to the target's levels.
    """
    p = torch.arange(before.qmin, before.qmax + 1, dtype=torch.float64)
    after = ACTIVATIONS[activation](p * before.scale) / target.scale
    return round_half_up(after).clamp_(target.qmin, target.qmax).to(torch.int32)
