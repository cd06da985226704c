"""Stream mode: a program of steps. In each, every layer runs once on what fired in it; membranes and counts stay."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from utils.darknet import spec as s
from utils.errors import InputError
from utils.export.engine.constants import PARAMETERS
from utils.export.engine.edges import HOLE
from utils.export.engine.isa import Compute, Descriptor, Load, Op, Plain, Scattering
from utils.export.engine.program import Program
from utils.quantization.integer import IntConv, IntegerNetwork, IntPool, IntShortcut
from utils.spiking.spike_schedule import encode
from utils.spiking.stream import settling_bounds

SPIKES: dict[str, Any] = {"signed": 2**64 - 1, "lo": -128, "hi": 127}  # bytes of -1, 0 and 1, whatever their levels are
LEAST = 16  # membranes
LONGEST = 0x8000  # words of a load


def stream_program(network: IntegerNetwork, program: Program, identity: int, steps: int | None = None) -> Program:
    """The program of a layer after the other, taken apart into steps, and one more pass that shows the counts.

    In the first step all biases and pixels charge ("preload" of `StreamExecutor`); then layers exchange spikes of
    -1, 0 and 1 until nothing can fire any more, whatever the image.

    Args:
        program: of the layerwise engine.
        identity: word of the constants that move a block as it is.
        steps: other than those by which every network settles.

    Raises:
        InputError: pixels go elsewhere than into convolutions, or the membranes of all layers do not fit.
    """
    check_pixels(network)
    steps = max(settling_bounds(encode(network), "preload").values()) if steps is None else steps
    made = Stream(network, program, identity)
    first, later = list(made.step(first=True)), list(made.step(first=False))
    parts = [first, *[later] * (steps - 1)] if steps else []
    parts.append(list(made.shown()))
    if made.words > program.engine.membranes:
        raise InputError(
            f"--engine stream: the neurons of all layers have {made.words} membranes a lane, the engine "
            f"{program.engine.membranes}; give it more (membranes of --target), or use --engine spikes"
        )
    engine = replace(program.engine, membranes=max(LEAST, 1 << (made.words - 1).bit_length()))
    page = 4096 // engine.lanes
    start = -(-(made.scratch + made.count_words) // page) * page
    descriptors = (*(one for part in parts for one in part), Plain(Op.END))
    return replace(program, engine=engine, descriptors=descriptors, start=start, phases=tuple(map(len, parts)))


def check_pixels(network: IntegerNetwork) -> None:
    """Refuse pixels that anything but a convolution reads: they would have to stay where they are for all steps.

    Raises:
        InputError: names the layer and its cfg line.
    """
    for i, layer in enumerate(network.spec.layers):
        if -1 in layer.sources and not isinstance(network.ops.get(i), IntConv):
            raise InputError(
                f"--engine stream: {network.place(i)}: reads pixels and is no convolution; put one before it, "
                "or use --engine spikes"
            )


@dataclass
class Stream:
    """Descriptors of a step, and where its membranes lie.

    ``words``: membranes so far. ``count_words``: of the largest block that a pool reads, from ``scratch`` on in memory.
    """

    network: IntegerNetwork
    program: Program
    identity: int
    words: int = 0
    count_words: int = 0
    layers: dict[int, list[Descriptor]] = field(default_factory=dict)
    place: dict[tuple[int, int], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Group the layers' descriptors, and lay membranes out: those that moves need for a moment lie behind."""
        for one in self.program.descriptors[:-1]:
            self.layers.setdefault(one.layer, []).append(one)
        moved = 1
        for i, ones in self.layers.items():
            for k, one in enumerate(ones):
                if isinstance(one, Compute) and (self.keeps(one) or self.pools(i)):
                    self.place[i, k] = self.words
                    self.words += one.outputs
                elif isinstance(one, Compute) and one.events is not None:
                    moved = max(moved, one.outputs)
            if self.pools(i):
                source = self.program.plan.edges[self.network.spec.layers[i].sources[0]]
                self.count_words = max(self.count_words, source.pixels)
                for b in range(len(source.blocks)):
                    self.place[i, -1 - b] = self.words
                    self.words += source.pixels
        self.of_moves, self.words = self.words, self.words + moved

    @property
    def scratch(self) -> int:
        """First word of memory behind the maps."""
        return self.program.activations + self.program.plan.words

    def keeps(self, one: Compute) -> bool:
        """Whether these are neurons or read-outs, which integrate."""
        return one.events is not None and not one.plain

    def pools(self, i: int) -> bool:
        """Whether layer ``i`` is a max pool."""
        return isinstance(self.network.spec.layers[i], s.MaxPool)

    def step(self, *, first: bool) -> Iterator[Descriptor]:
        """All layers, once."""
        for i, ones in self.layers.items():
            if self.pools(i):
                yield from self.pool(i, ones, first)
                continue
            lit = -1 in self.network.spec.layers[i].sources
            for k, one in enumerate(ones):
                if isinstance(one, Load) and lit and not first:
                    if one.op is Op.LOAD_WEIGHTS:
                        yield replace(one, length=PARAMETERS)
                elif isinstance(one, Load):
                    yield one
                elif isinstance(one, Compute) and self.keeps(one):
                    kept = replace(one, membrane=self.place[i, k], keep=not first, stream=not one.raw)
                    yield kept if lit and first else dark(kept) if lit else replace(kept, signed=SPIKES["signed"])
                elif isinstance(one, Compute):
                    yield replace(one, membrane=0 if one.events is None else self.of_moves, **SPIKES)

    def pool(self, i: int, ones: list[Descriptor], first: bool) -> Iterator[Descriptor]:
        """What came in is counted, block by block, and a pool fires where the largest count is another one."""
        source, lanes = self.program.plan.edges[self.network.spec.layers[i].sources[0]], self.program.engine.lanes
        each = len(ones) // len(source.blocks)
        yield Load(op=Op.LOAD_WEIGHTS, layer=i, address=self.identity, length=PARAMETERS + lanes)
        for b, block in enumerate(source.blocks):
            at = self.program.address(block)
            events = Scattering(True, False, sum(1 << k for k, c in enumerate(block.lanes) if c != HOLE))
            most = min(self.program.engine.input_words, LONGEST)
            for low in range(0, source.pixels, most):
                n = min(most, source.pixels - low)
                yield Load(op=Op.LOAD_INPUT, layer=i, address=at + low, length=n)
                yield Compute(
                    layer=i, address=self.scratch + low, size=(1, n), wide=n, high=1, base=0, plain=True, events=events,
                    membrane=self.place[i, -1 - b] + low, keep=not first, **SPIKES,
                )  # fmt: skip
            for k in range(b * each, (b + 1) * each):
                one = ones[k]
                if isinstance(one, Load):
                    yield replace(one, address=one.address - at + self.scratch)
                elif isinstance(one, Compute):
                    yield replace(one, membrane=self.place[i, k], keep=not first, stream=True)

    def shown(self) -> Iterator[Descriptor]:
        """The counts of all neurons as the maps of their layers, what moves them, and the accumulators of the heads."""
        for i, ones in self.layers.items():
            op = self.network.ops.get(i)
            for k, one in enumerate(ones):
                if isinstance(one, Compute) and self.keeps(one):
                    yield dark(replace(one, membrane=self.place[i, k], keep=True, stream=not one.raw, show=not one.raw))
                elif isinstance(op, IntConv | IntShortcut | IntPool):
                    continue
                elif isinstance(one, Compute) and one.events is not None:
                    yield replace(one, membrane=self.of_moves)
                else:
                    yield one


def dark(one: Compute) -> Compute:
    """The same neurons, which nothing reaches."""
    assert one.events is not None
    return replace(one, events=replace(one.events, used=0), blocks=1, wide=1, high=1)
