"""Watching a streaming network: spikes, settling times, read-outs on the way, mismatches, memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from utils.darknet import spec as s
from utils.darknet.shapes import channels, sizes
from utils.quantization.executor import IntegerExecutor
from utils.spiking.encode import SpikingNetwork
from utils.spiking.mismatch import Mismatch, is_exact, mismatch, together
from utils.spiking.stream import Spikes, State, StreamExecutor

MEMBRANE_BITS = 32
SHOWN_NEURONS = 20


@dataclass(frozen=True)
class Observation:
    """What a streaming network did with some images.

    ``activity``: edge -> spikes of each neuron, both signs, summed over the images, float64 [C,H,W]; the image's entry
    is empty. ``settled``: layer -> steps after which none of its neurons fired, the most of any image. ``heads``: step
    -> the read-outs after so many steps. ``mismatches`` against the integer network, at the last step. ``steps``: the
    most that any image took. ``state_bytes``: of one image, in this simulation, the largest that was met.
    """

    images: int
    steps: int
    activity: dict[int, Tensor]
    settled: dict[int, int]
    heads: dict[int, list[Tensor]]
    mismatches: dict[int, Mismatch]
    state_bytes: int

    @property
    def exact(self) -> bool:
        """Every count is its level."""
        return is_exact(self.mismatches)


def observe(executor: StreamExecutor, x: Tensor, points: Collection[int] = ()) -> Observation:
    """Simulate images [N,C,H,W] of n / 255 as ``forward`` does, and keep what happens on the way."""
    return join([_observe(executor, part, points) for part in x.split(executor.together(x))])


def join(parts: Sequence[Observation]) -> Observation:
    """Observations of several batches as one; read-outs in their order."""
    return Observation(
        images=sum(part.images for part in parts),
        steps=max(part.steps for part in parts),
        activity={i: sum((part.activity[i] for part in parts[1:]), parts[0].activity[i]) for i in parts[0].activity},
        settled={i: max(part.settled[i] for part in parts) for i in parts[0].settled},
        heads={
            t: [torch.cat(maps) for maps in zip(*(part.heads[t] for part in parts), strict=True)]
            for t in parts[0].heads
        },
        mismatches=together([part.mismatches for part in parts]),
        state_bytes=max(part.state_bytes for part in parts),
    )


def _observe(executor: StreamExecutor, x: Tensor, points: Collection[int]) -> Observation:
    spec, network = executor.spiking.spec, executor.spiking.integer
    size, width = sizes(spec, *x.shape[2:]), channels(spec)
    edges = [i for i in network.grids if i >= 0]
    activity = {i: torch.zeros(width[i], *size[i], dtype=torch.float64, device=x.device) for i in edges}
    settled = dict.fromkeys((i for i in edges if i in network.ops), 0)
    heads: dict[int, list[Tensor]] = {}
    largest = 0

    def watch(state: State, spikes: Spikes) -> None:
        nonlocal largest
        for i, train in spikes.items():
            if train is not None:
                activity[i] += train.abs().sum(0, dtype=torch.float64)
                if i in settled:
                    settled[i] = state.t
        if state.t in points:
            heads[state.t] = executor.read(state)
        largest = max(largest, state.bytes)

    state = executor.run(x, watch)
    final = executor.read(state)
    heads |= {t: final for t in points if t not in heads and t >= state.t}  # it was settled: nothing changes any more
    golden = IntegerExecutor(network).to(x.device).levels(x)
    found = {
        i: mismatch(count, executor.neuron(i, x.device).level(state.charge[i]), golden[i])
        for i, count in state.count.items()
    }
    return Observation(
        len(x), state.t, activity, settled, {t: heads[t] for t in sorted(heads)}, found, largest // max(1, len(x))
    )


def hardware_state_bits(network: SpikingNetwork, height: int, width: int) -> int:
    """State of an image on a chip: 32 bits a membrane of neuron or read-out, counters of neurons and max pools.

    It is all there is, whatever T.
    """
    spec, size, wide = network.spec, sizes(network.spec, height, width), channels(network.spec)
    total = 0
    for i, layer in enumerate(spec.layers):
        values = wide[i] * size[i][0] * size[i][1]
        op = network.integer.ops.get(i)
        if op is not None:
            by = op.requantiser
            total += values * (MEMBRANE_BITS + (0 if by is None else (by.hi - by.lo).bit_length()))
        elif isinstance(layer, s.MaxPool) and i in network.integer.grids:
            grid, j = network.integer.grids[i], layer.sources[0]
            total += (values + wide[j] * size[j][0] * size[j][1]) * (grid.hi - grid.lo).bit_length()
    return total


def raster(executor: StreamExecutor, x: Tensor, neurons: int = SHOWN_NEURONS) -> dict[int, Tensor]:
    """Trains of some neurons of every layer for the first image: layer -> int8 [neurons, T].

    Of each layer those are shown that fire most, evenly spread over the ones that fire at all.
    """
    trains: dict[int, list[Tensor]] = {}

    def watch(state: State, spikes: Spikes) -> None:
        for i in state.count:
            train = spikes.get(i)
            empty = torch.zeros_like(state.count[i][0], dtype=torch.int8)
            trains.setdefault(i, []).append((empty if train is None else train[0].to(torch.int8)).flatten())

    executor.run(x[:1], watch)
    return {i: _spread(torch.stack(steps, 1), neurons) for i, steps in trains.items()}


def _spread(trains: Tensor, neurons: int) -> Tensor:
    """``neurons`` of the rows [M, T], from the busiest to the least busy that fires."""
    fired = trains.abs().sum(1, dtype=torch.int32)
    order = fired.argsort(descending=True, stable=True)[: int((fired > 0).sum())]
    picked = order[torch.linspace(0, len(order) - 1, min(neurons, len(order))).long()] if len(order) else order
    return trains[picked].cpu()
