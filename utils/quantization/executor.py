"""Running an IntegerNetwork: exact convolutions, exact requantisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from torch import Tensor, nn

from utils.darknet import spec as s
from utils.darknet.walk import run
from utils.quantization.byte_conv import byte_conv
from utils.quantization.byte_levels import ByteRequantiser, ByteSum, levels_of, move_bytes, stored, zero_of
from utils.quantization.compiled import passes
from utils.quantization.exact_conv import ExactConv, accumulator_bounds
from utils.quantization.int8 import Int8Conv, SlicedInt8Conv, has_int8_units, int8_conv, int8_levels
from utils.quantization.integer import (
    IntConv,
    IntegerNetwork,
    IntegerOp,
    IntShortcut,
    Requantiser,
    activated,
    charge,
    read_out,
    requantise,
    through_table,
)
from utils.quantization.validate import readouts

Zeros = dict[int, int | None]
Compute = Callable[[list[Tensor]], Tensor]


@dataclass(frozen=True)
class Trace:
    """What a run saw: integer ``levels`` of every edge, int32; ``accumulators`` of every convolution, int64."""

    levels: dict[int, Tensor]
    accumulators: dict[int, Tensor]


@dataclass(frozen=True)
class Step:
    """One layer of a run: what it reads, how it computes, and the edges that nobody reads after it."""

    layer: int
    sources: tuple[int, ...]
    compute: Compute
    done: tuple[int, ...]


def image_levels(x: Tensor) -> Tensor:
    """The 8-bit pixels back from the float image n / 255, as floats [N,C,H,W]."""
    return (x.float() * 255).add_(0.5).floor_().clamp_(0, 255)


class IntegerExecutor(nn.Module):
    """A predictor over an IntegerNetwork: the golden model at work.

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
        self._requantisers: dict[int, ByteRequantiser] = {}
        self._sums: dict[int, ByteSum] = {}
        self._plans: dict[bool, list[Step]] = {}
        self._readouts = readouts(network.spec)
        self._stored_with: Zeros = {i: zero_of(grid) for i, grid in network.grids.items()}
        self.eval()

    def fire(self, acc: Tensor, by: Requantiser) -> Tensor:
        """Accumulator -> level, both integers held in floats: the definition's requantisation."""
        return requantise(acc, by)

    @torch.no_grad()
    def forward(self, x: Tensor) -> list[Tensor]:
        """Images -> raw head maps, in cfg order."""
        on_bytes = self._on_bytes(x)
        with torch.autocast(x.device.type, enabled=False):  # a caller's bf16 would round the integers
            edges = {-1: self._image(x, on_bytes)}
            for step in self._plan(on_bytes):
                edges[step.layer] = step.compute([edges[j] for j in step.sources])
                for j in step.done:
                    del edges[j]
            return [self._read(i, edges[i]) for i in self._readouts]

    def trace(self, x: Tensor) -> Trace:
        """Every level and accumulator of a run, for tests, tables and hand-offs."""
        return self._trace(x, sums=True)

    @torch.no_grad()
    def _trace(self, x: Tensor, *, sums: bool) -> Trace:
        accumulators: dict[int, Tensor] = {}
        zeros, plan = self._zeros(self._on_bytes(x)), self._plan(self._on_bytes(x))
        compute = {each.layer: each.compute for each in plan}  # levels are those of a run, however it makes them

        def step(i: int, layer: s.Layer, inputs: list[Tensor | None]) -> Tensor | None:
            given = [n for n in inputs if n is not None]
            if sums and isinstance(self.network.ops.get(i), IntConv):
                accumulators[i] = self._accumulators(i, zeros, given)
            return compute[i](given) if i in self.network.grids else None

        with torch.autocast(x.device.type, enabled=False):
            image: Tensor | None = self._image(x, self._on_bytes(x))
            edges = run(self.network.spec, image, step)
        return Trace(
            {i: levels_of(n, zeros[i]).to(torch.int32).contiguous() for i, n in edges.items() if n is not None},
            {i: acc.to(torch.int64).contiguous() for i, acc in accumulators.items()},
        )

    def levels(self, x: Tensor) -> dict[int, Tensor]:
        """The integer level of every edge (-1: the image), int32 [N,C,H,W]; heads have none."""
        return self._trace(x, sums=False).levels

    def _on_bytes(self, x: Tensor) -> bool:
        return self.int8 and x.device.type == "cpu" and has_int8_units()

    def _zeros(self, on_bytes: bool) -> Zeros:
        return self._stored_with if on_bytes else dict.fromkeys(self._stored_with)

    def _image(self, x: Tensor, on_bytes: bool) -> Tensor:
        compiled, zero = passes(), self._zeros(on_bytes)[-1]
        if compiled is not None and zero == 0 and x.dtype == torch.float32:
            x = x.contiguous(memory_format=torch.channels_last)
            out = torch.empty_like(x, dtype=torch.uint8, memory_format=torch.channels_last)
            compiled.pixels(x, out)
            return out
        pixels = image_levels(x).contiguous(memory_format=torch.channels_last)
        return stored(pixels, zero)

    def _read(self, i: int, acc: Tensor) -> Tensor:
        layer, op = self.network.conv(i)
        compiled = passes()
        lies = acc.dtype == torch.float32 and acc.is_contiguous(memory_format=torch.channels_last)
        if compiled is None or op.scale is None or acc.device.type != "cpu" or not lies:
            return read_out(acc, op, layer.activation)
        raw = torch.empty_like(acc)
        compiled.read_out(acc, raw, op.scale.contiguous())
        return activated(raw, layer.activation)

    def _plan(self, on_bytes: bool) -> list[Step]:
        """The layers that a run computes, each bound to what it needs: nothing is looked up again while it goes."""
        if on_bytes not in self._plans:
            spec, zeros = self.network.spec, self._zeros(on_bytes)
            last, steps = {j: i for j, i in spec.last_readers.items() if j not in self._readouts}, []
            for i, layer in enumerate(spec.layers):
                if i in self.network.grids or i in self._readouts:
                    done = tuple(j for j in set(layer.sources) if last.get(j) == i)
                    steps.append(Step(i, layer.sources, self._bound(i, layer, zeros), done))
            self._plans[on_bytes] = steps
        return self._plans[on_bytes]

    def _bound(self, i: int, layer: s.Layer, zeros: Zeros) -> Compute:
        """What layer ``i`` makes of its inputs: levels, a read-out accumulators."""
        op = self.network.ops.get(i)
        if not isinstance(op, IntConv):
            return partial(self._without_kernel, i, layer, zeros)
        on_bytes = zeros[layer.sources[0]] is not None
        near = self._near.get(i) if on_bytes else None
        soon = byte_conv(*self._layer(i)) if on_bytes else None
        if soon is None:
            return self._without_bytes(i, op, near, zeros)
        if near is None:
            return lambda given: soon(given[0])
        other = self._without_bytes(i, op, near, zeros)
        return lambda given: soon(given[0]) if soon.is_sooner(given[0].shape, near.fused is not None) else other(given)

    def _without_bytes(self, i: int, op: IntConv, near: Int8Conv | None, zeros: Zeros) -> Compute:
        """Layer ``i`` by oneDNN, its levels in one call or of sums; else of whatever gives its every sum."""
        if op.requantiser is None:
            return partial(self._accumulators, i, zeros)
        if near is None:
            return lambda given: self._respond(i, op, self._accumulators(i, zeros, given), zeros[i])
        if near.fused is not None:
            return lambda given: near.levels(given[0])
        return lambda given: self._respond(i, op, near.accumulators(given[0]), zeros[i])

    @cached_property
    def _fast(self) -> dict[int, Int8Conv | SlicedInt8Conv]:
        """The convolutions whose every accumulator int8 units compute without an error."""
        found = {i: int8_conv(*self._layer(i)) for i, op in self.network.ops.items() if isinstance(op, IntConv)}
        return {i: conv for i, conv in found.items() if conv is not None}

    @cached_property
    def _near(self) -> dict[int, Int8Conv]:
        """The convolutions whose every level they do."""
        found = {}
        for i, op in self.network.ops.items():
            if isinstance(op, IntConv) and op.requantiser is not None:
                fast = self._fast.get(i)
                found[i] = fast if isinstance(fast, Int8Conv) else int8_levels(*self._layer(i))
        return {i: conv for i, conv in found.items() if conv is not None}

    def _layer(self, i: int) -> tuple[s.Conv, IntConv, int, int | None, int | None]:
        """Layer ``i`` as `int8_conv` takes it."""
        layer, op = self.network.conv(i)
        zero, out = self._stored_with.get(layer.sources[0]), self._stored_with.get(i)
        return layer, op, self.network.reach_into(i), zero, None if op.table is not None else out

    def _accumulators(self, i: int, zeros: Zeros, given: list[Tensor]) -> Tensor:
        """Of a convolution, exact: on int8 units, or by floating point where the levels are."""
        layer, op = self.network.conv(i)
        zero = zeros[layer.sources[0]]
        fast = None if zero is None else self._fast.get(i)
        if fast is not None:
            return fast.accumulators(given[0])
        if i not in self._in_floats:
            self._in_floats[i] = ExactConv(layer, op.weight, op.bias, self.network.reach_into(i))
        level = levels_of(given[0], zero)
        acc: Tensor = self._in_floats[i].to(level.device)(level)
        return acc

    def _respond(self, i: int, op: IntegerOp, acc: Tensor, zero: int | None) -> Tensor:
        """Accumulator of layer ``i`` -> its level, stored with ``zero``."""
        by = op.requantiser
        assert by is not None, "a read-out has no level"
        if zero is None or not isinstance(op, IntConv) or op.table is not None:
            return stored(through_table(self.fire(acc, by), op), zero)
        if i not in self._requantisers:
            bound = int(accumulator_bounds(op.weight, op.bias, self.network.reach_into(i)).max())
            self._requantisers[i] = ByteRequantiser(by, zero, bound)
        return self._requantisers[i](acc)

    def _without_kernel(self, i: int, layer: s.Layer, zeros: Zeros, inputs: list[Tensor]) -> Tensor:
        """The level of what is moved, of a sum, a mean or a gate."""
        op, given, zero = self.network.ops.get(i), [zeros[j] for j in layer.sources], zeros[i]
        if op is None:
            return move_bytes(layer, inputs, given, zero)
        assert not isinstance(op, IntConv)
        known = [at for at in given if at is not None]
        if not isinstance(op, IntShortcut) or op.table is not None or zero is None or len(known) < len(given):
            levels = [levels_of(n, at) for n, at in zip(inputs, given, strict=True)]
            return self._respond(i, op, charge(levels, op, self.network.place(i)), zero)
        if i not in self._sums:
            self._sums[i] = ByteSum(op, known, zero)
        return self._sums[i](inputs)
