"""Events of a camera, and what a network is shown of them: frames, a bin of events a step.

    frames = to_frames(bins_of(events, 10), size=(34, 34))          [T, 2, H, W] counts of ON and OFF

A bin is events of its own: by number (each has as many), by time (each lasts as long), or of a fixed count or
duration, as many bins as that makes. Files are read in ``recordings.py``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from utils.errors import InputError


@dataclass(frozen=True)
class Events:
    """Events in order of time: ``t`` us, ``x`` and ``y`` px from the upper left, ``p`` 1 for ON and 0 for OFF."""

    t: NDArray[np.int64]
    x: NDArray[np.int64]
    y: NDArray[np.int64]
    p: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.t)

    def __getitem__(self, rows: slice | NDArray[np.bool_] | NDArray[np.int64]) -> Events:
        return Events(self.t[rows], self.x[rows], self.y[rows], self.p[rows])

    def between(self, begin: int, end: int) -> Events:
        """Those of begin <= t < end, us."""
        first, last = np.searchsorted(self.t, (begin, end))
        return self[first:last]


def joined(parts: Sequence[Events]) -> Events:
    """One after the other."""
    if not parts:
        return Events(*(np.zeros(0, np.int64) for _ in range(4)))
    return Events(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("t", "x", "y", "p")))


def bins_of(events: Events, bins: int, *, by: str = "number") -> list[Events]:
    """The events in so many bins, in order.

    Args:
        events: of one recording.
        bins: T.
        by: "number": as many events in each, but for one; "time": of one duration each, first to last event.
    """
    if by == "number":
        ends = [len(events) * n // bins for n in range(bins + 1)]
        return [events[a:b] for a, b in pairwise(ends)]
    if by != "time":
        raise ValueError(f"bins by {by!r}; known: number, time")
    if not len(events):
        return [events] * bins
    first, span = int(events.t[0]), int(events.t[-1] - events.t[0]) + 1
    edges = [first + span * n // bins for n in range(bins + 1)]
    return [events.between(a, b) for a, b in pairwise(edges)]


def counted(events: Events, size: tuple[int, int]) -> NDArray[np.int64]:
    """Events of each pixel: [2, H, W], ON first.

    Raises:
        InputError: an event lies outside of ``size``.
    """
    height, width = size
    if len(events) and (int(events.x.max()) >= width or int(events.y.max()) >= height):
        raise InputError(
            f"an event at x {events.x.max()}, y {events.y.max()} lies outside of {width}x{height} px; its format "
            "says no sensor that could be made smaller: give a width= and height= in [net] that hold it"
        )
    flat = ((1 - events.p) * height + events.y) * width + events.x
    return np.bincount(flat, minlength=2 * height * width).reshape(2, height, width)


def to_frames(parts: Sequence[Events], size: tuple[int, int]) -> NDArray[np.int64]:
    """Bins -> counts [T, 2, H, W], ON first."""
    return np.stack([counted(part, size) for part in parts])


def last_polarity(events: Events, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The picture that a bin leaves: [H, W], 255 where its last event was ON, 0 where OFF, 127 where there was none."""
    out = np.full(size, 127, np.uint8)
    out[events.y, events.x] = 255 * events.p  # in order of time: the last one stays
    return out


def voxel_grid(events: Events, bins: int, size: tuple[int, int]) -> NDArray[np.float64]:
    """Polarities shared out between the two nearest of ``bins`` moments: [T, H, W].

    Source: Zhu et al., Unsupervised event-based learning of optical flow, CVPR 2019, equations 1 and 2 (arXiv
    1812.08156).
    """
    grid = np.zeros((bins, *size))
    if not len(events):
        return grid
    span = max(1, int(events.t[-1] - events.t[0]))
    at = (bins - 1) * (events.t - events.t[0]) / span
    sign = 2.0 * events.p - 1
    for n in range(bins):
        share = np.maximum(0, 1 - np.abs(at - n))
        np.add.at(grid[n], (events.y, events.x), sign * share)
    return grid


def in_order(events: Events, path: Path | str) -> Events:
    """As they are: time never runs back in a recording that is whole."""
    if len(events) > 1 and (np.diff(events.t) < 0).any():
        at = int((np.diff(events.t) < 0).argmax()) + 1
        raise InputError(
            f"{os.fspath(path)}: event {at} is before the one ahead of it; it is damaged, or of another format"
        )
    return events
