"""Running an IntegerNetwork: the walk every executor shares, and the integer executor."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from utils.darknet import spec as s
from utils.darknet.forward import move
from utils.darknet.walk import run
from utils.quantization.exact_conv import ExactConv
from utils.quantization.integer import IntConv, IntegerNetwork, Requantiser, charge, read_out, requantise, through_table
from utils.quantization.validate import readouts


@dataclass(frozen=True)
class Trace:
    """What a run saw: integer ``levels`` of every edge, int32; ``accumulators`` of every convolution, int64."""

    levels: dict[int, Tensor]
    accumulators: dict[int, Tensor]


def image_levels(x: Tensor) -> Tensor:
    """The 8-bit pixels back from the float image n / 255, as floats [N,C,H,W]."""
    return (x.float() * 255 + 0.5).floor_().clamp_(0, 255)


class Executor(nn.Module):
    """A predictor over an IntegerNetwork; subclasses say what happens between accumulator and level.

    ``forward`` takes float images [N,C,H,W] of values n / 255 and returns the heads' raw maps, float32. Levels travel
    as integers held in float32, channels last.
    """

    def __init__(self, network: IntegerNetwork) -> None:
        super().__init__()
        self.network = network
        self.convs = nn.ModuleDict()
        for i, op in network.ops.items():
            if isinstance(op, IntConv):
                layer, _ = network.conv(i)
                self.convs[str(i)] = ExactConv(layer, op.weight, op.bias, network.reach_into(i))
        self._readouts = readouts(network.spec)
        self.eval()

    def fire(self, acc: Tensor, by: Requantiser) -> Tensor:
        """Accumulator -> level, both integers held in floats."""
        raise NotImplementedError

    @torch.no_grad()
    def forward(self, x: Tensor) -> list[Tensor]:
        """Images -> raw head maps, in cfg order."""
        accumulators = self._walk(x, None)
        return [self._read(i, accumulators[i]) for i in self._readouts]

    @torch.no_grad()
    def trace(self, x: Tensor) -> Trace:
        """Every level and accumulator of a run, for tests, tables and hand-offs."""
        levels: dict[int, Tensor] = {}
        accumulators = self._walk(x, levels)
        return Trace(
            {i: n.to(torch.int32).contiguous() for i, n in levels.items()},
            {i: acc.to(torch.int64).contiguous() for i, acc in accumulators.items()},
        )

    def levels(self, x: Tensor) -> dict[int, Tensor]:
        """The integer level of every edge (-1: the image), int32 [N,C,H,W]; heads have none."""
        return self.trace(x).levels

    def _read(self, i: int, acc: Tensor) -> Tensor:
        layer, op = self.network.conv(i)
        return read_out(acc, op, layer.activation)

    def _walk(self, x: Tensor, kept: dict[int, Tensor] | None) -> dict[int, Tensor]:
        """Layer by layer; returns the accumulators of the read-outs, and of all layers when levels are ``kept``."""
        accumulators: dict[int, Tensor] = {}

        def step(i: int, layer: s.Layer, inputs: list[Tensor | None]) -> Tensor | None:
            with torch.autocast(x.device.type, enabled=False):  # a caller's bf16 would round the integers
                level, acc = self._step(i, layer, [n for n in inputs if n is not None])
            if acc is not None and (kept is not None or i in self._readouts):
                accumulators[i] = acc
            return level

        image: Tensor | None = image_levels(x).contiguous(memory_format=torch.channels_last)
        edges = run(self.network.spec, image, step, keep=() if kept is None else None)
        if kept is not None:
            kept.update((i, n) for i, n in edges.items() if n is not None)
        return accumulators

    def _step(self, i: int, layer: s.Layer, inputs: list[Tensor]) -> tuple[Tensor | None, Tensor | None]:
        """(level, accumulator) of a layer; a read-out has no level, a head neither."""
        op = self.network.ops.get(i)
        if op is None:
            return move(layer, inputs) if i in self.network.grids else None, None
        acc = self.convs[str(i)](inputs[0]) if isinstance(op, IntConv) else charge(inputs, op, self.network.place(i))
        level = None if op.requantiser is None else through_table(self.fire(acc, op.requantiser), op)
        return level, acc if isinstance(op, IntConv) else None


class IntegerExecutor(Executor):
    """The golden model at work: exact convolutions, exact requantisation."""

    def fire(self, acc: Tensor, by: Requantiser) -> Tensor:
        """The definition's requantisation."""
        return requantise(acc, by)
