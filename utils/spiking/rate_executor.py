"""Rate mode at work: threshold 1, T steps, all layers at once."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from utils.darknet import spec as s
from utils.darknet.activations import SLOPES
from utils.darknet.expand import expand
from utils.darknet.fold import fold_bn
from utils.darknet.forward import move
from utils.darknet.modules import convolve
from utils.darknet.network import Network
from utils.darknet.ops import activation_of, facts
from utils.darknet.walk import run
from utils.quantization.histogram import float_edges
from utils.quantization.validate import readouts
from utils.spiking.mismatch import Mismatch, mismatch
from utils.spiking.rate import RateNetwork

FLOAT_SLACK = 1e-3  # spikes; what adding floats in another order may cost


class RateExecutor(nn.Module):
    """A predictor that simulates T steps of integrate-and-fire neurons with threshold 1.

    The image is direct current in every step, as is a bias. V starts at 1/2, so that rates round instead of being cut
    down. Neurons fire when V >= 1; where a layer can be negative also -1, when V <= 1/2 - 1/slope, which gives
    back 1/slope (Spiking-YOLO's imbalanced threshold; slope 1 for linear). Max pools emit the change of the largest
    count; the mean of a map is a neuron a channel. Read-outs are membranes: their charge over T, never a rate.
    """

    def __init__(self, rate: RateNetwork, steps: int | None = None) -> None:
        super().__init__()
        self.rate, self.steps = rate, steps or rate.timesteps
        self._readouts = readouts(rate.spec)
        self.eval()

    @torch.no_grad()
    def forward(self, x: Tensor) -> list[Tensor]:
        """Images [N,C,H,W] in 0..1 -> raw head maps, in cfg order."""
        return self.run(x, ()).heads[self.steps]

    @torch.no_grad()
    def run(self, x: Tensor, points: Collection[int]) -> RateRun:
        """Simulate ``steps``; the read-outs at each of ``points`` too."""
        run = RateState(self.rate, x)
        heads: dict[int, list[Tensor]] = {}
        for t in range(1, self.steps + 1):
            run.step()
            if t in points or t == self.steps:
                heads[t] = [self._read(i, run.charge[i] / t) for i in self._readouts]
        return RateRun(heads, run.count, run.total, run.activity)

    def _read(self, i: int, raw: Tensor) -> Tensor:
        return raw.sigmoid() if activation_of(self.rate.spec.layers[i]) == "logistic" else raw


@dataclass(frozen=True)
class RateRun:
    """What a simulation saw.

    ``heads``: by step. ``counts``: signed spikes of every neuron, ``total``: the charge it received, float32 [N,C,H,W].
    ``activity``: edge -> spikes of both signs over the images, float64 [C,H,W]; nothing where pixels pass.
    """

    heads: dict[int, list[Tensor]]
    counts: dict[int, Tensor]
    total: dict[int, Tensor]
    activity: dict[int, Tensor]


class RateState:
    """The state of a simulation of images ``x``; constant in T. ``count`` and ``total`` of the neurons, ``charge``."""

    def __init__(self, rate: RateNetwork, x: Tensor) -> None:
        self.rate, self.x = rate, x.float()
        self.charge: dict[int, Tensor] = {}
        self.count: dict[int, Tensor] = {}
        self.total: dict[int, Tensor] = {}
        self.activity: dict[int, Tensor] = {}
        self.pools: dict[int, tuple[Tensor, Tensor]] = {}
        self.still: dict[int, Tensor] = {}  # currents that only the image makes: the same in every step
        self.lit = {-1}  # edges that carry the image and nothing else
        self.read, self.heads = frozenset(readouts(rate.spec)), frozenset(rate.spec.heads)
        self.device = x.device

    def step(self) -> None:
        """All layers, once."""
        image: Tensor | None = self.x
        edges = run(self.rate.spec, image, self._step)
        self._count({i: x for i, x in edges.items() if x is not None})

    def _step(self, i: int, layer: s.Layer, given: list[Tensor | None]) -> Tensor | None:
        return None if i in self.heads else self.advance(i, [x for x in given if x is not None])

    def advance(self, i: int, given: list[Tensor]) -> Tensor | None:
        """A step of one layer: what its sources carry in, what it carries out; a read-out nothing."""
        layer = self.rate.spec.layers[i]
        pure = all(j in self.lit for j in layer.sources)
        if facts(layer).computes:
            current = self.still[i] if i in self.still else self._current(i, layer, given)
            if pure:
                self.still[i] = current
            if i not in self.read:
                return self._fire(i, activation_of(layer), current)
            self.charge[i] = self.charge.get(i, torch.zeros_like(current)) + current
            return None
        if isinstance(layer, s.MaxPool) and not pure:
            return self._pool(i, layer, given[0])
        if pure:
            self.lit.add(i)
        return move(layer, given)

    def _current(self, i: int, layer: s.Layer, given: list[Tensor]) -> Tensor:
        if not isinstance(layer, s.Kernel):
            own, scales = self.rate.scales[i], self.rate.scales
            gains = [(scales[j] / own).to(self.device).view(1, -1, 1, 1) for j in layer.sources]
            if facts(layer).section == "avgpool":
                given = [x.mean((2, 3), keepdim=True) for x in given]
            return torch.stack([x * gain for x, gain in zip(given, gains, strict=True)]).sum(0)
        state = self.rate.network.state
        weight, bias = (state[f"layers.{i}.conv.{name}"].to(self.device) for name in ("weight", "bias"))
        return convolve(layer, given[0], weight, bias)

    def _fire(self, i: int, activation: str, current: Tensor) -> Tensor:
        potential = self.charge.get(i)
        if potential is None:
            potential, self.count[i] = torch.full_like(current, 0.5), torch.zeros_like(current)
            self.total[i] = torch.zeros_like(current)
        potential = potential + current
        up = (potential >= 1).float()
        spikes, taken = up, up
        if activation in ("linear", *SLOPES):
            per = 1 / SLOPES.get(activation, 1.0)
            down = (potential <= 0.5 - per).float()
            spikes, taken = up - down, up - down * per
        self.charge[i] = potential - taken if self.rate.reset == "subtract" else potential * (spikes == 0)
        self.count[i] += spikes
        self.total[i] += current
        return spikes

    def _count(self, edges: dict[int, Tensor]) -> None:
        for i, x in edges.items():
            if i not in self.lit:
                fired = x.abs().sum(0, dtype=torch.float64)
                self.activity[i] = self.activity[i] + fired if i in self.activity else fired

    def _pool(self, i: int, layer: s.MaxPool, spikes: Tensor) -> Tensor:
        counted, sent = self.pools.get(i) or (torch.zeros_like(spikes), None)
        counted = counted + spikes
        largest = move(layer, [counted])
        self.pools[i] = (counted, largest)
        return largest if sent is None else largest - sent


@torch.no_grad()
def rate_mismatches(rate: RateNetwork, run: RateRun, network: Network, x: Tensor, steps: int) -> dict[int, Mismatch]:
    """How far the counts are from T times the activations of the float ``network``, which a rate of 1 caps.

    More than half a spike is wrong: no better count exists then. ``own``: off from what the received charge asks for.
    """
    found = {}
    for i, y in float_edges(expand(fold_bn(network))[0], x):
        if i not in run.counts:
            continue
        activation, scale = activation_of(rate.spec.layers[i]), rate.scales[i].to(x.device).view(1, -1, 1, 1)
        lowest = -torch.inf if activation in ("linear", *SLOPES) else 0.0
        golden = (y / scale * steps).clamp_(lowest, steps)
        slope = SLOPES.get(activation, 1.0)
        asked = torch.where(run.total[i] < 0, run.total[i] * slope, run.total[i]).clamp_(lowest, steps)
        found[i] = mismatch(run.counts[i], asked, golden, tolerance=0.5 + FLOAT_SLACK)
    return found
