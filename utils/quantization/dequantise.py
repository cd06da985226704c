"""The floats that the integers of a network stand for: where training goes on from when nothing else is left."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from utils.darknet.network import Checkpoint, Network, State
from utils.darknet.ops import activation_of
from utils.errors import InputError
from utils.quantization.activation_qparams import QParams
from utils.quantization.int_checkpoint import integer_of
from utils.quantization.integer import IntConv, IntegerNetwork
from utils.quantization.qat_checkpoint import as_integers

PIXEL = 1 / 255


@dataclass(frozen=True)
class Dequantised:
    """A folded float network, and by layer the grid of the levels behind each activation."""

    network: Network
    grids: dict[int, QParams]


def as_floats(checkpoint: Checkpoint, place: str) -> Dequantised:
    """The floats of a quantised checkpoint, or of one of quantised training.

    Raises:
        InputError: an activation of it is a table, whose bend at 0 no scale can tell.
    """
    return dequantise(integer_of(as_integers(checkpoint, place), place))


def dequantise(network: IntegerNetwork) -> Dequantised:
    """w = n times the weight's scale, which is the gain times the scale of what comes out over that of what goes in.

    Raises:
        InputError: as `as_floats`.
    """
    state: State = {}
    grids = {}
    pixels = _pixels(network)
    for i, op in network.ops.items():
        layer = network.spec.layers[i]
        if activation_of(layer) != "linear":
            grids[i] = network.grids[i]
        if not isinstance(op, IntConv):
            continue
        if op.table is not None:
            raise InputError(
                f"{network.place(i)}: its activation is a table of integers; give --weights the float network "
                "that it was made of"
            )
        unit = _unit(op, network.grids.get(i))  # of the accumulator, float64 [O]
        source = layer.sources[0]
        per_weight = unit / (PIXEL if source in pixels else network.grids[source].scale)
        state[f"layers.{i}.conv.weight"] = (op.weight.double() * per_weight.view(-1, 1, 1, 1)).float()
        state[f"layers.{i}.conv.bias"] = (op.bias.double() * unit).float()
    return Dequantised(Network(network.spec, state), grids)


def _pixels(network: IntegerNetwork) -> set[int]:
    """The edges whose levels are the image's bytes, which floats see in 0..1."""
    found = {-1}
    for i, layer in enumerate(network.spec.layers):
        if i not in network.ops and set(layer.sources) <= found:
            found.add(i)
    return found


def _unit(op: IntConv, out: QParams | None) -> torch.Tensor:
    """What one unit of the accumulator is worth, by channel."""
    if op.requantiser is None:
        assert op.scale is not None
        return op.scale.double()
    assert out is not None
    return op.requantiser.multiplier.double() * 2.0**-op.requantiser.shift * out.scale
