"""A layer of the integer network as the manifest has it; every number that a computation needs, and no float in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from utils.darknet import spec as s
from utils.errors import InputError
from utils.export.costs import Shape, cost_of
from utils.export.formats import INT32, Word, word_of, write_tensor
from utils.quantization.edges import Grid
from utils.quantization.integer import IntConv, IntegerNetwork, IntShortcut, Requantiser


@dataclass(frozen=True)
class Target:
    """Where a layer's tensors go, and in which forms and tiles."""

    folder: Path
    forms: Sequence[str]
    tile: tuple[int, int] | None = None

    def write(self, i: int, name: str, values: Any, word: Word) -> dict[str, Any]:
        """One tensor of layer ``i``; weights are tiled too where that is asked for."""
        tile = self.tile if name == "w" else None
        return write_tensor(self.folder, f"weights/{i:03d}_{name}", values.numpy(), word, self.forms, tile)


def describe_layer(network: IntegerNetwork, i: int, shape: dict[int, Shape], target: Target) -> dict[str, Any]:
    """The manifest's entry of layer ``i``; its tensors are written on the way.

    Raises:
        InputError: a kind of layer that has no place in the hand-off yet.
    """
    layer, op = network.spec.layers[i], network.ops.get(i)
    cost = cost_of(network, i, shape)
    entry: dict[str, Any] = {
        "layer": i,
        "cfg_line": layer.line,
        "kind": "",
        "inputs": list(layer.sources),
        "output": None if isinstance(layer, s.Head) else list(shape[i]),
        "grid": describe_grid(network.grids[i]) if i in network.grids else None,
    }
    match layer:
        case s.Conv() if isinstance(op, IntConv):
            entry |= _conv(i, layer, op, target)
        case s.Shortcut() if isinstance(op, IntShortcut):
            entry |= {"kind": "shortcut", "gains": op.gains[:, 0].tolist()} | _requantiser(i, op.requantiser, target)
        case s.MaxPool():
            entry |= {"kind": "maxpool", "size": layer.size, "stride": layer.stride, "pad": layer.pad}
        case s.Upsample():
            entry |= {"kind": "upsample", "stride": layer.stride}
        case s.Route():
            entry |= {"kind": "route", "groups": layer.groups, "group_id": layer.group_id}
        case s.Dropout():
            entry["kind"] = "copy"
        case s.Head():
            anchors = [list(pair) for pair in layer.own_anchors]
            entry |= {
                "kind": "head",
                "head": type(layer).__name__.lower(),
                "anchors": anchors,
                "classes": layer.classes,
            }
        case _:
            kind = type(layer).__name__
            raise InputError(f"layer {i} (cfg line {layer.line}): {kind} cannot be exported yet; use a cfg without it")
    return entry | {"cost": asdict(cost) | {"on_chip_bytes": cost.on_chip_bytes}}


def describe_grid(grid: Grid) -> dict[str, Any]:
    """Scale and levels of an edge; the scale is for people and for what follows a head, never for the integers."""
    word = word_of(grid.lo, grid.hi)
    return {"scale": grid.scale, "lo": grid.lo, "hi": grid.hi, "bits": word.bits, "signed": word.signed}


def shift_of(by: Requantiser) -> int | None:
    """The plain shift that does the same as gain and f, where all gains are one power of two; else None.

    From the integers themselves; a logarithm in floating point may end up just under the whole number.
    """
    gains = set(by.m.tolist())
    gain = gains.pop()
    alone = not gains and gain > 0 and gain & (gain - 1) == 0 and (by.m == by.m_neg).all()
    return by.f - (gain.bit_length() - 1) if alone else None


def _conv(i: int, layer: s.Conv, op: IntConv, target: Target) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "kind": "conv",
        "size": layer.size,
        "stride": list(layer.stride),
        "pad": layer.pad,
        "dilation": layer.dilation,
        "groups": layer.groups,
        "activation": layer.activation,
        "acc_bits": op.acc_bits,
        "weights": target.write(i, "w", op.weight, Word(op.w_bit, True)) | {"layout": "OIHW"},
        "bias": target.write(i, "b", op.bias, INT32),
    }
    if op.requantiser is not None:
        return entry | _requantiser(i, op.requantiser, target)
    assert op.scale is not None
    return entry | {"requantise": None, "read_out": {"scale": op.scale.tolist()}}


def _requantiser(i: int, by: Requantiser, target: Target) -> dict[str, Any]:
    numbers = {"f": by.f, "lo": by.lo, "hi": by.hi, "shift": shift_of(by)}
    entry = {"requantise": numbers, "m": target.write(i, "m", by.m, INT32)}
    if by.lo < 0 and not np.array_equal(by.m, by.m_neg):  # with lo = 0 whatever is negative becomes 0 anyway
        entry["m_neg"] = target.write(i, "m_neg", by.m_neg, INT32)
    return entry
