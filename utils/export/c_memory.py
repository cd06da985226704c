"""Where everything of the C network lies in its one arena: maps, head accumulators, and each layer's working memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

from utils.darknet import spec as s
from utils.export.costs import Shape
from utils.quantization.integer import IntConv, IntegerNetwork, IntegerOp
from utils.quantization.validate import readouts

ALIGN = 16  # bytes; what a vector register likes
AT_ONCE = 4  # outputs that `conv` of layers.c works on
PLACES = (256, 128, 64, 32, 16, 1)  # outputs of a channel at a time, at least: many are fast, few are small
BAND = 32768  # bytes; a band of many rows may be so large, as a first cache is
ALLOWED = 1.2  # arena to live maps, above which fewer rows are worked on at a time

WORDS = ((7, "int8_t", 1), (15, "int16_t", 2), (31, "int32_t", 4), (63, "int64_t", 8))  # bits beside the sign


@dataclass(frozen=True)
class CInteger:
    """An integer type of C."""

    name: str
    bytes: int

    @classmethod
    def of(cls, bits: int) -> CInteger:
        """The smallest signed one with so many bits beside the sign."""
        return next(cls(name, size) for room, name, size in WORDS if bits <= room)


@dataclass(frozen=True)
class CTypes:
    """What the network's bounds demand: of levels being worked on, weights and accumulators."""

    work: CInteger
    weight: CInteger
    acc: CInteger

    @classmethod
    def of(cls, network: IntegerNetwork) -> CTypes:
        """Of this network."""
        reach = max(grid.reach for grid in network.grids.values())
        before = [max(-by.qmin, by.qmax) for op in network.ops.values() if (by := op.requantiser) is not None]
        convs = [op for op in network.ops.values() if isinstance(op, IntConv)]
        return cls(
            CInteger.of(max(8, max([reach, *before]).bit_length())),
            CInteger.of(max(op.w_bit for op in convs) - 1),
            CInteger.of(max(31, *(op.acc_bits - 1 for op in convs))),
        )


@dataclass(frozen=True)
class Band:
    """A kernel's rows of the input as `struct window` has them; counts are of places (a ``work_t`` each).

    ``rows``: of outputs at a time. ``phases``: (down, right). ``high``, ``wide``: rows of a phase, places of a row.
    ``taps``: where the first output's taps lie in a channel, [ky][kx].
    """

    rows: int
    phases: tuple[int, int]
    high: int
    wide: int
    taps: tuple[int, ...]

    @property
    def channel(self) -> int:
        """Places of a channel."""
        return self.phases[0] * self.phases[1] * self.high * self.wide

    @property
    def outputs(self) -> int:
        """Places of the outputs, those between rows included."""
        return self.rows * self.wide


@dataclass(frozen=True)
class ArenaBlock:
    """Bytes of the arena, from the layer that writes them to the last one that reads them."""

    bytes: int
    first: int
    last: int


@dataclass(frozen=True)
class ArenaPlan:
    """First byte of each block, named by what it holds: ("map", layer), ("band" or "sums" or "levels", layer).

    In a network of steps also ("membranes", layer), and ("frames", -1) where every step has an image of its own.
    """

    start: dict[tuple[str, int], int]
    size: int
    maps: int  # bytes of the maps that live at once, at most, were every level a byte; and of what stays over steps
    bands: dict[int, Band]

    def kept(self, ends: Iterable[int]) -> dict[int, int]:
        """Layer -> first byte of its accumulators that go on from step to step: membranes, and the sums of ``ends``."""
        membranes = {i: at for (what, i), at in self.start.items() if what == "membranes"}
        return dict(sorted((membranes | {i: self.start["map", i] for i in ends}).items()))


def storage(network: IntegerNetwork, i: int) -> str:
    """How the levels of edge ``i`` are stored: "U8", "S8", "S16" or "S32"."""
    grid = network.grids[i]
    if grid.qmin >= 0 and grid.qmax <= 255:
        return "U8"
    return {1: "S8", 2: "S16", 4: "S32"}[CInteger.of(max(grid.qmax, -grid.qmin - 1).bit_length()).bytes]


def plan_arena(network: IntegerNetwork, shape: dict[int, Shape]) -> ArenaPlan:
    """The arena with the longest rows that keep it within ``ALLOWED``; the smallest one where none does."""
    live, plans = live_levels(network, shape), []
    if network.timed:
        live += sum(block.bytes for block in _lasting(network, shape).values())
    for places in PLACES:
        bands = {i: band_of(network, i, shape, places) for i in windows(network)}
        blocks = _blocks(network, shape, bands)
        start, size = place(blocks)
        plans.append(ArenaPlan(start, size, live, bands))
        if size <= ALLOWED * live:
            return plans[-1]
    return min(plans, key=lambda plan: plan.size)


def live_levels(network: IntegerNetwork, shape: dict[int, Shape]) -> int:
    """Levels of all the maps that must be there at once, at most."""
    last = network.spec.last_readers
    lives = [(i, last.get(i, i), prod(shape[i])) for i in network.grids]
    moments = range(-1, len(network.spec.layers))
    return max(sum(levels for first, end, levels in lives if first <= t <= end) for t in moments)


def windows(network: IntegerNetwork) -> list[int]:
    """Layers that look through a window."""
    layers = enumerate(network.spec.layers)
    return [i for i, layer in layers if isinstance(network.ops.get(i), IntConv) or isinstance(layer, s.MaxPool)]


def view(network: IntegerNetwork, i: int) -> tuple[int, tuple[int, int], int, int]:
    """Size, strides (down, right), padding before and dilation of a window."""
    layer = network.spec.layers[i]
    if isinstance(layer, s.MaxPool):
        return layer.size, (layer.stride, layer.stride), layer.pad // 2, 1
    conv, _ = network.conv(i)
    return conv.size, conv.stride, conv.pad, conv.dilation


def band_of(network: IntegerNetwork, i: int, shape: dict[int, Shape], places: int) -> Band:
    """The band of layer ``i``: at least so many places of outputs, and more as long as it stays small."""
    _, high, wide = shape[i]
    size, (down, right), _, dilation = view(network, i)
    reach = (size - 1) * dilation
    phases = (down, right) if size > 1 else (1, 1)
    width = wide + reach // right
    channels, together, _ = _work(network, i, shape)

    def band(rows: int) -> Band:
        tall = rows + reach // down
        taps = tuple(
            ((y % down) * right + x % right) * tall * width + y // down * width + x // right
            for y in range(0, reach + 1, dilation)
            for x in range(0, reach + 1, dilation)
        )
        return Band(rows, phases, tall, width, taps)

    rows, work, acc = min(high, -(-places // width)), CTypes.of(network).work.bytes, 4
    while places > 1 and rows < high:
        more = band(min(high, rows + 1))
        if channels * more.channel * work + more.outputs * (together * acc + work) > BAND:
            break
        rows = more.rows
    return band(rows)


def _work(network: IntegerNetwork, i: int, shape: dict[int, Shape]) -> tuple[int, int, bool]:
    """Of layer ``i``: channels in its band, outputs at a time, whether they are read out."""
    if network.ops.get(i) is None:
        return 1, 0, False
    conv, op = network.conv(i)
    groups = conv.groups
    made = min(AT_ONCE, shape[i][0] // groups)
    return shape[conv.sources[0]][0] // groups, made, op.requantiser is None


def _blocks(
    network: IntegerNetwork, shape: dict[int, Shape], bands: dict[int, Band]
) -> dict[tuple[str, int], ArenaBlock]:
    """All that lies in the arena; read-outs stay to the end."""
    last, types, end = network.spec.last_readers, CTypes.of(network), len(network.spec.layers)
    size = {"U8": 1, "S8": 1, "S16": 2, "S32": 4}
    blocks = {
        ("map", i): ArenaBlock(prod(shape[i]) * size[storage(network, i)], i, last.get(i, i)) for i in network.grids
    }
    for i in set(readouts(network.spec)):
        blocks["map", i] = ArenaBlock(prod(shape[i]) * types.acc.bytes, i, end)
    for i, band in bands.items():
        channels, made, raw = _work(network, i, shape)
        blocks["band", i] = ArenaBlock(channels * band.channel * types.work.bytes, i, i)
        if made:
            blocks["sums", i] = ArenaBlock(made * band.outputs * types.acc.bytes, i, i)
        if not raw:
            blocks["levels", i] = ArenaBlock(band.outputs * types.work.bytes, i, i)
    return blocks | _lasting(network, shape)


def _lasting(network: IntegerNetwork, shape: dict[int, Shape]) -> dict[tuple[str, int], ArenaBlock]:
    """What a network of steps keeps through all of them: membranes, sums, and what it is shown; nothing of another."""
    if not network.timed:
        return {}
    word, spec = CTypes.of(network).acc.bytes, network.spec
    sizes = {("map", i): prod(shape[i]) * word for i in readouts(spec)}
    sizes |= {("membranes", i): prod(shape[i]) * word for i, op in network.ops.items() if has_neurons(op)}
    shown = prod(shape[-1])
    sizes |= {("frames", -1): shown * spec.timesteps} if spec.input_frames else {("map", -1): shown}
    return {name: ArenaBlock(size, -1, len(spec.layers)) for name, size in sizes.items()}


def has_neurons(op: IntegerOp) -> bool:
    """Whether what an operation adds up charges leaky neurons."""
    return isinstance(op, IntConv) and op.neuron is not None


def place(blocks: dict[tuple[str, int], ArenaBlock]) -> tuple[dict[tuple[str, int], int], int]:
    """First bytes and the size of all: the lowest free stretch, in the better of two orders, by birth or by size."""
    orders = (
        sorted(blocks, key=lambda name: (blocks[name].first, -blocks[name].bytes)),
        sorted(blocks, key=lambda name: (-blocks[name].bytes, blocks[name].first)),
    )
    return min((_first_fit(blocks, order) for order in orders), key=lambda found: found[1])


def _first_fit(
    blocks: dict[tuple[str, int], ArenaBlock], order: Sequence[tuple[str, int]]
) -> tuple[dict[tuple[str, int], int], int]:
    start: dict[tuple[str, int], int] = {}
    end = 0
    for name in order:
        block, at = blocks[name], 0
        for low, high in sorted(_beside(blocks, block, start)):
            if at + block.bytes <= low:
                break
            at = max(at, -(-high // ALIGN) * ALIGN)
        start[name], end = at, max(end, at + block.bytes)
    return start, -(-end // ALIGN) * ALIGN


def _beside(
    blocks: dict[tuple[str, int], ArenaBlock], block: ArenaBlock, start: dict[tuple[str, int], int]
) -> Iterable[tuple[int, int]]:
    """Where the blocks lie that live at the same time."""
    for name, at in start.items():
        other = blocks[name]
        if other.first <= block.last and block.first <= other.last:
            yield at, at + other.bytes
