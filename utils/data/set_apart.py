"""A share of a set to validate on, chosen by each image's own name."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path


def set_apart(names: Sequence[str], valid: float, seed: int) -> tuple[list[int], list[int]]:
    """Numbers of the names that train and of those that validate, in order: about the share ``valid`` of them.

    A name decides for itself, by a hash of it and the seed, so that an image that is added or removed moves no other.
    Only where that would leave one part empty, the name nearest to it goes over.
    """
    marks = [_mark(name, seed) for name in names]
    apart = {i for i, mark in enumerate(marks) if mark < valid}
    if not apart:
        apart = {marks.index(min(marks))}
    elif len(apart) == len(names):
        apart.remove(marks.index(max(marks)))
    return [i for i in range(len(names)) if i not in apart], sorted(apart)


def _mark(name: str, seed: int) -> float:
    """A number of 0..1 that a name and a seed have."""
    digest = hashlib.sha256(f"{seed}:{Path(name).name}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
