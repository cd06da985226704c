"""Recordings of event cameras: read, and made into frames or voxel grids, a bin a step.

    events = read_events("00008.bin")                 N-MNIST; .dat Prophesee
    frames = to_frames(events, bins=10, size=(34, 34))          [T, 2, H, W] counts of ON and OFF

A bin is events of its own: by number (each has as many), by time (each lasts as long), or of a fixed count or
duration, as many bins as that makes.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from utils.data.manifest import EVENT_SUFFIXES
from utils.errors import InputError

DAT_EVENT = np.dtype([("t", "<u4"), ("word", "<u4")])  # x: bits 0-13, y: 14-27, p: 28
HEADER_LINE = b"%"
NMNIST_BYTES = 5  # of an event


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


def read_events(path: Path | str) -> Events:
    """A recording, by the ending of its name.

    Raises:
        InputError: no such file, a format that is not known, or a file that is damaged.
    """
    path = Path(path)
    readers = {".bin": read_nmnist, ".dat": read_dat}
    if path.suffix.lower() not in readers:
        raise InputError(f"{path}: recordings end in {' or '.join(EVENT_SUFFIXES)}; give one of those")
    return readers[path.suffix.lower()](path)


def read_nmnist(path: Path | str) -> Events:
    """N-MNIST's format: 40 bits an event, x, y, one bit of polarity, 23 bits of time.

    Source: Orchard et al., Converting static image datasets to spiking neuromorphic datasets using saccades, 2015.
    """
    content = np.frombuffer(_read(path), np.uint8)
    if len(content) % NMNIST_BYTES or not len(content):
        raise InputError(
            f"{path}: {len(content)} bytes are not whole events of {NMNIST_BYTES}; it is cut off or of another format"
        )
    rows = content.reshape(-1, NMNIST_BYTES).astype(np.int64)
    t = (rows[:, 2] & 0x7F) << 16 | rows[:, 3] << 8 | rows[:, 4]
    return _in_order(Events(t, rows[:, 0], rows[:, 1], rows[:, 2] >> 7), path)


def read_dat(path: Path | str, begin: int = 0, duration: int | None = None) -> Events:
    """Prophesee's .dat: lines that begin with %, a byte of type, one of size (8), then 8 bytes an event.

    Args:
        path: the file; without a header the events begin at once.
        begin: us; only events from there on are read.
        duration: us of what is read; None: to the end.
    """
    content = _read(path)
    at = 0
    while content[at : at + 1] == HEADER_LINE:
        end = content.find(b"\n", at)
        if end < 0:
            raise InputError(f"{path}: its header has no end; the file is cut off")
        at = end + 1
    if at:
        kind = content[at : at + 2]
        if len(kind) == 2 and kind[1] != DAT_EVENT.itemsize:
            raise InputError(f"{path}: events of {kind[1]} bytes, not {DAT_EVENT.itemsize}; it holds something else")
        at += 2
    body = content[at:]
    if len(body) % DAT_EVENT.itemsize:
        raise InputError(f"{path}: ends inside an event ({len(body) % DAT_EVENT.itemsize} bytes over); it is cut off")
    rows = np.frombuffer(body, DAT_EVENT)
    first, last = np.searchsorted(rows["t"], (begin, math.inf if duration is None else begin + duration))
    rows = rows[first:last]
    word = rows["word"].astype(np.int64)
    events = Events(rows["t"].astype(np.int64), word & 0x3FFF, word >> 14 & 0x3FFF, word >> 28 & 1)
    return _in_order(events, path)


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


def bins_of_size(events: Events, *, count: int = 0, duration: int = 0) -> list[Events]:
    """As many bins as there are: of ``count`` events each, or of ``duration`` us; the last one may have fewer."""
    if count:
        return [events[n : n + count] for n in range(0, len(events), count)]
    begin, end = int(events.t[0]), int(events.t[-1]) + 1
    return [events.between(t, t + duration) for t in range(begin, end, duration)]


def counted(events: Events, size: tuple[int, int]) -> NDArray[np.int64]:
    """Events of each pixel: [2, H, W], ON first.

    Raises:
        InputError: an event lies outside of ``size``.
    """
    height, width = size
    if len(events) and (int(events.x.max()) >= width or int(events.y.max()) >= height):
        raise InputError(f"an event at x {events.x.max()}, y {events.y.max()} lies outside of {width}x{height} px")
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


def _read(path: Path | str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot read this recording ({error.strerror}); check the list") from error


def _in_order(events: Events, path: Path | str) -> Events:
    """As they are: time never runs back in a recording that is whole."""
    if len(events) > 1 and (np.diff(events.t) < 0).any():
        at = int((np.diff(events.t) < 0).argmax()) + 1
        raise InputError(
            f"{os.fspath(path)}: event {at} is before the one ahead of it; it is damaged, or of another format"
        )
    return events
