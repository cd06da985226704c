"""Clocks of a descriptor on a memory that never stalls; `make sim` holds the simulation to them."""

from __future__ import annotations

from collections.abc import Iterable

from utils.export.engine.isa import BYTES, Compute, Descriptor, Load

LATENCY = 8  # of the simulation's memory: from an address to its first word, and from the last word to the answer
FETCH = LATENCY + 4  # and the words of a descriptor
LOADED = LATENCY + 2
COMPUTED = LATENCY + 14  # the pipeline, then the answer to the last burst
RAW = -2  # an accumulator leaves earlier than a level


def clocks_of(one: Descriptor, lanes: int) -> int:
    """From the descriptor's fetch to the next one's."""
    fetch = FETCH + BYTES // lanes
    match one:
        case Load():
            return fetch + LOADED + one.words
        case Compute():
            return fetch + COMPUTED + one.taps + (RAW if one.raw else 0)
    return fetch


def clocks(program: Iterable[Descriptor], lanes: int) -> int:
    """Of a whole run."""
    return sum(clocks_of(one, lanes) for one in program)
