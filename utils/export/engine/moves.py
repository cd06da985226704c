"""Layers that only move levels from channel to channel: reorg, space to depth, fitting maps together, another order."""

from __future__ import annotations

from typing import Any

import numpy as np

from utils.darknet import spec as s
from utils.errors import InputError
from utils.export.engine.constants import Scaling
from utils.export.engine.edges import Edge, LaneBlock
from utils.export.engine.emit import Emitter, MapLoad, MapStore
from utils.export.engine.isa import Mode, Op
from utils.export.engine.tiles import Window
from utils.quantization.activation_qparams import QParams

AS_IT_IS = Scaling(np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(1, np.int64), 1)  # and no gain


def elements_of_reorg(shape: tuple[int, int, int], stride: int, channel: int, row: int) -> tuple[int, int, int]:
    """Where a row of outputs of Darknet's [reorg] comes from: channel, row, and column of its first element.

    The columns after it are ``stride`` apart. From ``utils.darknet.reorder.reorg``: memory is taken for an image of
    C / stride^2 channels and ``stride`` times the sides, parted, and taken for the output's shape.

    Args:
        shape: (C, H, W) of the input. channel, row: of the output.
    """
    c, h, _ = shape
    part, j = divmod(channel, stride**2)
    (down, right), kept = divmod(part // (c // stride**2), stride), part % (c // stride**2)
    y, k = divmod(j * (h // stride) + row, stride)
    tall = (y * stride + down) * stride + k  # a row of the c / stride^2 images, each of stride^2 * h rows of the input
    return kept * stride**2 + tall // h, tall % h, right


class Mover(Emitter):
    """What layers become that compute nothing."""

    def move(self, i: int, layer: s.Layer, source: Edge, out: Edge) -> None:
        """Max pool, upsample, zeros between, space to depth: a block of outputs from a block of inputs."""
        grid = self.network.grids[i]
        fields: dict[str, Any] = {"mode": Mode.LARGEST, "plain": True, "lo": grid.qmin}
        match layer:
            case s.MaxPool():
                step = (layer.stride, layer.stride)
                window = Window(kernel=(layer.size, layer.size), step=step, before=layer.pad // 2)
                self.blockwise(i, window, source, out, fields)
            case s.Upsample():
                self.blockwise(i, Window(up=layer.stride), source, out, fields | {"spread": layer.zeros})
            case s.Reorg3d():
                each, step = len(source.blocks), (layer.stride, layer.stride)
                for n, (below, aside) in enumerate(np.ndindex(step)):
                    window = Window(step=step, below=below, aside=aside)
                    self.blockwise(i, window, source, out, fields, into=out.blocks[n * each : (n + 1) * each])

    def reorder(self, i: int, source: Edge, made: Edge, window: Window, grid: QParams) -> None:
        """Channels in the order of ``made``, by 0 and 1 in the array; zeros where the source has no such channel."""
        place, spread = source.place(), window.up > 1
        weight = np.eye(made.shape[0], source.shape[0], dtype=np.int8)[:, :, None, None]
        for block in made.blocks:
            needed = sorted({place[c][0] for c in block.lanes if c in place}) or [0]
            given = Edge(source.shape, tuple(source.blocks[b] for b in needed))
            fields = self._levels(grid) | {"spread": spread}
            self.products(i, window, given, Edge(made.shape, (block,)), AS_IT_IS, weight, 1, fields)

    def fit(self, i: int, layer: s.Fitted, source: Edge, out: Edge) -> None:
        """The first channels of a map, zeros for those that lack; every n-th px, or px n apart."""
        step = (layer.stride, layer.stride)
        self.reorder(i, source, out, Window(step=step, up=layer.spread), self.network.grids[i])

    def reorg(self, i: int, layer: s.Reorg, source: Edge, out: Edge) -> None:
        """A row of outputs from at most a row of inputs a lane, each parted by its stride."""
        (_, high, wide), place, stride = source.shape, source.place(), layer.stride
        if source.shape[0] % stride**2 or high % stride or wide % stride:
            raise InputError(
                f"{self.place(i)}: [reorg] of {source.shape[0]}x{high}x{wide} by {stride}, "
                f"which does not part it; use channels in multiples of {stride**2}, a side in multiples of {stride}"
            )
        loaded = b""
        for block, row in ((block, row) for block in out.blocks for row in range(out.shape[1])):
            lanes = {k: elements_of_reorg(source.shape, stride, o, row) for k, o in enumerate(block.lanes) if o >= 0}
            rows = sorted({(place[c][0], y, x) for c, y, x in lanes.values()})
            if len(rows) * wide > self.engine.input_words:
                raise InputError(
                    f"{self.place(i)}: {len(rows)} rows of {wide} px, more than the "
                    f"{self.engine.input_words} words of the input buffer; give it more (input_words of --target)"
                )
            weights = np.zeros((len(rows), len(block.lanes), len(block.lanes)), np.int8)
            for k, (c, y, x) in lanes.items():
                weights[rows.index((place[c][0], y, x)), k, place[c][1]] = 1
            content = AS_IT_IS.block(block.lanes) + weights.tobytes()
            if content != loaded:
                self.program.append(self.load_weights(i, content))
                loaded = content
            self._row(i, rows, source, block, row, stride, weights)

    def _row(
        self, i: int, rows: list[tuple[int, int, int]], source: Edge, block: LaneBlock, row: int, stride: int,
        weights: np.ndarray,
    ) -> None:  # fmt: skip
        """A row of outputs from rows (block, row, first column) of inputs that lie one after the other."""
        wide, made = source.shape[2], source.shape[2] // stride
        read = [source.blocks[b] for b, _, _ in rows]
        for k, (given, (_, y, x)) in enumerate(zip(read, rows, strict=True)):
            address = self.at(given) + y * wide + x
            load = MapLoad(op=Op.LOAD_INPUT, layer=i, address=address, length=wide - x, into=k * wide)
            self.program.append(load)
        self.program.append(
            MapStore(
                layer=i, address=self.at(block) + row * made, size=(1, made), wide=wide, high=1, base=0,
                blocks=len(rows), block=wide, step=(1, stride), signed=self.signs(i, read),
                events=self.events(i, read, weights), **self._levels(self.network.grids[i]),
            )
        )  # fmt: skip

    def _levels(self, grid: QParams) -> dict[str, Any]:
        return {"plain": True, "lo": grid.qmin, "hi": grid.qmax}
