"""Before a descriptor is made: what every layer gives, where it lies, and whether the engine has all of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from utils.darknet import spec as s
from utils.darknet.ops import facts
from utils.errors import InputError
from utils.export.costs import Shape
from utils.export.engine.edges import Edge, dense, first, fresh, joined, parted
from utils.export.engine.memory import Life, allocate
from utils.export.engine.target import Engine
from utils.export.layers import acc_bits
from utils.quantization.integer import IntConv, IntegerNetwork, IntGate, IntShortcut

MOVED = s.MaxPool | s.Upsample | s.Reorg | s.Reorg3d | s.Fitted
IMAGE = -1
SCRATCH = 10_000  # buffers of sources put into another order are numbered from here on

PLACED = MOVED | s.Route | s.Dropout | s.Output  # what has no arithmetic of its own


@dataclass(frozen=True)
class MemoryPlan:
    """Edges by layer (-1: the image), the first word of each buffer, and how many words there are."""

    edges: dict[int, Edge]
    reordered: dict[tuple[int, int], Edge]  # (layer, source) -> that source in plain order
    place: dict[int, int]
    words: int
    largest: int  # words that must be there at once, whatever the map


def engine_for(network: IntegerNetwork, engine: Engine) -> Engine:
    """The engine as wide as this network needs, and no wider.

    Raises:
        InputError: a layer needs more than it has; names the layer.
    """
    faults = list(_faults(network))
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise InputError(f"--engine {engine.kind}: {faults[0]}{more}")
    gains, factors, accs, weights = [2], [2], [2], [2]
    for i, op in network.ops.items():
        accs.append(acc_bits(network, i))
        if op.requantiser is not None:
            gains.append(op.requantiser.gain_bits + max(0, 1 - op.requantiser.shift) + 1)
        if isinstance(op, IntConv):
            weights.append(op.w_bit)
        if isinstance(op, IntShortcut):
            factors.append(int(op.gains.abs().max()).bit_length() + 1)
        if isinstance(op, IntGate):
            factors.append(9)
    levels = [grid.reach.bit_length() + 1 for grid in network.grids.values()]
    before = [
        max(abs(op.requantiser.qmin), op.requantiser.qmax).bit_length() + 1
        for op in network.ops.values()
        if op.requantiser
    ]
    return replace(
        engine,
        level_bits=max(levels + before),
        weight_bits=max(weights),
        acc_bits=max(max(accs), *levels),
        gain_bits=max(gains),
        factor_bits=max(factors),
    )


def _faults(network: IntegerNetwork) -> Iterator[str]:
    for i, layer in enumerate(network.spec.layers):
        where, op, grid = network.place(i), network.ops.get(i), network.grids.get(i)
        if op is None and not isinstance(layer, PLACED):
            yield f"{where}: {type(layer).__name__} is not in the engine; use a cfg without it"
        if isinstance(op, IntConv) and op.w_bit > 8:
            yield f"{where}: weights of {op.w_bit} bits, the engine has 8; quantise with --w-bit 8"
        moved = op is None and i in network.grids  # a route may join signed and unsigned bytes
        if grid is not None and (grid.qmin < -128 or grid.qmax > 255 or (not moved and grid.qmax - grid.qmin > 255)):
            yield f"{where}: levels {grid.qmin}..{grid.qmax}, the engine has bytes; quantise with --a-bit 8"
        if op is not None and acc_bits(network, i) > 32:
            yield f"{where}: sums of {acc_bits(network, i)} bits, the engine has 32; quantise to fewer bits"


def plan(network: IntegerNetwork, shape: dict[int, Shape], engine: Engine) -> MemoryPlan:
    """Edges and the memory map."""
    layers = network.spec.layers
    image = dense(shape[IMAGE][0], engine.lanes)
    edges = {IMAGE: fresh(IMAGE, shape[IMAGE], image, [False] * len(image))}
    reordered: dict[tuple[int, int], Edge] = {}
    lives = {IMAGE: Life(len(image) * edges[IMAGE].pixels, IMAGE, 0)}
    for i, layer in enumerate(layers):
        if i in network.spec.heads:
            continue
        given = [edges[j] for j in layer.sources]
        for buffer in {block.buffer for edge in given for block in edge.blocks}:
            lives[buffer] = replace(lives[buffer], last=max(i, lives[buffer].last))
        if isinstance(layer, s.Route):
            edges[i] = joined(given, layer.groups, layer.group_id)
        elif facts(layer).identity:
            edges[i] = given[0]
        elif isinstance(layer, s.Fitted) and renamed(layer, given[0]):
            edges[i] = first(given[0], layer.filters)
        else:
            edges[i] = _made(network, i, shape[i], given, engine)
            for j, edge in zip(layer.sources, given, strict=True):
                if isinstance(network.ops.get(i), IntShortcut | IntGate) and edge.lanes != edges[i].lanes:
                    buffer = SCRATCH + len(reordered)
                    lanes = edges[i].lanes
                    reordered[i, j] = fresh(buffer, edge.shape, lanes, _signs(network, i, edge, lanes, engine))
                    lives[buffer] = Life(len(lanes) * edge.pixels, i, i)
            raw = 1 if i in network.grids else 4
            ends = any(i in layers[k].sources for k in network.spec.heads)
            lives[i] = Life(raw * len(edges[i].blocks) * edges[i].pixels, i, len(layers) if ends else i)
    if network.timed:
        lives[IMAGE] = replace(lives[IMAGE], last=len(layers))  # it is shown in every step
    place, words = allocate(lives)
    moments = range(-1, len(layers))
    largest = max(sum(life.words for life in lives.values() if life.first <= t <= life.last) for t in moments)
    return MemoryPlan(edges, reordered, place, words, largest)


def _made(network: IntegerNetwork, i: int, shape: Shape, given: list[Edge], engine: Engine) -> Edge:
    """The map that layer ``i`` writes: in the order of its sources where they agree, else in plain order."""
    layer, op, grid = network.spec.layers[i], network.ops.get(i), network.grids.get(i)
    lanes, source = tuple(dense(shape[0], engine.lanes)), given[0]
    if isinstance(layer, s.Reorg3d):
        return parted(i, shape, source)
    if isinstance(layer, s.Reorg | s.Fitted):
        return fresh(i, shape, lanes, _signs(network, i, source, lanes, engine))
    if not isinstance(op, IntConv) and all(edge.lanes == source.lanes for edge in given):
        lanes = source.lanes
    if op is None:  # moved levels keep their signs
        return fresh(i, shape, lanes, [block.signed for block in source.blocks])
    return fresh(i, shape, lanes, [grid is not None and grid.qmin < 0] * len(lanes))


def _signs(
    network: IntegerNetwork, i: int, source: Edge, lanes: Sequence[tuple[int, ...]], engine: Engine
) -> list[bool]:
    """Of the blocks ``lanes`` that layer ``i`` fills with channels of ``source``.

    Raises:
        InputError: a byte would have to hold both signed and unsigned levels.
    """
    place, everywhere = source.place(), isinstance(network.spec.layers[i], s.Reorg)
    found = []
    for block in lanes:
        channels = place if everywhere else [c for c in block if c in place]
        signs = {source.blocks[place[c][0]].signed for c in channels}
        if len(signs) > 1:
            raise InputError(
                f"--engine {engine.kind}: {network.place(i)}: one word would hold signed and unsigned levels; "
                f"give the route that it reads channels in multiples of {len(block)}, or one activation"
            )
        found.append(signs == {True})
    return found


def renamed(layer: s.Fitted, source: Edge) -> bool:
    """Whether fitting leaves channels away and does nothing else: it then moves nothing."""
    return layer.stride == layer.spread == 1 and layer.filters <= source.shape[0]
