"""From the integer network to the program: a layer at a time, in tiles that fit the buffers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from utils.darknet import spec as s
from utils.errors import InputError
from utils.export.costs import Shape, table_of
from utils.export.engine.constants import (
    ConstantStore,
    Scaling,
    gain_rows,
    identity_row,
    scaling,
    table_bytes,
)
from utils.export.engine.edges import Edge
from utils.export.engine.emit import placed
from utils.export.engine.isa import Load, Mode, Op, Plain
from utils.export.engine.leaky import check_leaky, leaky_program
from utils.export.engine.moves import AS_IT_IS, Mover
from utils.export.engine.plan import engine_for, plan, renamed
from utils.export.engine.program import Program
from utils.export.engine.stream import stream_program
from utils.export.engine.target import Engine
from utils.export.engine.tiles import Window
from utils.quantization.integer import IntConv, IntegerNetwork, IntegerOp, IntGate, IntNeuron, IntPool, IntShortcut
from utils.spiking.spike_schedule import check_spikes

SUMMED = {"raw": True, "leaky": True, "f": 0}  # a read-out goes on from all that it has


def leaking(by: Scaling, neuron: IntNeuron) -> tuple[Scaling, dict[str, Any]]:
    """Of leaky neurons, whose spikes leave as they are: the logarithm of the threshold stands in the place of m."""
    threshold = neuron.log2_threshold.numpy().astype(np.int64)
    fields = {"plain": True, "leaky": True, "most": neuron.most, "soft": neuron.soft, "f": neuron.shift, "hi": 1}
    return replace(by, m=threshold), fields


def spread(weight: np.ndarray, dilation: int) -> np.ndarray:
    """A kernel [O,I,K,K] with zeros where a dilated one has holes, [O,I,(K - 1) D + 1,(K - 1) D + 1]."""
    *channels, high, wide = weight.shape
    found = np.zeros((*channels, (high - 1) * dilation + 1, (wide - 1) * dilation + 1), weight.dtype)
    found[:, :, ::dilation, ::dilation] = weight
    return found


class Compiler(Mover):
    """What every kind of layer becomes."""

    def scaled(self, i: int, by: Scaling, op: IntegerOp) -> dict[str, Any]:
        """The fields of a requantisation; the table is loaded on the way."""
        assert op.requantiser is not None
        table = table_of(op)
        if table is not None:
            address, length = self.constants.place(table_bytes(table.numpy()))
            self.program.append(Load(op=Op.LOAD_TABLE, layer=i, address=address, length=length))
        return {"f": by.f, "lo": op.requantiser.qmin, "hi": op.requantiser.qmax, "tabled": table is not None}

    def conv(self, i: int, op: IntConv, source: Edge, out: Edge) -> None:
        """Every kind of convolution: blocks of outputs with the blocks of inputs that they need."""
        layer, _ = self.network.conv(i)
        weight, dilation = op.weight.numpy(), layer.dilation
        if self.engine.spiking and dilation > 1 and max(layer.stride) > 1:  # an event finds its taps by one of the two
            weight, dilation = spread(weight, dilation), 1
        window = Window(kernel=weight.shape[2:], step=layer.stride, before=layer.pad, dilation=dilation)
        by = scaling(op.requantiser, op.bias.numpy().astype(np.int64))
        if op.neuron is not None:
            by, fields = leaking(by, op.neuron)
        elif op.requantiser is None:
            fields = SUMMED if self.engine.leaky else {"raw": True}
        else:
            fields = self.scaled(i, by, op)
        self.products(i, window, source, out, by, weight, layer.groups, fields)

    def sources_as_they_are(self, i: int) -> list[Edge]:
        """What a layer reads."""
        return [self.plan.edges[j] for j in self.network.spec.layers[i].sources]

    def sources(self, i: int) -> list[Edge]:
        """What a layer reads, in one order of channels."""
        found = []
        for j in self.network.spec.layers[i].sources:
            made = self.plan.reordered.get((i, j))
            if made is not None:
                self.reorder(i, self.plan.edges[j], made, Window(), self.network.grids[j])
            found.append(made or self.plan.edges[j])
        return found

    def shortcut(self, i: int, op: IntShortcut, out: Edge) -> None:
        """A source a tap, with a gain each."""
        given = self.sources(i)
        by = scaling(op.requantiser, np.zeros(1, np.int64))
        fields = self.scaled(i, by, op) | {"mode": Mode.GAINS}
        self.elements(
            i, given, out, fields, lambda lanes: by.block(lanes) + gain_rows(op.gains.numpy().astype(np.int64), lanes)
        )

    def gate(self, i: int, op: IntGate, out: Edge) -> None:
        """Levels times the level of their channel's gate."""
        if self.sources_as_they_are(i)[0].pixels != 1:
            raise InputError(f"{self.place(i)}: a gate for every pixel is not in the engine; use one a channel")
        gate, feature = self.sources(i)
        by = scaling(op.requantiser, np.zeros(1, np.int64))
        fields = self.scaled(i, by, op) | {"mode": Mode.GATE}
        self.elements(i, [feature], out, fields, by.block, gate)

    def average(self, i: int, op: IntPool, source: Edge, out: Edge) -> None:
        """The whole map of a block as one window; of spikes a kernel of ones a channel, as large as its stride."""
        count, high, wide = source.shape
        most = 255 if self.engine.spiking else 256
        if max(high, wide) > most:
            raise InputError(
                f"{self.place(i)}: averages {high}x{wide} px, the engine at most {most}x{most}; use a smaller image"
            )
        by = scaling(op.requantiser, np.zeros(1, np.int64))
        fields = self.scaled(i, by, op)
        if self.engine.spiking:
            window, ones = Window(kernel=(high, wide), step=(high, wide)), np.ones((count, 1, high, wide), np.int8)
            self.products(i, window, source, out, by, ones, count, fields)
            return
        self.blockwise(
            i, Window(kernel=(high, wide)), source, out, fields | {"hold": True},
            lambda lanes: by.block(lanes) + identity_row(len(lanes)).tobytes(),
        )  # fmt: skip

    def layer(self, i: int) -> None:
        """The descriptors of layer ``i``; at least one, so that its map is looked at."""
        layer, op, out = self.network.spec.layers[i], self.network.ops.get(i), self.plan.edges[i]
        source = self.plan.edges[layer.sources[0]]
        match op:
            case IntConv():
                self.conv(i, op, source, out)
            case IntShortcut():
                self.shortcut(i, op, out)
            case IntGate():
                self.gate(i, op, out)
            case IntPool():
                self.average(i, op, source, out)
            case _ if isinstance(layer, s.MaxPool | s.Upsample | s.Reorg3d):
                self.move(i, layer, source, out)
            case _ if isinstance(layer, s.Reorg):
                self.reorg(i, layer, source, out)
            case _ if isinstance(layer, s.Fitted) and not renamed(layer, source):
                self.fit(i, layer, source, out)
            case _:
                self.program.append(Plain(Op.MARK, i))


def compile_network(
    network: IntegerNetwork, shape: dict[int, Shape], engine: Engine, steps: int | None = None
) -> Program:
    """The program of a network for an engine.

    Args:
        network: of bytes; ``shape`` (C, H, W) of its layers, -1 is the image.
        engine: lanes and buffers; the other widths become those that the network needs.
        steps: of stream mode, if not those by which every network settles; of leaky neurons, if not the network's own.

    Raises:
        InputError: a layer is not in the engine, or does not fit it; names the layer.
    """
    check_leaky(network, engine)
    if engine.spiking:
        check_spikes(network)  # gates and tables
    engine = engine_for(network, engine)
    compiler = Compiler(network, engine, plan(network, shape, engine), ConstantStore(engine.lanes))
    for i in range(len(network.spec.layers)):
        if i not in network.spec.heads:
            compiler.layer(i)
    identity = 0
    if engine.stream:
        as_it_is = AS_IT_IS.block(tuple(range(engine.lanes))) + identity_row(engine.lanes).tobytes()
        identity, _ = compiler.constants.place(as_it_is)
    page = 4096 // engine.lanes
    activations = -(-len(compiler.constants.data) // engine.lanes // page) * page
    start = -(-(activations + compiler.plan.words) // page) * page
    made = [*(placed(one, activations) for one in compiler.program), Plain(Op.END)]
    program = Program(engine, tuple(made), bytes(compiler.constants.data), activations, start, compiler.plan)
    if engine.leaky:
        return leaky_program(network, program, steps)
    return stream_program(network, program, identity, steps) if engine.stream else program
