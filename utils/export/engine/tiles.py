"""How many rows of a map are worked on at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Window:
    """How outputs look at inputs along both axes: (down, right) each."""

    kernel: tuple[int, int] = (1, 1)
    step: tuple[int, int] = (1, 1)
    before: int = 0  # padding above and left
    below: int = 0  # rows from there to the first tap, and columns
    aside: int = 0
    dilation: int = 1
    up: int = 1

    def rows(self, first: int, end: int, high: int) -> tuple[int, int, int]:
        """Rows of the input that output rows first..end-1 need: from, to, and what the first tap is below ``from``."""
        if self.up > 1:
            return first // self.up, (end - 1) // self.up + 1, 0
        top = first * self.step[0] - self.before + self.below
        low = min(max(top, 0), high - 1)
        reach = (end - 1) * self.step[0] - self.before + self.below + (self.kernel[0] - 1) * self.dilation + 1
        return low, max(low + 1, min(reach, high)), top - low


@dataclass(frozen=True)
class Tile:
    """Output rows ``first`` to ``end``, input rows ``low`` to ``high``, and where the first tap lies (``top``)."""

    first: int
    end: int
    low: int
    high: int
    top: int


def tiles(
    window: Window, high: int, out_high: int, words_a_row: int, room: int, most: int = 1 << 30
) -> Iterator[Tile] | None:
    """As few tiles as fit ``room`` words, of as even a height as can be; None where not one row of outputs does.

    ``most``: rows of outputs in a tile.
    """
    for count in range(1, -(-out_high // window.up) + 1):
        found = list(_split(window, high, out_high, count))
        fits = max((tile.high - tile.low) * words_a_row for tile in found) <= room
        if fits and max(tile.end - tile.first for tile in found) <= most:
            return iter(found)
    return None


def _split(window: Window, high: int, out_high: int, count: int) -> Iterator[Tile]:
    each = -(-out_high // count // window.up) * window.up if window.up > 1 else -(-out_high // count)
    each = max(each, window.up)
    for first in range(0, out_high, each):
        end = min(first + each, out_high)
        yield Tile(first, end, *window.rows(first, end, high))
