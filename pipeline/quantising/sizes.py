"""Bytes on disk, of files that were really written."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pipeline.session import Session
from utils.darknet.counts import count
from utils.darknet.network import Checkpoint, Network, save_checkpoint
from utils.quantization.bits import operations_by_layer
from utils.quantization.int_checkpoint import to_checkpoint
from utils.quantization.integer import IntConv, IntegerNetwork
from utils.quantization.lower import weight_bits
from utils.quantization.weights import weight_levels
from utils.reporting.files import file_bytes
from utils.reporting.tables import change, number, plain_table, size

BITS = (8, 4, 2)  # of the weights, in the columns beside the float file
FLOAT_BITS = 32


def with_weight_bits(integer: IntegerNetwork, bits: int) -> IntegerNetwork:
    """The network with weights of so many bits, the outer layers as the scheme has it; their values are only clipped.

    For measuring a file: its length depends on the bits alone.
    """
    scheme = replace(integer.scheme, w_bit=bits, layer_bits=())
    ops = dict(integer.ops)
    for i, op in integer.ops.items():
        if isinstance(op, IntConv):
            own = weight_bits(integer.spec, i, scheme)
            top = weight_levels(own)
            kind = torch.int8 if own <= 8 else torch.int16
            ops[i] = replace(op, weight=op.weight.clamp(-top, top).to(kind), w_bit=own)
    return replace(integer, scheme=scheme, ops=ops)


def written_bytes(checkpoint: Checkpoint) -> int:
    """The length of the file that this checkpoint makes."""
    with tempfile.TemporaryDirectory() as folder:
        return file_bytes(save_checkpoint(Path(folder) / "network.pt", checkpoint))


def sizes_of(session: Session, integer: IntegerNetwork) -> dict[str, int]:
    """``float``, where the float network is known, then ``8``, ``4`` and ``2`` bits: bytes of files without history."""
    names, meta = session.manifest.names, {"size": list(session.size)}
    sizes = {}
    if session.loaded.network is not None:
        network: Network = session.loaded.network
        sizes["float"] = written_bytes(Checkpoint(network, names, meta=meta))
    for bits in BITS:
        sizes[str(bits)] = written_bytes(to_checkpoint(with_weight_bits(integer, bits), "quantised", names, meta))
    return sizes


def operations_of(session: Session, integer: IntegerNetwork) -> int:
    """BOPs of one image, as the manifest of a hand-off counts them."""
    macs = {layer.layer: layer.macs for layer in count(integer.spec, session.size).layers}
    return sum(operations_by_layer(integer, macs).values())


def size_table(sizes: dict[str, int], rows: dict[str, dict[str, Any]]) -> str:
    """A row a file: its bytes and, of the two networks that were measured, MACs and BOPs."""
    table = [["on disk", "bytes", "", "change", "MACs", "BOPs"]]
    first = next(iter(sizes.values()))
    heads = {name: f"weights of {name} bits" for name in sizes} | {"float": "float"}
    for name, length in sizes.items():
        row = rows.get(name, {})
        table.append([heads[name], f"{length:,}", size(length), change(first, length), *_work(row)])
    own = rows["quantised"]
    table.append(["this network", f"{own['bytes']:,}", size(own["bytes"]), change(first, own["bytes"]), *_work(own)])
    return plain_table("files", table)


def _work(row: dict[str, Any]) -> list[str]:
    return [number(row[name]) if name in row else "" for name in ("macs", "bops")]
