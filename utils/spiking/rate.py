"""Rate mode: the older way, float weights normalised by what was seen, spikes that approximate. For comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from utils.darknet import spec as s
from utils.darknet.expand import expand
from utils.darknet.fold import fold_bn
from utils.darknet.forward import move_channels
from utils.darknet.network import Network
from utils.darknet.ops import activation_of, facts
from utils.darknet.walk import run
from utils.errors import InputError
from utils.quantization.histogram import float_edges
from utils.quantization.validate import readouts
from utils.spiking.choices import RESETS

PERCENTILE = 99.999
NEURONS = ("linear", "relu", "relu6", "leaky", "leaky_pow2")
DEAD = 1e-8  # a channel that never fires keeps a scale, any


@dataclass(frozen=True)
class RateNetwork:
    """A folded network whose activations are at most about 1, so that firing rates can stand for them.

    ``network``: without [transposed_convolutional] (see ``expand``); weights W' = W * scale_in / scale_out and biases
    b' = b / scale_out; the read-outs' are W * scale_in and b. ``scales``: edge -> [C], what a rate of 1 stands for; it
    is one number an edge (or a channel), used by the layer that makes it and by all that read it, so that nothing
    drifts; a concat has its branches' side by side.
    """

    network: Network
    scales: dict[int, Tensor]
    timesteps: int
    reset: str

    @property
    def spec(self) -> s.ModelSpec:
        """The layers."""
        return self.network.spec


@torch.no_grad()
def normalise(
    network: Network,
    batches: Sequence[Tensor],
    *,
    timesteps: int,
    percentile: float = PERCENTILE,
    channel_wise: bool = False,
    reset: str = "subtract",
) -> RateNetwork:
    """Fold batch norm, measure every edge on calibration images [N,C,H,W] of n / 255, and move its scale into weights.

    Args:
        network: float.
        batches: not augmented.
        timesteps: T.
        percentile: of an edge's values (of a channel's, if ``channel_wise``), in percent: what a rate of 1 stands for.
        channel_wise: a scale for every channel.
        reset: "subtract" the threshold, or to "zero", which forgets what was above it.

    Raises:
        InputError: a layer cannot spike; names it, its cfg line and the remedy.

    Source: Rueckauer et al., Conversion of continuous-valued deep networks to efficient event-driven networks for image
    classification, Frontiers in Neuroscience 2017; channel-wise: Kim et al., Spiking-YOLO, AAAI 2020.
    """
    folded = fold_bn(network)
    _check(folded.spec, timesteps, percentile, reset)
    folded = expand(folded)[0]
    scales = _scales(folded, batches, percentile, channel_wise)
    state, read = {}, set(readouts(folded.spec))
    for i, layer in folded.spec.convs.items():
        weight, bias = folded.state[f"layers.{i}.conv.weight"], folded.state[f"layers.{i}.conv.bias"]
        own = torch.ones(layer.filters) if i in read else scales[i]
        state[f"layers.{i}.conv.weight"] = weight * _input_scale(layer, scales) / own.view(-1, 1, 1, 1)
        state[f"layers.{i}.conv.bias"] = bias / own
    return RateNetwork(Network(folded.spec, state), scales, timesteps, reset)


def _input_scale(layer: s.Conv, scales: dict[int, Tensor]) -> Tensor:
    """[O,I/groups,1,1]: the scale of the channel that each weight reads, group by group."""
    given = scales[layer.sources[0]].view(layer.groups, -1)
    return given.repeat_interleave(layer.filters // layer.groups, 0)[:, :, None, None]


def _scales(folded: Network, batches: Sequence[Tensor], percentile: float, channel_wise: bool) -> dict[int, Tensor]:
    spec, skipped = folded.spec, {*readouts(folded.spec), *folded.spec.heads}
    images = sum(len(x) for x in batches)
    largest: dict[int, Tensor] = {}  # [C,k] or [1,k], the least of which is the percentile
    channels: dict[int, int] = {}
    for x in batches:
        for i, y in float_edges(folded, x):
            if i >= 0 and i not in skipped and facts(spec.layers[i]).computes:
                rows = y.abs().transpose(0, 1).flatten(1) if channel_wise else y.abs().reshape(1, -1)
                above = _passing(rows.shape[1] // len(x) * images, percentile)
                rows = torch.cat((largest[i], rows), 1) if i in largest else rows
                largest[i] = rows.topk(min(above, rows.shape[1]), 1, sorted=False).values
                channels[i] = y.shape[1]

    def step(i: int, layer: s.Layer, given: list[Tensor]) -> Tensor:
        if i in largest:
            top = largest[i].amin(1).expand(channels[i])
            return torch.where(top > DEAD, top, torch.ones_like(top))
        if i in skipped:
            return torch.ones(0)
        return move_channels(layer, given)

    scales = run(spec, torch.ones(spec.channels), step)
    return {i: scale for i, scale in scales.items() if i not in skipped}


def _passing(count: int, percent: float) -> int:
    """How many of the largest of ``count`` values end with the one that ``percent`` of them do not pass."""
    return count - min(count, max(1, round(count * percent / 100))) + 1


def _check(spec: s.ModelSpec, timesteps: int, percentile: float, reset: str) -> None:
    if timesteps < 1:
        raise InputError(f"--timesteps: {timesteps}; use 1 or more")
    if not 50 < percentile <= 100:
        raise InputError(f"--percentile: {percentile} is not in (50, 100]")
    if reset not in RESETS:
        raise InputError(f"--reset: {reset!r} is unknown; use one of {', '.join(RESETS)}")
    read = set(readouts(spec))
    for i, layer in enumerate(spec.layers):
        place, known = f"layer {i} (cfg line {layer.line})", facts(layer)
        neurons = not known.computes or known.integrates or known.section == "avgpool"
        if neurons and i not in read and activation_of(layer) not in NEURONS:
            raise InputError(
                f"{place}: activation={activation_of(layer)} cannot spike; retrain with one that can "
                f"(train.py --weights ... --act relu={activation_of(layer)}, or leaky-pow2={activation_of(layer)})"
            )
        if not neurons or getattr(layer, "weighted", False):
            raise InputError(
                f"{place}: {type(layer).__name__} has no rate-mode form; use --mode layerwise, or leave it away"
            )
