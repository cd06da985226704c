"""Watching a streaming network: spikes, settling times, read-outs on the way, mismatches, memory."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from utils.darknet import spec as s
from utils.darknet.shapes import channels, sizes
from utils.quantization.executor import IntegerExecutor
from utils.quantization.integer import IntegerNetwork
from utils.spiking.mismatch import Mismatch, is_exact, mismatch, together
from utils.spiking.spike_schedule import SpikingNetwork
from utils.spiking.stream import Spikes, State, StreamExecutor

MEMBRANE_BITS = 32
SHOWN_NEURONS = 20


@dataclass(frozen=True)
class Observation:
    """What a streaming network did with some images.

    ``activity``: edge -> spikes of each neuron, both signs, summed over the images, float64 [C,H,W]; the image's entry
    is empty. ``settled``: layer -> steps after which none of its neurons fired, the most of any image. ``heads``: step
    -> the read-outs after so many steps. ``mismatches`` against the integer network, at the last step. ``steps``: the
    most that any image took. ``state_bytes``: of one image, in this simulation, the largest that was met. ``earlier``:
    step -> the same, as it was after so many steps.
    """

    images: int
    steps: int
    activity: dict[int, Tensor]
    settled: dict[int, int]
    heads: dict[int, list[Tensor]]
    mismatches: dict[int, Mismatch]
    state_bytes: int
    earlier: dict[int, Observation] = field(default_factory=dict)

    @property
    def exact(self) -> bool:
        """Every count is its level."""
        return is_exact(self.mismatches)


def observe(
    executor: StreamExecutor,
    x: Tensor,
    points: Collection[int] = (),
    also: Collection[int] = (),
    golden: IntegerNetwork | None = None,
) -> Observation:
    """Simulate images [N,C,H,W] of n / 255 as ``forward`` does, and keep what happens on the way.

    Args:
        executor: the network and its neurons.
        x: the images.
        points: steps whose read-outs are kept.
        also: steps of which everything is kept, in ``earlier``.
        golden: whose levels the counts should be; by default those of the executor's own integers.
    """
    parts, integers = x.split(executor.together(x)), IntegerExecutor(golden or executor.spiking.integer).to(x.device)
    return join([_Watched(executor, part, points, also, integers.levels(part)).observation() for part in parts])


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
        earlier={t: join([part.earlier[t] for part in parts]) for t in parts[0].earlier},
    )


class _Watched:
    """A simulation of some images, and what it has seen so far."""

    def __init__(
        self,
        executor: StreamExecutor,
        x: Tensor,
        points: Collection[int],
        also: Collection[int],
        golden: dict[int, Tensor],
    ) -> None:
        network = executor.spiking.integer
        size, width = sizes(network.spec, *x.shape[2:]), channels(network.spec)
        edges = [i for i in network.grids if i >= 0]
        self.executor, self.x, self.points, self.also = executor, x, points, also
        self.golden = golden
        self.activity = {i: torch.zeros(width[i], *size[i], dtype=torch.float64, device=x.device) for i in edges}
        self.settled = dict.fromkeys((i for i in edges if i in network.ops), 0)
        self.heads: dict[int, list[Tensor]] = {}
        self.earlier: dict[int, Observation] = {}
        self.largest = 0

    def observation(self) -> Observation:
        state = self.executor.run(self.x, self.watch)
        final = self.executor.read(state)
        late = {t for t in self.points if t not in self.heads and t >= state.t}
        self.heads |= dict.fromkeys(late, final)  # it was settled: nothing changes any more
        whole = self.now(state)
        return replace(whole, earlier={t: self.earlier.get(t, whole) for t in self.also})

    def watch(self, state: State, spikes: Spikes) -> None:
        for i, train in spikes.items():
            if train is not None:
                self.activity[i] += train.abs().sum(0, dtype=torch.float64)
                if i in self.settled:
                    self.settled[i] = state.t
        self.largest = max(self.largest, state.bytes)
        if state.t in self.points:
            self.heads[state.t] = self.executor.read(state)
        if state.t in self.also:
            self.earlier[state.t] = self.now(state)

    def now(self, state: State) -> Observation:
        device = self.x.device
        found = {
            i: mismatch(count, self.executor.neuron(i, device).level(state.charge[i]), self.golden[i])
            for i, count in state.count.items()
        }
        activity = {i: fired.clone() for i, fired in self.activity.items()}
        heads = {t: self.heads[t] for t in sorted(self.heads)}
        held = self.largest // max(1, len(self.x))
        return Observation(len(self.x), state.t, activity, dict(self.settled), heads, found, held)


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
            total += values * (MEMBRANE_BITS + (0 if by is None else (by.qmax - by.qmin).bit_length()))
        elif isinstance(layer, s.MaxPool) and i in network.integer.grids:
            grid, j = network.integer.grids[i], layer.sources[0]
            total += (values + wide[j] * size[j][0] * size[j][1]) * (grid.qmax - grid.qmin).bit_length()
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


def curve_points(limit: int, wanted: Sequence[int] | None, also: Sequence[int] = ()) -> tuple[int, ...]:
    """Steps at which accuracy is measured: those asked for, or a geometric spread; and ``also``."""
    if wanted:
        return tuple(sorted({t for t in (*wanted, *also) if t <= limit}))
    spread, t = {1, limit}, 1.0
    while t < limit:
        spread.add(round(t))
        t *= 1.35
    return tuple(sorted(spread | {t for t in also if t <= limit}))
