"""Where the channels of a map lie in memory: blocks of L, a word a pixel. A route moves nothing, it names blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

HOLE = -1  # a lane without a channel; whatever is in it, nobody looks


@dataclass(frozen=True)
class LaneBlock:
    """H x W words of a buffer from word ``offset`` on, the channel of each lane, and whether its levels have a sign."""

    buffer: int
    offset: int
    lanes: tuple[int, ...]
    signed: bool = False


@dataclass(frozen=True)
class Edge:
    """What a layer gives: (C, H, W) and its blocks."""

    shape: tuple[int, int, int]
    blocks: tuple[LaneBlock, ...]

    @property
    def pixels(self) -> int:
        """Words of a block."""
        return self.shape[1] * self.shape[2]

    @property
    def lanes(self) -> tuple[tuple[int, ...], ...]:
        """The channels of every block."""
        return tuple(block.lanes for block in self.blocks)

    def place(self) -> dict[int, tuple[int, int]]:
        """Channel -> (block, lane)."""
        return {c: (b, k) for b, block in enumerate(self.blocks) for k, c in enumerate(block.lanes) if c != HOLE}


def fresh(buffer: int, shape: tuple[int, int, int], lanes: Sequence[tuple[int, ...]], signed: Sequence[bool]) -> Edge:
    """A map in a buffer of its own; ``lanes`` and ``signed`` of every block."""
    size = shape[1] * shape[2]
    blocks = zip(lanes, signed, strict=True)
    return Edge(shape, tuple(LaneBlock(buffer, b * size, each, sign) for b, (each, sign) in enumerate(blocks)))


def signs(blocks: Sequence[LaneBlock]) -> int:
    """A bit a block, modulo 64; beyond 64 blocks all must be alike.

    Raises:
        ValueError: they are not.
    """
    found = {n % 64: block.signed for n, block in enumerate(blocks)}
    if any(block.signed != found[n % 64] for n, block in enumerate(blocks)):
        raise ValueError("more than 64 blocks of channels, signed and unsigned ones")
    mask = sum(sign << n for n, sign in found.items())
    return 2**64 - 1 if all(found.values()) else mask


def dense(channels: int, wide: int) -> list[tuple[int, ...]]:
    """Channel c in block c // L, lane c % L."""
    numbers = np.arange(-(-channels // wide) * wide).reshape(-1, wide)
    return [tuple(int(c) if c < channels else HOLE for c in row) for row in numbers]


def joined(sources: Sequence[Edge], groups: int, group: int) -> Edge:
    """Slice ``group`` of ``groups`` of each source, one after the other; no copy."""
    blocks, start = [], 0
    for edge in sources:
        each = edge.shape[0] // groups
        for block in edge.blocks:
            kept = [c - group * each if group * each <= c < (group + 1) * each else HOLE for c in block.lanes]
            if any(c != HOLE for c in kept):
                blocks.append(replace(block, lanes=tuple(HOLE if c == HOLE else c + start for c in kept)))
        start += each
    return Edge((start, *sources[0].shape[1:]), tuple(blocks))


def first(edge: Edge, count: int) -> Edge:
    """The first channels of a map; no copy."""
    blocks = [replace(block, lanes=tuple(c if c < count else HOLE for c in block.lanes)) for block in edge.blocks]
    kept = tuple(block for block in blocks if any(c != HOLE for c in block.lanes))
    return Edge((count, *edge.shape[1:]), kept)


def parted(buffer: int, shape: tuple[int, int, int], source: Edge) -> Edge:
    """Space to depth, [dy][dx][C]: the blocks of the source once for every px of a square."""
    times, wide = range(shape[0] // source.shape[0]), source.shape[0]
    lanes = [tuple(HOLE if c == HOLE else c + n * wide for c in block.lanes) for n in times for block in source.blocks]
    return fresh(buffer, shape, lanes, [block.signed for block in source.blocks] * len(times))
