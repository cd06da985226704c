"""What a layer costs in hardware: multiplications, bit operations, bytes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from utils.darknet.shapes import channels, densities, sizes
from utils.quantization.bits import operations_by_layer
from utils.quantization.integer import IntConv, IntegerNetwork, IntegerOp, IntGate, IntPool, IntShortcut
from utils.quantization.packing import packed_size


@dataclass(frozen=True)
class HardwareCost:
    """One layer, one image.

    ``macs``: multiply-accumulates of kernels and weighted sums, the padding's included, as an array of multipliers does
    them, but not the zeros' that an upsample put between values. ``products``: those of gates, which nobody adds up.
    ``adds``: those of shortcuts and averages. ``bops``: of convolutions, MACs times the bits of both factors
    (``operations_by_layer``). ``weight_bytes``: packed weights, int32 biases, gains of 16 or 32 bits, tables.
    ``buffer_bytes``: the kernel's rows of the input, what a layer that streams must hold. ``output_bytes``: the whole
    output map, packed. ``on_chip_bytes``: weights and row buffer together.
    """

    macs: int = 0
    products: int = 0
    adds: int = 0
    bops: int = 0
    weight_bytes: int = 0
    buffer_bytes: int = 0
    output_bytes: int = 0

    @property
    def on_chip_bytes(self) -> int:
        """What stays on the chip while the layer streams."""
        return self.weight_bytes + self.buffer_bytes


Shape = tuple[int, int, int]


def shapes(network: IntegerNetwork, size: tuple[int, int]) -> dict[int, Shape]:
    """(C, H, W) of every layer, -1 is the image."""
    wide, maps = channels(network.spec), sizes(network.spec, *size)
    return {i: (wide[i], *maps[i]) for i in maps}


def cost_of(network: IntegerNetwork, i: int, shape: dict[int, Shape]) -> HardwareCost:
    """The cost of layer ``i``."""
    layer, op = network.spec.layers[i], network.ops.get(i)
    c, h, w = shape[i]
    output = packed_size(c * h * w, bits_of(network, i))
    given = [(int(np.prod(shape[j])), bits_of(network, j)) for j in layer.sources]
    constants = constant_bytes(op, bits_of(network, i)) if op is not None else 0
    match op:
        case IntConv():
            conv, _ = network.conv(i)
            source = conv.sources[0]
            macs = round(op.weight.numel() * h * w * densities(network.spec)[source])
            rows = conv.dilation * (conv.size - 1) + 1
            return HardwareCost(
                macs=macs,
                bops=operations_by_layer(network, {i: macs})[i],
                weight_bytes=packed_size(op.weight.numel(), op.w_bit) + 4 * len(op.bias) + constants,
                buffer_bytes=packed_size(shape[source][0] * rows * shape[source][2], given[0][1]),
                output_bytes=output,
            )
        case IntShortcut():
            weighted = getattr(layer, "weighted", False)
            macs = c * h * w * len(layer.sources) if weighted else 0
            adds = 0 if weighted else c * h * w * (len(layer.sources) - 1)
            return HardwareCost(
                macs=macs, adds=adds, weight_bytes=2 * op.gains.numel() + constants, output_bytes=output
            )
        case IntPool():
            return HardwareCost(adds=given[0][0] - c, weight_bytes=constants, output_bytes=output)
        case IntGate():
            return HardwareCost(
                products=c * h * w, weight_bytes=constants, buffer_bytes=packed_size(*given[0]), output_bytes=output
            )
    return HardwareCost(output_bytes=output if i in network.grids else 0)


def bits_of(network: IntegerNetwork, i: int) -> int:
    """Bits of a level on edge ``i``; of an accumulator where it has no levels."""
    grid = network.grids.get(i)
    return grid.bits if grid else 32


def table_of(op: IntegerOp) -> Tensor | None:
    """The levels of the activation, int32 [levels before it], where there is a table."""
    return None if isinstance(op, IntPool) else op.table


def constant_bytes(op: IntegerOp, bits: int) -> int:
    """Gains of the requantisation, of 16 or 32 bits, and the table of levels of ``bits`` bits."""
    by = op.requantiser
    gains = 0 if by is None else (2 if by.gain_bits <= 16 else 4) * len(by.multiplier)
    table = table_of(op)
    return gains + (0 if table is None else packed_size(len(table), bits))
