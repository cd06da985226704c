"""Recordings of events looked at before they are trained on: each read whole, none stopped at."""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from utils.data.look_over import LookedAt
from utils.data.recordings import open_recording
from utils.errors import InputError

MS = 1000  # us


@dataclass(kw_only=True)
class LookedAtRecording(LookedAt):
    """One recording; ``shape`` is the sensor's, or that of all its events where the format does not say.

    ``events`` there are, ``duration`` us from the first to the last, ``on`` of them ON.
    """

    events: int = 0
    duration: int = 0
    on: int = 0


def with_recording(seen: LookedAtRecording) -> LookedAtRecording:
    """What is in a recording, and a digest of its bytes."""
    try:
        recording = open_recording(seen.path)
        events = recording.whole()
    except InputError as error:
        seen.errors.append(str(error))
        return seen
    seen.content = hashlib.blake2b(seen.path.read_bytes(), digest_size=16).digest()
    if not len(events):
        seen.warnings.append(f"{seen.path}: no event in it")
        return seen
    high, wide = int(events.y.max()) + 1, int(events.x.max()) + 1
    seen.shape = recording.size or (high, wide)
    seen.events, seen.on = len(events), int(events.p.sum())
    seen.duration = int(events.t[-1] - events.t[0]) + 1
    if high > seen.shape[0] or wide > seen.shape[1]:
        seen.errors.append(
            f"{seen.path}: events up to x {wide - 1}, y {high - 1}, outside of its sensor of {seen.shape[1]}x"
            f"{seen.shape[0]} px; its header is wrong, or the file damaged"
        )
    return seen


def recording_rows(splits: Mapping[str, Sequence[LookedAtRecording]]) -> list[list[str]]:
    """Rows of a table: recordings, events, durations, polarities, sensors of each split."""
    rows = [["", *splits]]

    def row(title: str, values: Mapping[str, str]) -> None:
        rows.append([title, *(values[split] for split in splits)])

    good = {split: [seen for seen in items if seen.events] for split, items in splits.items()}
    row("recordings", {split: f"{len(items):,}" for split, items in splits.items()})
    row("unreadable or empty", {split: f"{len(items) - len(good[split]):,}" for split, items in splits.items()})
    row("events", {split: f"{sum(seen.events for seen in items):,}" for split, items in good.items()})
    for title, value, unit in (
        ("events of one (median)", lambda seen: seen.events, ",.0f"),
        ("lasts (median), ms", lambda seen: seen.duration / MS, ",.1f"),
        ("events a px and second (median)", _rate, ",.1f"),
        ("of them ON (median)", lambda seen: seen.on / seen.events, ".0%"),
    ):
        row(
            title,
            {s: format(statistics.median(map(value, items)), unit) if items else "-" for s, items in good.items()},
        )
    sizes = {split: sorted({(seen.shape or (0, 0))[::-1] for seen in items}) for split, items in good.items()}
    row("sensor, px", {s: ", ".join(f"{w}x{h}" for w, h in found[:3]) or "-" for s, found in sizes.items()})
    return rows


def _rate(seen: LookedAtRecording) -> float:
    high, wide = seen.shape or (1, 1)
    return 1e6 * seen.events / (seen.duration * high * wide)


def largest(splits: Mapping[str, Sequence[LookedAt]]) -> tuple[int, int]:
    """The (height, width) that holds every recording, px."""
    shapes = [seen.shape for items in splits.values() for seen in items if seen.shape]
    return max((h for h, _ in shapes), default=1), max((w for _, w in shapes), default=1)
