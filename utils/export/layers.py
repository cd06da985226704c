"""A layer of the integer network as the manifest has it; every number that a computation needs, and no float in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.darknet import spec as s
from utils.darknet.ops import facts
from utils.darknet.walk import rule
from utils.errors import InputError
from utils.export.costs import Shape, cost_of, table_of
from utils.export.formats import INT32, Word, word_of, write_tensor
from utils.quantization.activation_qparams import QParams
from utils.quantization.integer import (
    IntConv,
    IntegerNetwork,
    IntegerOp,
    IntGate,
    IntNeuron,
    IntPool,
    IntShortcut,
    Requantiser,
)

THRESHOLD = Word(5, False)  # a power of two that a membrane of 25 bits can pass


@dataclass(frozen=True)
class TensorFiles:
    """Where a layer's tensors go, and in which forms and tiles."""

    folder: Path
    forms: Sequence[str]
    tile: tuple[int, int] | None = None

    def write(self, i: int, name: str, values: Any, word: Word) -> dict[str, Any]:
        """One tensor of layer ``i``; weights are tiled too where that is asked for."""
        tile = self.tile if name == "w" else None
        return write_tensor(self.folder, f"weights/{i:03d}_{name}", values.numpy(), word, self.forms, tile)


def describe_layer(network: IntegerNetwork, i: int, shape: dict[int, Shape], target: TensorFiles) -> dict[str, Any]:
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
        "output": None if i in network.spec.heads else list(shape[i]),
        "grid": describe_grid(network.grids[i]) if i in network.grids else None,
    }
    entry |= rule(MOVES, layer, "place in a hand-off")(layer) if op is None else _computed(network, i, op, target)
    if isinstance(layer, s.Detect):
        cell = [shape[-1][axis] / shape[layer.sources[0]][axis] for axis in (2, 1)]
        scale = cell if isinstance(layer, s.Region) else [1, 1]  # its anchors are cells
        entry |= {"cell": cell, "anchors_px": [[w * scale[0], h * scale[1]] for w, h in layer.own_anchors]}
    if op is not None:
        entry |= {"acc_bits": acc_bits(network, i)} | _activation(layer)
    return entry | {"cost": asdict(cost) | {"on_chip_bytes": cost.on_chip_bytes}}


def _computed(network: IntegerNetwork, i: int, op: IntegerOp, target: TensorFiles) -> dict[str, Any]:
    entry: dict[str, Any]
    match op:
        case IntConv():
            return _conv(network, i, op, target)
        case IntShortcut():
            entry = {"kind": "shortcut", "gains": target.write(i, "g", op.gains, INT32)}
        case IntPool():
            entry = {"kind": "avgpool", "count": op.count}
        case IntGate():
            entry = {"kind": "gate"}
    return entry | _requantiser(i, op, network.grids[i], target)


def _max_pool(layer: s.MaxPool) -> dict[str, Any]:
    return {"kind": "maxpool", "size": layer.size, "stride": layer.stride, "pad": layer.pad}


def _head(layer: s.Detect) -> dict[str, Any]:
    if layer.parents:
        raise InputError(
            f"cfg line {layer.line}: [region] with tree= has no decoder in a hand-off; export.py onnx --float gives "
            "its maps, and detect.py its boxes"
        )
    anchors = [list(pair) for pair in layer.own_anchors]
    return {
        "kind": "head",
        "head": facts(layer).section,
        "anchors": anchors,
        "classes": layer.classes,
        "scale_x_y": layer.scale_x_y if isinstance(layer, s.Yolo) else 1.0,
        "reach": layer.reach,
        "new_coords": isinstance(layer, s.Yolo) and layer.new_coords,
        "softmax": isinstance(layer, s.Region) and layer.softmax,
    }


def _classes(layer: s.Softmax) -> dict[str, Any]:
    """The mean of the accumulators over the map is a class's score; ``groups`` and ``temperature`` of the softmax."""
    numbers = {"groups": layer.groups, "temperature": layer.temperature}
    return {"kind": "head", "head": facts(layer).section, "averages": True, **numbers}


def _segment(layer: s.Segment) -> dict[str, Any]:
    """The largest accumulator, once the map is enlarged ``factor`` times (bilinear), is a pixel's class."""
    return {"kind": "head", "head": facts(layer).section, "classes": layer.classes, "factor": layer.factor}


MOVES: dict[type[s.Layer], Callable[[Any], dict[str, Any]]] = {  # the kinds that compute nothing
    s.MaxPool: _max_pool,
    s.Upsample: lambda layer: {"kind": "spread" if layer.zeros else "upsample", "stride": layer.stride},
    s.Reorg3d: lambda layer: {"kind": "space_to_depth", "stride": layer.stride},
    s.Reorg: lambda layer: {"kind": "reorg", "stride": layer.stride},
    s.Route: lambda layer: {"kind": "route", "groups": layer.groups, "group_id": layer.group_id},
    s.Fitted: lambda layer: {"kind": "fit", "stride": layer.stride, "spread": layer.spread},
    s.Dropout: lambda layer: {"kind": "copy"},
    s.Detect: _head,
    s.Softmax: _classes,
    s.Segment: _segment,
}


def describe_grid(grid: QParams) -> dict[str, Any]:
    """Scale and levels of an edge; the scale is for people and for what follows a head, never for the integers."""
    word = word_of(grid.qmin, grid.qmax)
    return {"scale": grid.scale, "lo": grid.qmin, "hi": grid.qmax, "bits": word.bits, "signed": word.signed}


def describe_image(shape: Shape, grid: QParams, resize: str) -> dict[str, Any]:
    """What goes in: 8-bit pixels as they are; a float network's input was (pixel - mean) * scale."""
    colour = {1: "grey", 3: "RGB"}.get(shape[0])
    return {
        "shape": list(shape),
        "grid": describe_grid(grid),
        "resize": resize,
        "colour": colour,
        "mean": [0.0] * shape[0],
        "scale": 1 / 255,
    }


def acc_bits(network: IntegerNetwork, i: int) -> int:
    """What the accumulator of layer ``i`` needs at most, sign included; from the levels that its inputs can have."""
    op, reach = network.ops[i], [network.grids[j].reach for j in network.spec.layers[i].sources]
    match op:
        case IntConv():
            return op.acc_bits
        case IntShortcut():
            terms = op.gains.abs().to(torch.int64) * torch.tensor(reach)[:, None]
            largest = int(terms.sum(0).max())
        case IntPool():
            largest = op.count * reach[0]
        case IntGate():
            largest = reach[0] * reach[1]
    return largest.bit_length() + 1


def shift_of(gains: Tensor, f: int) -> int | None:
    """The plain shift that does the same as gains and f, where all gains are one power of two; else None.

    From the integers themselves; a logarithm in floating point may end up just under the whole number.
    """
    different = set(gains.tolist())
    gain = different.pop()
    alone = not different and gain > 0 and gain & (gain - 1) == 0
    return f - (gain.bit_length() - 1) if alone else None


def bent(by: Requantiser) -> bool:
    """Whether a negative accumulator has gains of its own; with lo = 0 whatever is negative becomes 0 anyway."""
    return by.qmin < 0 and not torch.equal(by.multiplier, by.multiplier_neg)


def _activation(layer: s.Layer) -> dict[str, str]:
    return {"activation": layer.activation} if isinstance(layer, s.Activated) else {}


def _conv(network: IntegerNetwork, i: int, op: IntConv, target: TensorFiles) -> dict[str, Any]:
    layer, _ = network.conv(i)
    entry: dict[str, Any] = {
        "kind": "conv",
        "size": layer.size,
        "stride": list(layer.stride),
        "pad": layer.pad,
        "dilation": layer.dilation,
        "groups": layer.groups,
        "weights": target.write(i, "w", op.weight, Word(op.w_bit, True)) | {"layout": "OIHW"},
        "bias": target.write(i, "b", op.bias, INT32),
    }
    if op.requantiser is not None:
        return entry | _requantiser(i, op, network.grids[i], target)
    if op.neuron is not None:
        return entry | {"requantise": None} | _neurons(i, op.neuron, target)
    assert op.scale is not None
    return entry | {"requantise": None, "read_out": {"scale": op.scale.tolist()}}


def _neurons(i: int, neuron: IntNeuron, target: TensorFiles) -> dict[str, Any]:
    reset = "soft" if neuron.soft else "hard"
    return {
        "lif": {"shift": neuron.shift, "keeps_most": neuron.most, "reset": reset},
        "log2_threshold": target.write(i, "k", neuron.log2_threshold, THRESHOLD),
    }


def _requantiser(i: int, op: IntegerOp, grid: QParams, target: TensorFiles) -> dict[str, Any]:
    by = op.requantiser
    assert by is not None
    numbers = {
        "f": by.shift,
        "lo": by.qmin,
        "hi": by.qmax,
        "shift": shift_of(by.multiplier, by.shift),
        "gain_bits": by.gain_bits,
    }
    entry = {"requantise": numbers, "m": target.write(i, "m", by.multiplier, INT32)}
    if bent(by):
        numbers["shift_neg"] = shift_of(by.multiplier_neg, by.shift)
        entry["m_neg"] = target.write(i, "m_neg", by.multiplier_neg, INT32)
    table = table_of(op)
    if table is not None:
        entry["table"] = target.write(i, "t", table, word_of(grid.qmin, grid.qmax))
    return entry
