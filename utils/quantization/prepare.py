"""From a float network to one that trains quantised."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor

from utils.darknet.expand import expand
from utils.darknet.fold import fold_bn
from utils.darknet.network import Network, State
from utils.darknet.spec import ModelSpec
from utils.errors import InputError
from utils.quantization.activation_qparams import Edges, edge_bits, gate_scale, image_scale, trace_edges
from utils.quantization.calibrate import averaged_pixels, for_image_scale, renumber
from utils.quantization.equalise import even_gains, rescale, trace_wires
from utils.quantization.executor import image_levels
from utils.quantization.fake import FakeQuantised, StartRanges, is_observer
from utils.quantization.histogram import Histogram, collect_both
from utils.quantization.ranges import choose_scales, power_of_two
from utils.quantization.scheme import Scheme
from utils.quantization.tables import charge_grids, tabled_layers
from utils.quantization.validate import check_supported

SLACK = 0.99
# Of the logarithm of the gains that even the activations out: all of it would make the weights as uneven as the
# activations were, and at few bits both have to fit (docs/decisions/009).
EVENED = 0.5


def prepare(
    network: Network,
    batches: Iterable[Tensor],
    scheme: Scheme,
    *,
    fold: bool = False,
    learn: bool = False,
    trained: bool = False,
) -> FakeQuantised:
    """A float network with scales that its edges ask for on calibration images, ready to train.

    Args:
        network: float, with its batch norm; an [se] is written out.
        batches: images [N,C,H,W] of n / 255, not augmented; 64 are plenty.
        scheme: bits, style, how ranges are chosen, and whether channels are evened out beforehand.
        fold: quantise weights with batch norm in them.
        learn: scales are parameters.
        trained: the network comes from quantised training of the same style. What a dorefa network computes are the
            tanhs of its weights, then, and channels are even already (no gain passes a tanh exactly).

    Raises:
        InputError: the network has a layer without integer form, or there are no images, or the accumulators that the
            scheme declares are too narrow for a layer.
    """
    images = list(batches)
    if not images:
        raise InputError("calibration: no images; give at least one batch of training images")
    check_supported(fold_bn(network).spec)
    network, number = expand(network)
    scheme = renumber(scheme, number)
    squashed = trained and scheme.style == "dorefa"
    folded = for_image_scale(fold_bn(_squashed(network) if squashed else network), scheme)
    spec, edges = folded.spec, trace_edges(folded.spec)
    bits, counts = edge_bits(edges, scheme), averaged_pixels(spec, images)
    values = [image_levels(x) * image_scale(scheme) for x in images]
    histograms, before = collect_both(folded, values, edges.producers, tabled_layers(spec))
    real = replace(scheme, style="google")  # powers of two are made where they are used
    if scheme.equalise and not squashed:
        gains, wires = _gains(spec, edges, histograms, real, fit=scheme.style == "pow2")
        network = rescale(network, gains, wires)
        histograms = {i: histogram.scaled(1 / gains[wires[i]]) for i, histogram in histograms.items()}
    scales = choose_scales(edges, histograms, real)
    scales[edges.group[-1]] = image_scale(scheme)
    for group in edges.gates:
        scales[group] = gate_scale(scheme, bits[edges.members()[group][0]])
    charges = {i: grid.scale for i, grid in charge_grids(spec, before, real).items()}
    model = FakeQuantised(network, scheme, StartRanges(scales, charges, counts), fold=fold, learn=learn)
    model.check_accumulators()
    return model


def _squashed(network: Network) -> Network:
    """The float network that a dorefa one computes."""
    state = {key: value.tanh() if key.endswith("conv.weight") else value for key, value in network.state.items()}
    return Network(network.spec, state)


def _gains(
    spec: ModelSpec, edges: Edges, histograms: dict[int, Histogram], scheme: Scheme, *, fit: bool
) -> tuple[Tensor, dict[int, Tensor]]:
    """Gains of the wires, and the wires of each edge, that even channels out half way without changing the function.

    With ``fit`` each edge is stretched as a whole too, until the scale it asks for is about a power of two, which then
    wastes no level; ``SLACK`` under it, so that the rounding of a search cannot make it the next one. Edges that share
    wires, as along a shortcut, follow the first of them.
    """
    wires, locked = trace_wires(spec)
    gains = even_gains(edges, histograms, edge_bits(edges, scheme), wires, locked) ** EVENED
    if fit:
        even = {i: histogram.scaled(1 / gains[wires[i]]) for i, histogram in histograms.items()}
        scales, done = choose_scales(edges, even, scheme), locked.clone()
        for group, members in edges.members().items():
            wire = torch.cat([wires[i] for i in members])
            if not done[wire].any():
                gains[wire.unique()] *= scales[group] / (SLACK * power_of_two(scales[group]))
                done[wire] = True
    return gains, wires


def resume(
    network: Network,
    observers: State,
    scheme: Scheme,
    *,
    counts: dict[int, int] | None = None,
    fold: bool = False,
    learn: bool = False,
) -> FakeQuantised:
    """The network with the scales it had, as ``FakeQuantised.observers`` gave them.

    Raises:
        InputError: they are those of another network or scheme.
    """
    folded = fold_bn(network).spec
    ones = dict.fromkeys(trace_edges(folded).members(), 1.0)
    start = StartRanges(ones, dict.fromkeys(tabled_layers(folded), 1.0), counts or {})
    model = FakeQuantised(network, scheme, start, fold=fold, learn=learn)
    try:
        missing, unexpected = model.load_state_dict(observers, strict=False)
    except RuntimeError as error:
        raise InputError("quantised checkpoint: its scales are of another scheme; give its float network") from error
    if unexpected or any(is_observer(key) for key in missing):
        raise InputError("quantised checkpoint: its scales are of another network; give its float network")
    return model


def thawed(observers: State) -> State:
    """The same scales with nothing frozen, for another run from here."""
    return {k: torch.zeros_like(v) if k in ("frozen", "seen") else v.clone() for k, v in observers.items()}
