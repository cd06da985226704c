"""COCO's run-length code of a mask: lengths of runs of 0 and 1 in turn, column by column, as numbers or as text.

Results have the text: pycocotools loads no list of numbers as an answer (``COCO.loadRes``).
Source: the run-length code of COCO's API, maskApi.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """The lengths, beginning with that of 0."""
    flat = mask.flatten(order="F")
    ends = np.flatnonzero(np.diff(flat)) + 1
    lengths: list[int] = np.diff([0, *ends.tolist(), len(flat)]).tolist()
    return lengths if not flat[0] else [0, *lengths]


def encoded(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A mask's code, its lengths as text."""
    return {"size": list(mask.shape), "counts": text_of(run_lengths(mask))}


def decoded(code: Mapping[str, Any], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """The mask [height, width] of a code, whose lengths are numbers or text."""
    counts = code["counts"] if isinstance(code["counts"], list) else _numbers(code["counts"])
    flat = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    return flat.reshape(shape[1], shape[0]).T


def text_of(lengths: Sequence[int]) -> str:
    """Five bits a letter, the highest of the last letter is the sign.

    From the fourth number on it says what that one is more than the last but one.
    """
    letters = list[str]()
    for n, length in enumerate(lengths):
        value, more = length - (lengths[n - 2] if n > 2 else 0), True
        while more:
            part, value = value & 31, value >> 5
            more = value != (-1 if part & 16 else 0)
            letters.append(chr(48 + part + 32 * more))
    return "".join(letters)


def _numbers(text: str) -> list[int]:
    """What ``text_of`` wrote."""
    found, value, bits = list[int](), 0, 0
    for letter in text:
        part = ord(letter) - 48
        value, bits = value | (part & 31) << bits, bits + 5
        if not part & 32:
            value -= (1 << bits) if part & 16 else 0
            found.append(value + (found[-2] if len(found) > 2 else 0))
            value, bits = 0, 0
    return found
