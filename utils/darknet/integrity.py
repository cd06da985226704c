"""What a file is held to when it is opened: the bytes that were written, and numbers that one can compute with."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from utils.errors import InputError

END = b"PK\x05\x06"  # a zip's last record; its last two bytes tell how long the comment behind it is
SEAL = b"sha256:"
SEALED = len(SEAL) + 64
LARGEST = 1e30  # of a weight: its product with an activation still fits float32


def digest(value: Any) -> str:
    """sha256 of tensors, numbers, texts, lists and dicts, whatever file they stand in.

    Every value counts with its type, every tensor with type, shape and bytes; dicts in the order of their keys.
    """
    found = hashlib.sha256()
    _add(found, value)
    return found.hexdigest()


def _add(found: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous()
        found.update(f"tensor {plain.dtype} {tuple(plain.shape)} ".encode())
        if plain.numel():
            found.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    elif isinstance(value, Mapping):
        found.update(f"dict {len(value)} ".encode())
        for key in sorted(value, key=lambda each: (type(each).__name__, each)):
            _add(found, key)
            _add(found, value[key])
    elif isinstance(value, list | tuple):
        found.update(f"list {len(value)} ".encode())
        for each in value:
            _add(found, each)
    else:
        found.update(f"{type(value).__name__} {value!r} ".encode())


def sealed(content: bytes) -> bytes:
    """A zip with the sha256 of all its bytes in its comment: of the padding and the names too, which nobody reads."""
    at = content.rindex(END) + 20
    whole = content[:at] + struct.pack("<H", SEALED)
    return whole + SEAL + hashlib.sha256(whole).hexdigest().encode()


def is_whole(content: bytes) -> bool:
    """Whether this is what `sealed` made, in every bit."""
    return content[-SEALED:] == SEAL + hashlib.sha256(content[:-SEALED]).hexdigest().encode()


def check_state(state: Mapping[str, Tensor], place: str) -> None:
    """Refuse tensors that nothing can be computed with.

    Args:
        state: of a network, by name.
        place: the file, for messages.

    Raises:
        InputError: a value is not finite or too large for float32's products, or a variance is negative; the tensor and
            the channel are named.
    """
    for name, tensor in state.items():
        if not tensor.is_floating_point() or not tensor.numel():
            continue
        wrong = ~(tensor.abs() <= LARGEST)  # so that nan is wrong too
        fact = "a value of {}"
        if not wrong.any() and name.endswith("running_var"):
            wrong, fact = tensor < 0, "a variance of {}"
        if wrong.any():
            at = tuple(int(each) for each in wrong.nonzero()[0])
            value = fact.format(f"{float(tensor[at]):.4g}")
            raise InputError(
                f"{place}: {name}, channel {at[0] if at else 0} has {value}; the training diverged or the file is "
                "damaged, use an earlier checkpoint or another copy"
            )
