"""A memory map by liveness: maps that are never needed at the same time share words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

ALIGN = 64  # words, so that bursts are long


@dataclass(frozen=True)
class Life:
    """Words of a buffer, from the layer that writes it to the last one that reads it."""

    words: int
    first: int
    last: int


def allocate(lives: Mapping[int, Life]) -> tuple[dict[int, int], int]:
    """Buffer -> first word, and how many words it takes in all: the lowest free place, in the order of their birth."""
    placed: dict[int, int] = {}
    end = 0
    for buffer, life in sorted(lives.items(), key=lambda item: (item[1].first, item[0])):
        others = sorted(
            (placed[j], placed[j] + lives[j].words)
            for j in placed
            if lives[j].last >= life.first and lives[j].first <= life.last
        )
        at = 0
        for low, high in others:
            if at + life.words <= low:
                break
            at = max(at, -(-high // ALIGN) * ALIGN)
        placed[buffer] = at
        end = max(end, at + life.words)
    return placed, end
