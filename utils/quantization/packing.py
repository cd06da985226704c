"""Integers of b bits, packed without gaps."""

from __future__ import annotations

import torch
from torch import Tensor


def pack(values: Tensor, bits: int) -> Tensor:
    """Signed integers -> uint8 [ceil(n * bits / 8)].

    Two's complement of ``bits`` bits, least significant bit first, one value after the other; the last byte is filled
    up with zeros. Size 2 to 16 bits.
    """
    if bits == 8:
        return values.flatten().to(torch.int8).view(torch.uint8)
    unsigned = values.flatten().to(torch.int32) & (2**bits - 1)
    if 8 % bits == 0:  # whole values in a byte
        unsigned = torch.nn.functional.pad(unsigned, (0, -len(unsigned) % (8 // bits))).view(-1, 8 // bits)
        return (unsigned << torch.arange(0, 8, bits, dtype=torch.int32)).sum(1).to(torch.uint8)
    stream = (unsigned[:, None] >> torch.arange(bits)) & 1  # [n,bits]
    stream = torch.nn.functional.pad(stream.flatten(), (0, -stream.numel() % 8)).view(-1, 8)
    return (stream << torch.arange(8)).sum(1).to(torch.uint8)


def unpack(packed: Tensor, bits: int, shape: tuple[int, ...]) -> Tensor:
    """The inverse of ``pack``: int8 of the given shape, from 9 bits on int16."""
    count = 1
    for side in shape:
        count *= side
    stream = (packed.to(torch.int16)[:, None] >> torch.arange(8)) & 1
    digits = stream.flatten()[: count * bits].view(count, bits)
    unsigned = (digits << torch.arange(bits)).sum(1)
    signed = torch.where(unsigned >= 2 ** (bits - 1), unsigned - 2**bits, unsigned)
    return signed.to(torch.int8 if bits <= 8 else torch.int16).view(shape)


def packed_size(count: int, bits: int) -> int:
    """Bytes that ``count`` values take."""
    return (count * bits + 7) // 8
