"""Descriptors of one layer at a time: loads, tiles, and the three ways in which a layer walks over its blocks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from utils.errors import InputError
from utils.export.engine.clocks import clocks
from utils.export.engine.constants import PARAMETERS, ConstantStore, Scaling, weight_rows
from utils.export.engine.edges import Edge, LaneBlock, signs
from utils.export.engine.isa import Compute, Descriptor, Load, Op, Scattering
from utils.export.engine.plan import MemoryPlan
from utils.export.engine.target import Engine
from utils.export.engine.tiles import Tile, Window, tiles
from utils.quantization.integer import IntegerNetwork

LEAST_RAW = 4  # clocks of an output that is stored as an accumulator: it takes four words


class MapLoad(Load):
    """A load whose address counts from the first map."""


class MapStore(Compute):
    """A computation, which stores into a map."""


@dataclass
class Emitter:
    """ConstantStore and program so far. Maps are counted from 0 until ``placed`` puts them behind the constants."""

    network: IntegerNetwork
    engine: Engine
    plan: MemoryPlan
    constants: ConstantStore
    program: list[Descriptor] = field(default_factory=list)

    @cached_property
    def pixels(self) -> set[int]:
        """Edges that hold pixels of the image, moved or not: no neuron fired them."""
        found = {-1}
        for i, layer in enumerate(self.network.spec.layers):
            if i not in self.network.ops and found & set(layer.sources):
                found.add(i)
        return found

    def place(self, i: int) -> str:
        """Layer ``i`` in messages."""
        return f"--engine {self.engine.kind}: {self.network.place(i)}"

    def at(self, block: LaneBlock) -> int:
        """First word of a block; maps are counted from 0 until all constants are known."""
        return self.plan.place[block.buffer] + block.offset

    def load_input(self, i: int, blocks: Sequence[LaneBlock], low: int, length: int) -> list[Descriptor]:
        """``length`` words from word ``low`` of each block, one block after the other."""
        if length > 0xFFFF:
            raise InputError(f"{self.place(i)}: {length} words at once; use a smaller buffer")
        found: list[Descriptor] = []
        starts, into = [self.at(block) + low for block in blocks], 0
        while starts:
            count, stride = 1, starts[1] - starts[0] if len(starts) > 1 else 0
            while count < len(starts) and starts[count] - starts[count - 1] == stride:
                count += 1
            place = {"address": starts[0], "stride": stride, "into": into}
            found.append(MapLoad(op=Op.LOAD_INPUT, layer=i, length=length, rows=count, **place))
            into += count * length
            starts = starts[count:]
        return found

    def signs(self, i: int, blocks: Sequence[LaneBlock]) -> int:
        """Which blocks have signed levels."""
        try:
            return signs(blocks)
        except ValueError as error:
            raise InputError(f"{self.place(i)}: {error}; prune it") from None

    def events(self, i: int, read: Sequence[LaneBlock], rows: np.ndarray | None = None) -> Scattering | None:
        """How what is read becomes events, where the engine has them; ``rows`` of weights, None of gains."""
        if not self.engine.spiking:
            return None
        used = sum(1 << k for k in range(self.engine.lanes) if any(block.lanes[k] >= 0 for block in read))
        diagonal = rows is None or not (rows * (1 - np.eye(self.engine.lanes, dtype=np.int8))).any()
        return Scattering(diagonal, any(j in self.pixels for j in self.network.spec.layers[i].sources), used)

    def load_weights(self, i: int, content: bytes) -> Load:
        """Parameters and rows."""
        words = (len(content) - PARAMETERS * self.engine.lanes) // self.engine.lanes**2
        if words > self.engine.weight_rows:
            raise InputError(
                f"{self.place(i)}: {words} rows of weights, the engine has "
                f"{self.engine.weight_rows}; give it more (weight_rows of --target)"
            )
        address, length = self.constants.place(content)
        return Load(op=Op.LOAD_WEIGHTS, layer=i, address=address, length=length)

    def tiled(self, i: int, window: Window, source: Edge, out: Edge, blocks: int, *, sums: bool = False) -> list[Tile]:
        """The tiles of a layer; ``sums``: of outputs that are accumulated, each in a membrane where there are such."""
        (_, high, wide), (_, out_high, out_wide) = source.shape, out.shape
        most = self.engine.membranes // out_wide if sums and self.engine.spiking else out_high
        found = tiles(window, high, out_high, wide * blocks, self.engine.input_words, most) if most else None
        if most == 0:
            raise InputError(
                f"{self.place(i)}: one row of outputs has {out_wide} px, the engine "
                f"{self.engine.membranes} membranes a lane; give it more (membranes of --target)"
            )
        if found is None:
            raise InputError(
                f"{self.place(i)}: one row of outputs needs more than the "
                f"{self.engine.input_words} words of the input buffer; give it more (input_words of --target)"
            )
        return list(found)

    def compute(
        self,
        i: int,
        tile: Tile,
        window: Window,
        source: Edge,
        out: Edge,
        block: LaneBlock,
        *,
        raw: bool = False,
        **rest: Any,
    ) -> Compute:
        """One tile of one block."""
        wide, rows, left = source.shape[2], tile.high - tile.low, window.aside - window.before
        of_output = 4 if raw else 1  # words
        word = (block.offset + tile.first * out.shape[2]) * of_output
        if rest.get("events") and tile.top > 0:
            raise InputError(f"{self.place(i)}: outputs that read nothing but padding; use less of it (padding=)")
        return MapStore(
            layer=i,
            address=self.plan.place[block.buffer] + word,
            size=(tile.end - tile.first, out.shape[2]),
            wide=wide,
            high=rows,
            base=(tile.top * wide + left) % self.engine.input_words,
            left=left,
            top=tile.top,
            kernel=window.kernel,
            block=rows * wide,
            step=window.step,
            dilation=window.dilation,
            up=window.up,
            raw=raw,
            **rest,
        )

    def products(
        self, i: int, window: Window, source: Edge, out: Edge, by: Scaling, weight: np.ndarray, groups: int,
        fields: dict[str, Any],
    ) -> None:  # fmt: skip
        """Weights times windows, in the cheaper order: tiles outside, or blocks of outputs outside."""
        for numbers, blocks in _jobs(source, out, weight, groups):
            read, count = [source.blocks[b] for b in numbers], len(numbers)
            fields = fields | {"signed": self.signs(i, read)}
            waits = fields.get("raw") and not self.engine.spiking
            least = -(-LEAST_RAW // int(np.prod(window.kernel))) if waits else 1
            parts = []
            for block in blocks:
                rows = weight_rows(weight, block.lanes, [each.lanes for each in read], groups)
                events = self.events(i, read, rows)
                if count < least:
                    rows = np.concatenate(
                        [rows, np.zeros(((least - count) * rows.shape[0] // count, *rows.shape[1:]), np.int8)]
                    )
                load = self.load_weights(i, by.block(block.lanes) + rows.tobytes())
                parts.append((block, load, fields | {"blocks": max(count, least), "events": events}))
            made = self.tiled(i, window, source, out, count, sums=True)
            loads = {
                tile: self.load_input(i, read, tile.low * source.shape[2], (tile.high - tile.low) * source.shape[2])
                for tile in made
            }
            outer_tiles: list[Descriptor] = []
            outer_blocks: list[Descriptor] = []
            for tile in made:
                outer_tiles += loads[tile]
                for block, load, settings in parts:
                    if len(made) > 1 or len(blocks) > 1 or tile is made[0]:
                        outer_tiles.append(load)
                    outer_tiles.append(self.compute(i, tile, window, source, out, block, **settings))
            for k, (block, load, settings) in enumerate(parts):
                outer_blocks.append(load)
                for tile in made:
                    if len(made) > 1 or k == 0:
                        outer_blocks += loads[tile]
                    outer_blocks.append(self.compute(i, tile, window, source, out, block, **settings))
            lanes = self.engine.lanes
            self.program += min(outer_tiles, outer_blocks, key=lambda each: clocks(each, lanes))

    def elements(
        self, i: int, given: Sequence[Edge], out: Edge, fields: dict[str, Any],
        content: Callable[[tuple[int, ...]], bytes], gate: Edge | None = None,
    ) -> None:  # fmt: skip
        """Element by element, as many words at a time as fit with all sources in the buffer."""
        room, loaded = min(self.engine.input_words // len(given), 0x8000), b""
        room = min(room, self.engine.membranes) if self.engine.spiking else room
        for b, block in enumerate(out.blocks):
            wanted = content(block.lanes)
            if wanted != loaded:
                self.program.append(self.load_weights(i, wanted))
                loaded = wanted
            if gate is not None:
                self.program.append(MapLoad(op=Op.LOAD_GATE, layer=i, address=self.at(gate.blocks[b]), length=1))
            for low in range(0, out.pixels, room):
                words = min(room, out.pixels - low)
                read = [edge.blocks[b] for edge in given]
                self.program += self.load_input(i, read, low, words)
                self.program.append(
                    MapStore(
                        layer=i, address=self.at(block) + low, size=(1, words), wide=words, high=1, base=0,
                        blocks=len(given), block=words, signed=self.signs(i, read),
                        gate_signed=gate is not None and gate.blocks[b].signed, events=self.events(i, read), **fields,
                    )
                )  # fmt: skip

    def blockwise(
        self, i: int, window: Window, source: Edge, out: Edge, fields: dict[str, Any],
        content: Callable[[tuple[int, ...]], bytes] | None = None, into: Sequence[LaneBlock] | None = None,
    ) -> None:  # fmt: skip
        """LaneBlock by block, each from the same block of the input: pools, averages, moves. ``into``: of ``out``."""
        made, loaded = self.tiled(i, window, source, out, 1), b""
        for given, block in zip(source.blocks, into or out.blocks, strict=True):
            if content is not None and content(block.lanes) != loaded:
                loaded = content(block.lanes)
                self.program.append(self.load_weights(i, loaded))
            for tile in made:
                self.program += self.load_input(
                    i, [given], tile.low * source.shape[2], (tile.high - tile.low) * source.shape[2]
                )
                self.program.append(
                    self.compute(i, tile, window, source, out, block, signed=self.signs(i, [given]), **fields)
                )


def placed(one: Descriptor, by: int) -> Descriptor:
    """The descriptor with maps that begin at word ``by``."""
    if isinstance(one, MapLoad | MapStore):
        kind = Load if isinstance(one, MapLoad) else Compute
        return kind(**{**vars(one), "address": one.address + by})
    return one


def _jobs(
    source: Edge, out: Edge, weight: np.ndarray, groups: int
) -> Iterator[tuple[tuple[int, ...], list[LaneBlock]]]:
    """Blocks of outputs that read the same blocks of inputs, whose numbers come first."""
    place = source.place()
    each_out, each_in = weight.shape[0] // groups, weight.shape[1]
    found: dict[tuple[int, ...], list[LaneBlock]] = {}
    for block in out.blocks:
        of_groups = {o // each_out for o in block.lanes if o >= 0}
        read = [place[c][0] for g in of_groups for c in range(g * each_in, (g + 1) * each_in) if c in place]
        found.setdefault(tuple(range(min(read), max(read) + 1)), []).append(block)
    yield from found.items()
