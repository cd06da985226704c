"""What a network with input=frames is shown of a recording, as [net] of its cfg says it.

event_bins=number      T bins of as many events each; time: of one duration each; count: of event_size events each
event_window=250000    us before the moment that is asked about; 0: everything before it
event_frame=binary     255 where a pixel saw an event, ON and OFF apart; count: how many, up to 15; polarity: that of
                       the last one; voxel: polarities shared out between the nearest two bins
event_shift=0.06       how training changes recordings: moved by so much of the side at most,
event_drop=0.1         so large a share of the events left out,
event_jitter=0         each event moved in time, us, by a normal distribution of this deviation
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from utils.data.events import Events, bins_of, counted, last_polarity, to_frames, voxel_grid
from utils.errors import InputError

MOST = 255
COUNTED = 15  # events of a pixel and bin that "count" tells apart
VOTES = 7  # events of one polarity that "voxel" tells apart; 255 = 127.5 + 7 * 18.2
POLARITIES = {"binary": 2, "count": 2, "polarity": 1, "voxel": 1}  # channels of each kind of frame
BINS = ("number", "time", "count")


@dataclass(frozen=True)
class FrameRule:
    """The keys above; ``steps`` is T."""

    steps: int
    bins: str = "number"
    frame: str = "binary"
    window: int = 0
    size: int = 0
    shift: float = 0.06
    drop: float = 0.1
    jitter: float = 0.0

    @classmethod
    def of(cls, net: Mapping[str, str], steps: int) -> FrameRule:
        """From the keys of [net], which the cfg's reader has checked."""
        return cls(
            steps,
            net.get("event_bins", cls.bins),
            net.get("event_frame", cls.frame),
            int(net.get("event_window", cls.window)),
            int(net.get("event_size", cls.size)),
            *(float(net.get(f"event_{key}", getattr(cls, key))) for key in ("shift", "drop", "jitter")),
        )

    @property
    def channels(self) -> int:
        """Of a frame."""
        return POLARITIES[self.frame]

    @property
    def counts(self) -> bool:
        """Whether a frame follows from how many events each pixel saw."""
        return self.frame in ("binary", "count")

    def binned(self, events: Events, length: int | None = None) -> list[Events]:
        """T bins.

        Args:
            events: of the window.
            length: us of the window, from t = 0 on; None: it is as long as its events. Bins by time are parts of the
                window, and do not depend on when its first event came.
        """
        if self.bins == "count":
            return self._last_bins(events)
        if self.bins == "time" and length is not None:
            edges = [length * n // self.steps for n in range(self.steps + 1)]
            return [events.between(a, b) for a, b in pairwise(edges)]
        return bins_of(events, self.steps, by=self.bins)

    def _last_bins(self, events: Events) -> list[Events]:
        """The last T bins of as many events as the cfg says; where there are fewer, the first bins are empty."""
        ends = [max(0, len(events) - n * self.size) for n in range(self.steps, -1, -1)]
        return [events[a:b] for a, b in pairwise(ends)]

    def shown(self, counts: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Counts [T, 2, H, W] as frames of these."""
        if self.frame == "binary":
            return (counts > 0).astype(np.uint8) * np.uint8(MOST)
        return (counts.clip(0, COUNTED) * (MOST // COUNTED)).astype(np.uint8)

    def frames(self, events: Events, size: tuple[int, int], length: int | None = None) -> NDArray[np.uint8]:
        """Events of a window as frames, uint8 [T, channels, H, W].

        Raises:
            InputError: an event lies outside of ``size``.
        """
        parts = self.binned(events, length)
        if self.counts:
            return self.shown(to_frames(parts, size))
        counted(events, size)  # refuses what lies outside
        if self.frame == "polarity":
            return np.stack([last_polarity(part, size) for part in parts])[:, None]
        grid = voxel_grid(events, self.steps, size)
        return (127.5 + grid[:, None].clip(-VOTES, VOTES) * (127.5 / VOTES)).round().astype(np.uint8)


@dataclass(frozen=True)
class Moved:
    """Where a changed recording's pixels went: mirrored first, then ``down`` and ``right`` by so many px."""

    down: int = 0
    right: int = 0
    mirrored: bool = False

    def frames(self, frames: NDArray[np.uint8], empty: int = 0) -> NDArray[np.uint8]:
        """Frames [T, C, H, W], the same in every bin; ``empty`` is what comes in from outside."""
        frames = frames[..., ::-1] if self.mirrored else frames
        height, width = frames.shape[2:]
        y, x = self.down, self.right
        out = np.full_like(frames, empty)
        out[:, :, max(0, y) : height + min(0, y), max(0, x) : width + min(0, x)] = frames[
            :, :, max(0, -y) : height + min(0, -y), max(0, -x) : width + min(0, -x)
        ]
        return out

    def matrix(self, width: int) -> NDArray[np.float64]:
        """The same as a map [2, 3] of (x, y, 1)."""
        across = (-1, 0, width + self.right) if self.mirrored else (1, 0, self.right)
        return np.array([across, (0, 1, self.down)], np.float64)


def draw_move(rule: FrameRule, size: tuple[int, int], flip: float, rng: np.random.Generator) -> Moved:
    """A random change of place; ``flip`` is the share of recordings that is mirrored left to right."""
    y, x = (int(rng.integers(-round(rule.shift * side), round(rule.shift * side) + 1)) for side in size)
    return Moved(y, x, bool(flip) and rng.random() < flip)


def thinned(counts: NDArray[np.uint8], drop: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Counts of events, each left out with this probability."""
    kept: NDArray[np.uint8] = rng.binomial(counts, 1 - drop).astype(np.uint8)
    return kept


def disturbed(events: Events, rule: FrameRule, rng: np.random.Generator) -> Events:
    """Events without some of them, each moved in time, in order again; none leaves the time of all."""
    kept = events[rng.random(len(events)) >= rule.drop]
    if not rule.jitter or not len(kept):
        return kept
    moved = kept.t + np.rint(rng.normal(0, rule.jitter, len(kept))).astype(np.int64)
    moved = moved.clip(kept.t[0], kept.t[-1])
    order = np.argsort(moved, kind="stable")
    return Events(moved[order], kept.x[order], kept.y[order], kept.p[order])


def picture(frames: NDArray[np.integer]) -> NDArray[np.uint8]:
    """All bins as one picture, uint8 [3, H, W]: ON red, OFF blue, on white, the later the stronger.

    Args:
        frames: counts or frames [T, 2, H, W]; or [T, 1, H, W], brighter than the middle for ON.
    """
    values = frames.astype(np.float64)
    if frames.shape[1] == 1:
        values = np.concatenate((values - 127.5, 127.5 - values), 1).clip(1, None) - 1
    late = np.arange(1, len(values) + 1) / len(values)
    total = (values * late[:, None, None, None]).sum(0)
    strength = (MOST * total / max(1.0, total.max())).round()
    on, off = strength
    return np.stack((MOST - off, MOST - np.maximum(on, off), MOST - on)).clip(0, MOST).astype(np.uint8)


def check_frames(rule: FrameRule | None, channels: int, place: object, example: str) -> FrameRule:
    """How a network is shown recordings.

    Raises:
        InputError: it takes images, or frames of other channels than its cfg says.
    """
    if rule is None or channels != rule.channels:
        needs = rule.channels if rule else POLARITIES["binary"]
        raise InputError(
            f"{place}: recordings of events need a network with input=frames, timesteps= and channels={needs} in "
            f"[net]; use {example}, or write one"
        )
    return rule
