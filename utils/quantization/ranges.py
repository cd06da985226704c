"""From histograms to scales: how much of an edge's tail is worth clipping."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from utils.quantization.activation_qparams import Edges, edge_bits, gate_scale, image_scale, level_bounds
from utils.quantization.histogram import Histogram
from utils.quantization.scheme import Scheme

CANDIDATES = 100
SMALLEST = 0.02  # share of the full range the search goes down to

# A member of a group: its values [B], their counts [B], its lowest and highest level.
Member = tuple[Tensor, Tensor, int, int]


def choose_scales(edges: Edges, histograms: dict[int, Histogram], scheme: Scheme) -> dict[int, float]:
    """One scale per group of edges; that of the image's group and those of gates are given."""
    method, bits = METHODS[scheme.ranges], edge_bits(edges, scheme)
    scales = {}
    for group, producers in edges.members().items():
        if group == edges.group[-1]:
            scales[group] = image_scale(scheme)
            continue
        if group in edges.gates:
            scales[group] = gate_scale(scheme, bits[producers[0]])
            continue
        members = [
            (*histograms[i].merged(), *level_bounds(bits[i], edges.signed[i], even=scheme.sign_bit)) for i in producers
        ]
        scales[group] = scheme.range_scale * method(members, scheme)
        if scheme.style == "pow2":
            scales[group] = power_of_two(scales[group])
    return scales


def power_of_two(scale: float) -> float:
    """The least power of two that is not below ``scale``, so that nothing is clipped that it would not clip.

    By frexp, which is exact; a rounded or truncated logarithm may miss by one.
    """
    mantissa, exponent = math.frexp(scale)
    return 2.0 ** (exponent - 1 if mantissa == 0.5 else exponent)


def minmax(members: list[Member], scheme: Scheme) -> float:
    """The smallest scale that clips nothing."""
    return max(_full_scale(values, counts, qmin, qmax) for values, counts, qmin, qmax in members) or 1.0


def percentile(members: list[Member], scheme: Scheme) -> float:
    """The smallest scale that clips no more than 100 - ``percentile`` per cent of any member's values."""
    trimmed = []
    for values, counts, qmin, qmax in members:
        share, tail = counts.cumsum(0) / counts.sum(), (100 - scheme.percentile) / 100
        below = share - counts / counts.sum()  # what lies under each value
        inside = (share > tail) & (below < 1 - tail) if qmin else below < 1 - tail
        trimmed.append((values, counts * inside, qmin, qmax))
    return minmax(trimmed, scheme)


def mse(members: list[Member], scheme: Scheme) -> float:
    """The scale of least squared error, summed over the members, by search.

    Source: Banner et al., Post training 4-bit quantization of convolutional networks, NeurIPS 2019; by search instead
    of by an assumed density.
    """
    full = minmax(members, scheme)
    candidates = full * torch.linspace(SMALLEST, 1, CANDIDATES, dtype=torch.float64)
    errors = torch.zeros(CANDIDATES, dtype=torch.float64)
    for values, counts, qmin, qmax in members:
        errors += squared_errors(values[None], counts[None], candidates[None], qmin, qmax)[0]
    return float(candidates[errors.argmin()])


def cosine(members: list[Member], scheme: Scheme) -> float:
    """The scale whose quantised values point most nearly where the float ones point, over all members, by search.

    Source: Wu et al., EasyQuant, 2020 (arXiv 2006.16669), section 3; there too the measure of the layer's scale.
    """
    full = minmax(members, scheme)
    candidates = full * torch.linspace(SMALLEST, 1, CANDIDATES, dtype=torch.float64)
    along, length = torch.zeros(CANDIDATES, dtype=torch.float64), torch.zeros(CANDIDATES, dtype=torch.float64)
    for values, counts, qmin, qmax in members:
        values = values.double()
        made = (values / candidates[:, None] + 0.5).floor_().clamp_(qmin, qmax).mul_(candidates[:, None])  # [S,B]
        along += (made * values * counts).sum(1)
        length += (made.square() * counts).sum(1)
    if not length.any():
        return full  # nothing but zeros, which every scale holds
    return float(candidates[(along / length.clamp_min(torch.finfo(torch.float64).tiny).sqrt()).argmax()])


METHODS: dict[str, Callable[[list[Member], Scheme], float]] = {
    "mse": mse,
    "percentile": percentile,
    "minmax": minmax,
    "cosine": cosine,
}


def squared_errors(values: Tensor, counts: Tensor, scales: Tensor, qmin: int, qmax: int) -> Tensor:
    """Sum of squared quantisation errors.

    Args:
        values: [C,B].
        counts: [C,B].
        scales: candidates [C,S].
        qmin: lowest level.
        qmax: highest level.

    Returns:
        [C,S].
    """
    columns = []
    for s in scales.float().T[:, :, None]:  # [C,1]
        error = (values / s + 0.5).floor_().clamp_(qmin, qmax).mul_(s).sub_(values)
        columns.append((error.square_() * counts).sum(1))
    return torch.stack(columns, 1).double()


def channel_steps(histogram: Histogram, qmin: int, qmax: int) -> Tensor:
    """The scale of least squared error of every channel by itself, [C]; 0 where a channel is always 0."""
    values, counts = histogram.values(), histogram.counts
    full = torch.maximum(values.amax(1) / max(qmax, 1), values.amin(1) / qmin if qmin else torch.zeros(1)).clamp_min(0)
    shares = torch.linspace(SMALLEST, 1, CANDIDATES // 2)
    candidates = full.clamp_min(torch.finfo(torch.float32).tiny)[:, None] * shares
    best = squared_errors(values, counts, candidates, qmin, qmax).argmin(1)
    return full * shares[best]


def _full_scale(values: Tensor, counts: Tensor, qmin: int, qmax: int) -> float:
    present = values[counts > 0]
    if not len(present):
        return 0.0
    return max(float(present.max()) / qmax, float(present.min()) / qmin if qmin else 0.0, 0.0)
