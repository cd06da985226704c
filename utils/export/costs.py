"""What a layer costs in hardware: multiplications, bit operations, bytes."""

from __future__ import annotations

from dataclasses import dataclass

from utils.darknet.shapes import channels, sizes
from utils.darknet.spec import Conv, Shortcut
from utils.export.formats import word_of
from utils.quantization.integer import IntConv, IntegerNetwork, IntShortcut
from utils.quantization.packing import packed_size


@dataclass(frozen=True)
class Cost:
    """One layer, one image.

    ``macs``: multiply-accumulates, the padding's included, as an array of multipliers does them. ``bops``: MACs times
    weight bits times input bits. ``weight_bytes``: packed weights, int32 biases, 16-bit gains. ``buffer_bytes``: the
    kernel's rows of the input, what a layer that streams must hold. ``output_bytes``: the whole output map, packed.
    ``on_chip_bytes``: weights and row buffer together.
    """

    macs: int = 0
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


def cost_of(network: IntegerNetwork, i: int, shape: dict[int, Shape]) -> Cost:
    """The cost of layer ``i``."""
    layer, op = network.spec.layers[i], network.ops.get(i)
    c, h, w = shape[i]
    grid = network.grids.get(i)
    bits = word_of(grid.lo, grid.hi).bits if grid else 32
    output = packed_size(c * h * w, bits)
    if isinstance(op, IntConv):
        assert isinstance(layer, Conv)
        source = layer.sources[0]
        in_bits = word_of(network.grids[source].lo, network.grids[source].hi).bits
        macs = op.weight.numel() * h * w
        gains = 2 * len(op.bias) if op.requantiser is not None else 0
        rows = layer.dilation * (layer.size - 1) + 1
        return Cost(
            macs=macs,
            bops=macs * op.w_bit * in_bits,
            weight_bytes=packed_size(op.weight.numel(), op.w_bit) + 4 * len(op.bias) + gains,
            buffer_bytes=packed_size(shape[source][0] * rows * shape[source][2], in_bits),
            output_bytes=output,
        )
    if isinstance(op, IntShortcut):
        assert isinstance(layer, Shortcut)
        return Cost(adds=c * h * w * (len(layer.sources) - 1), output_bytes=output)
    return Cost(output_bytes=output if grid else 0)
