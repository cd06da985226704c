"""Running an IntegerNetwork: the walk every executor shares, and the integer executor."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from utils.darknet import spec as s
from utils.darknet.walk import run
from utils.quantization.byte_levels import ByteRequantiser, ByteSum, levels_of, move_bytes, stored, zero_of
from utils.quantization.exact_conv import ExactConv, accumulator_bounds
from utils.quantization.int8 import Int8Conv, SlicedInt8Conv, has_int8_units, int8_conv
from utils.quantization.integer import (
    IntConv,
    IntegerNetwork,
    IntegerOp,
    IntShortcut,
    Requantiser,
    charge,
    read_out,
    requantise,
    through_table,
)
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
    channels last: on a processor with int8 units in bytes, where these hold them, else as integers in float32.

    Args:
        network: what is run.
        int8: use int8 units where there are some; off, every layer is computed in floating point.
    """

    def __init__(self, network: IntegerNetwork, *, int8: bool = True) -> None:
        super().__init__()
        self.network = network
        self.int8 = int8
        self._in_floats: dict[int, ExactConv] = {}  # made when first asked for: int8 units leave few layers to them
        self._readouts = readouts(network.spec)
        self._stored_with: dict[int, int | None] = {i: zero_of(grid) for i, grid in network.grids.items()}
        self.eval()

    @cached_property
    def _fast(self) -> dict[int, Int8Conv | SlicedInt8Conv]:
        """The convolutions that int8 units compute without an error."""
        found = {}
        for i, op in self.network.ops.items():
            if isinstance(op, IntConv):
                layer, _ = self.network.conv(i)
                zero, out = self._stored_with.get(layer.sources[0]), self._stored_with.get(i)
                found[i] = int8_conv(layer, op, self.network.reach_into(i), zero, None if op.table is not None else out)
        return {i: conv for i, conv in found.items() if conv is not None}

    def fire(self, acc: Tensor, by: Requantiser) -> Tensor:
        """Accumulator -> level, both integers held in floats."""
        raise NotImplementedError

    def respond(self, i: int, op: IntegerOp, acc: Tensor, zero: int | None) -> Tensor:
        """Accumulator of layer ``i`` -> its level, stored with ``zero``."""
        by = op.requantiser
        assert by is not None, "a read-out has no level"
        if zero is not None and isinstance(op, IntConv) and op.table is None:
            return self.fire_bytes(i, by, acc, zero)
        return stored(through_table(self.fire(acc, by), op), zero)

    def fire_bytes(self, i: int, by: Requantiser, acc: Tensor, zero: int) -> Tensor:
        """What `fire` makes of layer ``i``'s accumulator, in bytes."""
        return stored(self.fire(acc, by), zero)

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
        on_bytes = self.int8 and x.device.type == "cpu" and has_int8_units()
        zeros = self._stored_with if on_bytes else dict.fromkeys(self._stored_with)

        def step(i: int, layer: s.Layer, inputs: list[Tensor | None]) -> Tensor | None:
            given = [n for n in inputs if n is not None]
            level, acc = self._step(i, layer, given, zeros, traced=kept is not None)
            if acc is not None and (kept is not None or i in self._readouts):
                accumulators[i] = acc
            return level

        with torch.autocast(x.device.type, enabled=False):  # a caller's bf16 would round the integers
            image: Tensor | None = stored(image_levels(x).contiguous(memory_format=torch.channels_last), zeros[-1])
            edges = run(self.network.spec, image, step, keep=() if kept is None else None)
        if kept is not None:
            kept.update((i, levels_of(n, zeros[i])) for i, n in edges.items() if n is not None)
        return accumulators

    def _step(
        self, i: int, layer: s.Layer, inputs: list[Tensor], zeros: dict[int, int | None], *, traced: bool
    ) -> tuple[Tensor | None, Tensor | None]:
        """(level, accumulator) of a layer; a read-out has no level, a head neither."""
        op, given = self.network.ops.get(i), [zeros.get(j) for j in layer.sources]
        if op is None:
            return move_bytes(layer, inputs, given, zeros[i]) if i in self.network.grids else None, None
        if not isinstance(op, IntConv):
            return self._without_kernel(i, op, inputs, given, zeros[i]), None
        fast = self._fast.get(i) if given[0] is not None else None
        fused = None if not isinstance(fast, Int8Conv) else self._fused(fast, inputs[0])
        if fused is not None and not traced:
            return fused, None
        acc = self._exact(i, levels_of(inputs[0], given[0])) if fast is None else fast.accumulators(inputs[0])
        if op.requantiser is None:
            return None, acc
        return self.respond(i, op, acc, zeros[i]) if fused is None else fused, acc

    def _exact(self, i: int, level: Tensor) -> Tensor:
        """The accumulators of layer ``i`` by floating point, where the levels are."""
        if i not in self._in_floats:
            layer, op = self.network.conv(i)
            self._in_floats[i] = ExactConv(layer, op.weight, op.bias, self.network.reach_into(i))
        acc: Tensor = self._in_floats[i].to(level.device)(level)
        return acc

    def _fused(self, conv: Int8Conv, kept: Tensor) -> Tensor | None:
        """Levels straight from a convolution; None where it has no such form, or this executor's neurons have none."""
        return None

    def _without_kernel(
        self, i: int, op: IntegerOp, inputs: list[Tensor], given: list[int | None], zero: int | None
    ) -> Tensor:
        """The level of a sum, a mean or a gate."""
        assert not isinstance(op, IntConv)
        levels = [levels_of(n, at) for n, at in zip(inputs, given, strict=True)]
        return self.respond(i, op, charge(levels, op, self.network.place(i)), zero)


class IntegerExecutor(Executor):
    """The golden model at work: exact convolutions, exact requantisation."""

    def __init__(self, network: IntegerNetwork, *, int8: bool = True) -> None:
        super().__init__(network, int8=int8)
        self._requantisers: dict[int, ByteRequantiser] = {}
        self._sums: dict[int, ByteSum] = {}

    def fire(self, acc: Tensor, by: Requantiser) -> Tensor:
        """The definition's requantisation."""
        return requantise(acc, by)

    def fire_bytes(self, i: int, by: Requantiser, acc: Tensor, zero: int) -> Tensor:
        """The same into bytes, some pixels at a time."""
        if i not in self._requantisers:
            _, op = self.network.conv(i)
            bound = int(accumulator_bounds(op.weight, op.bias, self.network.reach_into(i)).max())
            self._requantisers[i] = ByteRequantiser(by, zero, bound)
        return self._requantisers[i](acc)

    def _fused(self, conv: Int8Conv, kept: Tensor) -> Tensor | None:
        return None if conv.fused is None else conv.levels(kept)

    def _without_kernel(
        self, i: int, op: IntegerOp, inputs: list[Tensor], given: list[int | None], zero: int | None
    ) -> Tensor:
        known = [at for at in given if at is not None]
        if not isinstance(op, IntShortcut) or op.table is not None or zero is None or len(known) < len(given):
            return super()._without_kernel(i, op, inputs, given, zero)
        if i not in self._sums:
            self._sums[i] = ByteSum(op, known, zero)
        return self._sums[i](inputs)
