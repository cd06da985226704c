"""Bytes on disk, of files as they would be written, and bit operations of an image."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from utils.darknet.counts import count
from utils.darknet.network import Checkpoint, Network, checkpoint_bytes
from utils.quantization.bits import operations_by_layer
from utils.quantization.int_checkpoint import to_checkpoint
from utils.quantization.integer import IntConv, IntegerNetwork
from utils.quantization.lower import weight_bits
from utils.quantization.weights import weight_levels

BITS = (8, 4, 2)  # of the weights, whose files stand beside the float one
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


def file_sizes(
    integer: IntegerNetwork, network: Network | None, names: tuple[str, ...], meta: dict[str, Any]
) -> dict[str, int]:
    """``float``, where the float network is known, then ``8``, ``4`` and ``2`` bits: bytes of their files."""
    sizes = {}
    if network is not None:
        sizes["float"] = checkpoint_bytes(Checkpoint(network, names, meta=meta))
    for bits in BITS:
        sizes[str(bits)] = checkpoint_bytes(to_checkpoint(with_weight_bits(integer, bits), "quantised", names, meta))
    return sizes


def bit_operations(integer: IntegerNetwork, size: tuple[int, int]) -> int:
    """BOPs of one image of (height, width) px, as the manifest of a hand-off counts them."""
    macs = {layer.layer: layer.macs for layer in count(integer.spec, size).layers}
    return sum(operations_by_layer(integer, macs).values())
