"""Clocks of a descriptor on a memory that never stalls; `make sim` holds the simulation to them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from utils.export.engine.isa import BYTES, Compute, Descriptor, Load

LATENCY = 8  # of the simulation's memory: from an address to its first word, and from the last word to the answer
FETCH = LATENCY + 4  # and the words of a descriptor
LOADED = LATENCY + 2
COMPUTED = LATENCY + 14  # the pipeline, then the answer to the last burst
COUNTED = 2  # the largest count, and that of the pool
RAW = -2  # an accumulator leaves earlier than a level
FIRED_RAW = -7  # and so does a membrane
PASSED = -2  # levels that only move wait for no neuron
FIRED = LATENCY + 20  # and the pipelines of events and of neurons
LEAKED = 1  # what membranes have is read before it is written
STREAMED = 0  # a neuron that runs all the time has a count


@dataclass(frozen=True)
class EventWork:
    """What a descriptor's events and neurons do for one image: clocks, and those of them in which there is a spike."""

    clocks: int = 0
    accumulates: int = 0


def clocks_of(one: Descriptor, lanes: int, work: EventWork | None = None) -> int:
    """From the descriptor's fetch to the next one's. ``work``: of its events, which depend on the image."""
    fetch = FETCH + BYTES // lanes
    match one:
        case Load():
            return fetch + LOADED + one.words
        case Compute() if one.events is not None:
            earlier = FIRED_RAW if one.raw else PASSED if one.plain else STREAMED if one.stream else 0
            filled = (one.outputs + LEAKED if one.leaky else 0) if one.keep else one.outputs
            return fetch + FIRED + earlier + filled + (0 if work is None else work.clocks)
        case Compute():
            return fetch + COMPUTED + one.taps + (RAW if one.raw else COUNTED if one.stream else 0)
    return fetch


def clocks(program: Iterable[Descriptor], lanes: int) -> int:
    """Of a whole run, without what depends on the image."""
    return sum(clocks_of(one, lanes) for one in program)


def spent(program: Sequence[Descriptor], lanes: int, work: Sequence[EventWork] = ()) -> list[int]:
    """Of every descriptor; ``work`` has one entry a descriptor, or none where the clocks depend on no image."""
    each: Sequence[EventWork | None] = work or [None] * len(program)
    return [clocks_of(one, lanes, of) for one, of in zip(program, each, strict=True)]
