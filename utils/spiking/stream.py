"""Stream mode: every layer runs in every step, and nothing that is held grows with time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from utils.darknet import spec as s
from utils.darknet.forward import move
from utils.darknet.shapes import channels, sizes
from utils.darknet.walk import run
from utils.errors import InputError
from utils.quantization.exact_conv import ExactConv
from utils.quantization.executor import image_levels
from utils.quantization.integer import IntConv, IntPool, IntShortcut, charge, read_out, weighted_sum
from utils.quantization.validate import readouts
from utils.spiking.spike_schedule import SpikingNetwork, spiking_layers
from utils.spiking.stream_neuron import RULES, StreamingNeuron

CACHED_NEURONS = 2**20  # of the images that are simulated together

Spikes = dict[int, Tensor | None]  # edge -> what it carries in one step, float32 [N,C,H,W]; None where it is silent
Watch = Callable[["State", Spikes], None]


def arriving(total: Tensor, t: int, steps: int) -> Tensor:
    """What of a whole charge comes in step ``t``, so that floor(total * (t + 1) / steps) is there by its end.

    Exact: what is divided is below 2^53, so that no quotient rounds up to an integer.
    """
    now, then = ((total * k).div_(steps).floor_() for k in (t + 1, t))
    return now - then


@dataclass
class State:
    """What a streaming network holds between two steps.

    ``charge``: A of every neuron and read-out, float64 [N,O,H,W]; ``count``: S of every neuron, float32; ``pools``: of
    every max pool the counts that came in and those that went out, float32. ``constant`` is what pixels and biases
    charge in all, ``waiting`` the part of it that arrives step by step. ``silent``: the layers that did not fire in the
    last step. ``t``: steps done.
    """

    t: int
    charge: dict[int, Tensor]
    count: dict[int, Tensor]
    pools: dict[int, tuple[Tensor, Tensor]]
    constant: dict[int, Tensor]
    waiting: dict[int, Tensor]
    silent: set[int] = field(default_factory=set)

    @property
    def bytes(self) -> int:
        """Of all tensors held, as this simulation stores them; pixels and biases are not counted."""
        held = [*self.charge.values(), *self.count.values(), *(x for pool in self.pools.values() for x in pool)]
        return sum(x.numel() * x.element_size() for x in held)


class StreamExecutor(nn.Module):
    """A predictor that simulates neurons which all run all the time.

    Pixels are direct current: they are multiplied once, and their charge, like the biases', arrives by an integer
    Bresenham schedule over the L steps of a window (``spread``) or at once (``preload``). Spikes pass all layers within
    a step. A max pool emits the change of the largest count under it. Read-outs integrate.

    With "st-bif" neurons the counts are those of the integer network once nothing fires any more, and layer d is
    settled by (d + 1) * L steps, L being the most levels of a neuron less one: its input is settled by d * L, and from
    then on every step brings its count one nearer.

    Args:
        network: what to run.
        rule: of the neurons, one of ``RULES``.
        steps: read out after so many; None: when nothing fires any more.
        schedule: "spread" or "preload".

    Raises:
        InputError: a layer cannot follow the rule; names it, its cfg line and the remedy.
    """

    def __init__(
        self, network: SpikingNetwork, *, rule: str = "st-bif", steps: int | None = None, schedule: str = "spread"
    ) -> None:
        super().__init__()
        check_rule(rule)
        self.spiking, self.rule, self.steps, self.schedule = network, rule, steps, schedule
        self.bounds = settling_bounds(network, schedule)
        integer = network.integer
        self._neurons, self._readouts = spiking_layers(integer), readouts(integer.spec)
        self._heads = frozenset(integer.spec.heads)
        self._pixels = integer.grids[-1].reach
        self.convs, self.pixel_convs = nn.ModuleDict(), nn.ModuleDict()
        for i, op in integer.ops.items():
            if isinstance(op, IntConv):
                layer, _ = integer.conv(i)
                self.convs[str(i)] = ExactConv(layer, op.weight, torch.zeros_like(op.bias), 1)
                self.pixel_convs[str(i)] = ExactConv(layer, op.weight, op.bias, self._pixels)
        self.eval()

    @property
    def arrival(self) -> int:
        """Steps until all pixels and biases have charged."""
        return self.spiking.window if self.schedule == "spread" else 1

    @property
    def bound(self) -> int:
        """Steps by which every layer is settled."""
        return max(self.bounds.values())

    @torch.no_grad()
    def forward(self, x: Tensor) -> list[Tensor]:
        """Images [N,C,H,W] of n / 255 -> raw head maps, in cfg order."""
        parts = [self.read(self.run(part)) for part in x.split(self.together(x))]
        return [torch.cat(maps) for maps in zip(*parts, strict=True)]

    def together(self, x: Tensor) -> int:
        """How many of the images to simulate at once, so that their state stays in the cache."""
        size, width = sizes(self.spiking.spec, *x.shape[2:]), channels(self.spiking.spec)
        neurons = sum(width[i] * size[i][0] * size[i][1] for i in self._neurons)
        return max(1, CACHED_NEURONS // max(1, neurons))

    @torch.no_grad()
    def run(self, x: Tensor, watch: Watch | None = None, previous: State | None = None) -> State:
        """Simulate until settled or ``steps``; ``watch`` sees every step. ``previous``: go on from there (video)."""
        state = self.begin(x, previous)
        while state.t < (self.steps or self.bound) and not self.settled(state):
            spikes = self.step(state)
            if watch is not None:
                watch(state, spikes)
        return state

    def settled(self, state: State) -> bool:
        """Nothing arrives and nothing fires any more: a fixed point."""
        return state.t >= self.arrival and len(state.silent) == len(self._neurons)

    def begin(self, x: Tensor, previous: State | None = None) -> State:
        """The state before the first step of an image; going on from ``previous`` only what changed has to arrive."""
        constant = self._constant(image_levels(x))
        if previous is not None:
            waiting = {i: total - previous.constant[i] for i, total in constant.items()}
            state = State(0, previous.charge, previous.count, previous.pools, constant, waiting)
        else:
            size, width = sizes(self.spiking.spec, *x.shape[2:]), channels(self.spiking.spec)
            charge = {i: _zeros(x, len(x), width[i], size[i], torch.float64) for i in constant}
            count = {i: torch.zeros_like(charge[i], dtype=torch.float32) for i in self._neurons}
            state = State(0, charge, count, {}, constant, dict(constant))
        for i in self._readouts:  # a read-out does not fire: nothing is gained by letting it wait
            state.charge[i] += state.waiting.pop(i)
        return state

    def step(self, state: State) -> Spikes:
        """One step of all layers, in place; returns what every edge carried."""
        dark: Tensor | None = None
        spikes = run(self.spiking.spec, dark, lambda i, layer, given: self.advance(i, given, state))
        state.t += 1
        return {i: train for i, train in spikes.items() if i not in self._heads}

    def advance(self, i: int, given: list[Tensor | None], state: State) -> Tensor | None:
        """The present step of one layer: what its sources carry in, what it carries out."""
        layer = self.spiking.spec.layers[i]
        if i in self._heads:
            return None
        if i not in self.spiking.integer.ops:
            return self._relay(i, layer, given, state)
        charged = self._integrate(i, layer, given, state)
        if i in self._readouts or not (charged or i not in state.silent):
            return None
        return self._fire(i, state)

    def read(self, state: State) -> list[Tensor]:
        """The heads as the membranes of the read-outs give them now."""
        heads = []
        for i in self._readouts:
            layer, op = self.spiking.integer.conv(i)
            heads.append(read_out(state.charge[i], op, layer.activation))
        return heads

    def neuron(self, i: int, device: torch.device) -> StreamingNeuron:
        """The neurons of a layer."""
        by = self.spiking.integer.ops[i].requantiser
        assert by is not None
        return StreamingNeuron(by, self.rule, device)

    def _constant(self, pixels: Tensor) -> dict[int, Tensor]:
        """What pixels and biases charge in all, float64 [N,O,H,W] or, where no pixel gets, [1,O,1,1]."""
        network, reached = self.spiking.integer, {-1: pixels}
        size, width = sizes(network.spec, *pixels.shape[2:]), channels(network.spec)
        constant: dict[int, Tensor] = {}
        for i, layer in enumerate(network.spec.layers):
            given = [reached.get(j) for j in layer.sources]
            lit = [
                pixels.new_zeros(len(pixels), width[j], *size[j]) if x is None else x
                for j, x in zip(layer.sources, given, strict=True)
            ]
            dark, op = all(x is None for x in given), network.ops.get(i)
            match op:
                case IntConv() if dark:
                    constant[i] = op.bias.to(pixels.device).double().view(1, -1, 1, 1)
                case IntConv():
                    constant[i] = self.pixel_convs[str(i)](lit[0]).double()
                case IntShortcut():
                    constant[i] = pixels.new_zeros(1, dtype=torch.float64) if dark else weighted_sum(lit, op.gains)
                case IntPool():
                    constant[i] = charge(lit, op, network.place(i))
                case None if not dark and i not in self._heads:
                    reached[i] = move(layer, lit)
        return constant

    def _integrate(self, i: int, layer: s.Layer, given: list[Tensor | None], state: State) -> bool:
        """Charge what arrives in this step; whether anything did."""
        held, before = state.charge[i], state.t
        arrives = i in state.waiting and before < self.arrival
        if arrives:
            held += arriving(state.waiting[i], before, self.arrival)
        if all(x is None for x in given):
            return arrives
        op = self.spiking.integer.ops[i]
        if isinstance(op, IntConv):
            assert given[0] is not None
            held += self.convs[str(i)](given[0])
        else:
            assert isinstance(op, IntShortcut | IntPool)
            held += charge(self._filled(layer, given, state), op, self.spiking.integer.place(i))
        return True

    def _fire(self, i: int, state: State) -> Tensor | None:
        spikes = self.neuron(i, state.charge[i].device).fire(state.charge[i], state.count[i])
        if bool(spikes.any()):
            state.silent.discard(i)
            return spikes
        state.silent.add(i)
        return None

    def _relay(self, i: int, layer: s.Layer, given: list[Tensor | None], state: State) -> Tensor | None:
        """Layers without neurons: what arrives in a step leaves in the same step."""
        if all(x is None for x in given):
            return None
        spikes = self._filled(layer, given, state)
        if not isinstance(layer, s.MaxPool):
            return move(layer, spikes)
        counted, sent = state.pools.get(i) or (torch.zeros_like(spikes[0]), None)
        counted += spikes[0]
        largest = move(layer, [counted])
        state.pools[i] = (counted, largest)
        return largest if sent is None else largest - sent

    def _filled(self, layer: s.Layer, given: list[Tensor | None], state: State) -> list[Tensor]:
        """The inputs of a step with zeros for those that are silent."""
        like = next(iter(state.charge.values()))
        width = channels(self.spiking.spec)
        shape = next(x for x in given if x is not None).shape
        return [
            _zeros(like, shape[0], width[j], shape[2:], torch.float32) if x is None else x
            for j, x in zip(layer.sources, given, strict=True)
        ]


def _zeros(like: Tensor, images: int, wide: int, size: Sequence[int], kind: torch.dtype) -> Tensor:
    """Channels last, as convolutions give them: nothing is turned about, and decoding rounds as for integers."""
    empty = like.new_empty(images, wide, *size, dtype=kind).contiguous(memory_format=torch.channels_last)
    return empty.zero_()


def settling_bounds(network: SpikingNetwork, schedule: str = "spread") -> dict[int, int]:
    """Steps by which a layer's counts are final, for any image: its inputs' bound and a step for each of its levels."""
    first, heads = network.window if schedule == "spread" else 1, set(network.spec.heads)

    def step(i: int, layer: s.Layer, given: list[int]) -> int:
        op = network.integer.ops.get(i)
        by = op.requantiser if op is not None else None
        return max(first, *given) + (by.qmax - by.qmin if by is not None else 0)

    return {i: bound for i, bound in run(network.spec, first, step).items() if i not in heads}


def check_rule(rule: str) -> None:
    """Refuse a rule that there is not."""
    if rule not in RULES:
        raise InputError(f"--neuron: {rule!r} is unknown; use one of {', '.join(RULES)}")
