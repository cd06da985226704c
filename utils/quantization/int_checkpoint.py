"""An integer network in a file: its integers packed at their bit width, with nothing beside them.

It is a checkpoint whose state is empty, of kind "quantised" (``.int.pt``) or "spiking" (``.snn.pt``): the same
integers, run by another executor. The payload holds six tensors for the whole network, layer after layer in cfg order,
and a short list of numbers a layer; nothing in it is executed on loading.

Version 2 knows pools, gates, tables and sums with a gain a channel. Of version 1, which is read still, all operations
are convolutions and shortcuts, and a shortcut's gains stand in its list of numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from utils.darknet import spec as s
from utils.darknet.network import Checkpoint, Network
from utils.darknet.ops import facts
from utils.darknet.shapes import channels
from utils.errors import InputError
from utils.quantization.activation_qparams import QParams
from utils.quantization.check_integer import check_integer
from utils.quantization.int_fields import NO_INTEGERS, TENSORS, check_fields, scheme_in
from utils.quantization.integer import IntConv, IntegerNetwork, IntegerOp, IntGate, IntPool, IntShortcut, Requantiser
from utils.quantization.packing import pack, packed_size, unpack

VERSION = 2
KINDS = ("quantised", "spiking")


def to_checkpoint(
    integer: IntegerNetwork, kind: str, names: tuple[str, ...] = (), meta: dict[str, Any] | None = None
) -> Checkpoint:
    """The network as a checkpoint of one of ``KINDS``; ``meta`` holds plain values that tell how it was made."""
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}; known: {', '.join(KINDS)}")
    out = _PayloadWriter()
    layers = {i: out.op(op) for i, op in integer.ops.items()}
    payload = {
        "version": VERSION,
        "scheme": integer.scheme.to_dict(),
        "grids": {i: [grid.scale, grid.qmin, grid.qmax] for i, grid in integer.grids.items()},
        "layers": layers,
        "weights": torch.cat(out.weights),
        "biases": torch.cat(out.biases),
        "scales": torch.cat(out.scales),
        **{key: torch.cat([*parts, NO_INTEGERS]) for key, parts in out.integers.items()},
    }
    return Checkpoint(Network(integer.spec, {}), tuple(names), kind, {}, meta or {}, payload)


def integer_of(checkpoint: Checkpoint, name: str = "checkpoint") -> IntegerNetwork:
    """The inverse of ``to_checkpoint``, to the bit.

    Raises:
        InputError: another kind of checkpoint, a newer version, tensors that end early, or numbers that are no integer
            network, with the layer.
    """
    payload, spec = checkpoint.payload, checkpoint.network.spec
    if checkpoint.kind not in KINDS:
        raise InputError(f"{name}: holds a {checkpoint.kind} network; convert it with convert_snn.py")
    if payload.get("version") not in range(1, VERSION + 1):
        raise InputError(f"{name}: integer format {payload.get('version')}, this is {VERSION}; convert it again")
    check_fields(payload, spec, name)
    source, width, convs = _Reader(payload, name), channels(spec, name), spec.convs
    ops: dict[int, IntegerOp] = {
        i: source.conv(convs[i], numbers, width) if i in convs else source.other(spec.layers[i], numbers)
        for i, numbers in payload["layers"].items()
    }
    source.check_end()
    grids = {i: QParams(scale, qmin, qmax) for i, (scale, qmin, qmax) in payload["grids"].items()}
    return check_integer(IntegerNetwork(spec, scheme_in(payload, name), ops, grids), name)


@dataclass
class _PayloadWriter:
    """Collects tensors in layer order; returns the numbers that a layer needs beside them."""

    weights: list[Tensor] = field(default_factory=list)
    biases: list[Tensor] = field(default_factory=list)
    scales: list[Tensor] = field(default_factory=list)
    integers: dict[str, list[Tensor]] = field(default_factory=lambda: {"gains": [], "sums": [], "tables": []})

    def op(self, op: IntegerOp) -> dict[str, Any]:
        numbers: dict[str, Any] = {}
        if not isinstance(op, IntPool) and op.table is not None:
            self.integers["tables"].append(op.table)
            numbers["entries"] = len(op.table)
        match op:
            case IntConv():
                return numbers | self._conv(op)
            case IntShortcut():
                self.integers["sums"].append(op.gains.flatten())
                numbers["gains"] = list(op.gains.shape)
            case IntPool():
                numbers["count"] = op.count
        return numbers | self._requantiser(op.requantiser)

    def _conv(self, op: IntConv) -> dict[str, Any]:
        self.weights.append(pack(op.weight, op.w_bit))
        self.biases.append(op.bias)
        numbers = {"w_bit": op.w_bit, "acc_bits": op.acc_bits}
        if op.requantiser is not None:
            return numbers | self._requantiser(op.requantiser)
        assert op.scale is not None
        self.scales.append(op.scale)
        return numbers

    def _requantiser(self, by: Requantiser) -> dict[str, int]:
        gains = self.integers["gains"]
        gains.append(by.multiplier)
        bent = not torch.equal(by.multiplier, by.multiplier_neg)
        if bent:
            gains.append(by.multiplier_neg)
        return {"f": by.shift, "lo": by.qmin, "hi": by.qmax, "channels": len(by.multiplier), "bent": int(bent)}


class _Reader:
    """Hands the tensors out again in the same order."""

    def __init__(self, payload: dict[str, Any], name: str) -> None:
        self.rest = {key: payload.get(key, NO_INTEGERS) for key in TENSORS}
        self.name, self.version = name, payload["version"]

    def take(self, key: str, count: int) -> Tensor:
        if count > len(self.rest[key]):
            raise InputError(f"{self.name}: its {key} end early; the file is damaged, convert again")
        taken, self.rest[key] = self.rest[key][:count].clone(), self.rest[key][count:]
        return taken

    def check_end(self) -> None:
        for key, rest in self.rest.items():
            if len(rest):
                raise InputError(f"{self.name}: {len(rest)} {key} are left over; the file is damaged, convert again")

    def conv(self, layer: s.Conv, numbers: dict[str, int], width: dict[int, int]) -> IntConv:
        bits = numbers["w_bit"]
        shape = (layer.filters, width[layer.sources[0]] // layer.groups, layer.size, layer.size)
        count = shape[0] * shape[1] * shape[2] * shape[3]
        weight = unpack(self.take("weights", packed_size(count, bits)), bits, shape)
        bias = self.take("biases", layer.filters)
        requantiser = self._requantiser(numbers) if "f" in numbers else None
        scale = None if requantiser else self.take("scales", layer.filters)
        return IntConv(
            weight=weight,
            bias=bias,
            w_bit=bits,
            acc_bits=numbers["acc_bits"],
            requantiser=requantiser,
            scale=scale,
            table=self._table(numbers),
        )

    def other(self, layer: s.Layer, numbers: dict[str, Any]) -> IntegerOp:
        by, table = self._requantiser(numbers), self._table(numbers)
        if not facts(layer).computes:
            raise InputError(f"{self.name}: layer of cfg line {layer.line} cannot compute; the file is damaged")
        if "count" in numbers:
            return IntPool(count=numbers["count"], requantiser=by)
        if "gains" in numbers:
            return IntShortcut(gains=self._sums(numbers["gains"]), requantiser=by, table=table)
        return IntGate(requantiser=by, table=table)

    def _sums(self, given: list[int]) -> Tensor:
        if self.version == 1:
            return torch.tensor(given, dtype=torch.int32)[:, None]
        sources, channels = given if len(given) == 2 and min(given) > 0 else (1, len(self.rest["sums"]) + 1)
        return self.take("sums", sources * channels).view(sources, channels)

    def _table(self, numbers: dict[str, Any]) -> Tensor | None:
        return self.take("tables", numbers["entries"]) if "entries" in numbers else None

    def _requantiser(self, numbers: dict[str, int]) -> Requantiser:
        m = self.take("gains", numbers["channels"])
        m_neg = self.take("gains", numbers["channels"]) if numbers["bent"] else m
        return Requantiser(
            multiplier=m, multiplier_neg=m_neg, shift=numbers["f"], qmin=numbers["lo"], qmax=numbers["hi"]
        )
