"""Parts of recordings as frames: read, fitted into the network's image, perhaps kept in memory, perhaps changed."""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
from numpy.typing import NDArray

from utils.data.dataset import RAM_SHARE, Reading, SampleRequest, Unreadable
from utils.data.event_frames import FrameRule, Moved, disturbed, draw_move, thinned
from utils.data.events import Events, to_frames
from utils.data.prophesee import packed, unpacked
from utils.data.recordings import open_recording
from utils.data.text import say_once
from utils.data.transforms import Letterbox, Resize, fit
from utils.errors import InputError
from utils.memory import free_memory, in_words

log = logging.getLogger(__name__)

NEXT_TO_ONE_BYTE = 255
GREY = 127  # what "polarity" and "voxel" show where nothing happened

opened = functools.lru_cache(maxsize=4)(open_recording)  # parts of one recording are asked for one after the other


@dataclass(frozen=True)
class Clip:
    """Events of ``path`` from ``begin`` to before ``end``, us; None: to the last one."""

    path: Path
    begin: int = 0
    end: int | None = None

    @property
    def name(self) -> Path:
        """The recording, and where a clip is only a part of it, the moment at which it ends."""
        return self.path if self.end is None else self.path.with_name(f"{self.path.name}@{self.end}")

    def events(self) -> Events:
        """Its events."""
        recording = opened(self.path)
        return recording.whole() if self.end is None else recording.between(self.begin, self.end)


def fit_sensor(sensor: tuple[int, int] | None, size: tuple[int, int], how: Resize = "letterbox") -> Letterbox:
    """How a sensor (height, width) goes into the network's image: px on px from the upper left, where it fits.

    A larger one is made smaller: its events get the coordinates of the px that theirs fall into.
    """
    if sensor is None:
        return Letterbox(size, size, (0, 0), size)
    if sensor[0] <= size[0] and sensor[1] <= size[1]:
        return Letterbox(sensor, sensor, (0, 0), size)
    return fit(sensor, size, how)


def placed(events: Events, box: Letterbox) -> Events:
    """Events of a sensor in px of the network's image."""
    if box.scaled == box.original and box.pad == (0, 0):
        return events
    (h, w), (high, wide), (top, left) = box.scaled, box.original, box.pad
    return Events(events.t, events.x * w // wide + left, events.y * h // high + top, events.p)


class ClipFrames:
    """Clips as frames.

    Args:
        clips: parts of recordings.
        size: (height, width) of the network's input, px.
        rule: how they are shown.
        augment: whether each is changed, by (seed, epoch, index).
        flip: the share that is mirrored when it is changed.
        cache: "off" reads a clip each time it is asked for; "auto" keeps all in less than 30 % of what is free.
        reading: ``seed`` of every random choice; ``how`` a sensor that is larger than ``size`` is fitted into it;
            ``unreadable`` is kept for the loader: recordings that are damaged are an error, there is no stand-in.

    Raises:
        InputError: a recording is damaged, or larger than ``size`` and of no known size.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        size: tuple[int, int],
        rule: FrameRule,
        *,
        augment: bool = False,
        flip: float = 0.0,
        cache: str = "auto",
        **reading: Unpack[Reading],
    ) -> None:
        self.clips, self.images = list(clips), [clip.name for clip in clips]
        self.size, self.rule, self.augment, self.flip = size, rule, augment, flip
        self.seed, self.epoch = reading.get("seed", 0), 0
        self.how: Resize = reading.get("how", "letterbox")
        self.unreadable: Unreadable = reading.get("unreadable", "stop")
        self.gaps: dict[int, str] = {}
        self._boxes: dict[Path, Letterbox] = {}
        self._kept: list[NDArray[Any]] | None = None
        if reading.get("jpeg") == "reduced":
            raise InputError("--jpeg reduced: recordings of events are no JPEGs; add --jpeg full")
        if cache == "disk":
            raise InputError("--cache disk: recordings are kept in memory or not at all; use ram, off or auto")
        if cache == "ram" and self.estimated_bytes() > free_memory():
            need, free = in_words(self.estimated_bytes()), in_words(free_memory())
            raise InputError(
                f"--cache ram: {len(self)} recordings take {need} of memory, {free} are free; use --cache off"
            )
        if cache == "ram" or (cache == "auto" and self.estimated_bytes() < RAM_SHARE * free_memory()):
            self._kept = [self._read(i) for i in range(len(self))]

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def cached(self) -> bool:
        """Whether the clips are kept in memory."""
        return self._kept is not None

    def estimated_bytes(self) -> int:
        """What the cache would take at most."""
        if self._as_counts:
            return self.rule.steps * 2 * self.size[0] * self.size[1] * len(self)
        return 2 * sum(path.stat().st_size for path in {clip.path for clip in self.clips} if path.is_file())

    def set_epoch(self, epoch: int) -> None:
        """Which epoch's random choices plain ``dataset[i]`` shows."""
        self.epoch = epoch

    def shapes(self) -> list[tuple[int, int]]:
        """(height, width) of every clip, as the network sees it."""
        return [self.size] * len(self)

    def letterbox(self, index: int) -> Letterbox:
        """How a clip's sensor went into the network's image."""
        path = self.clips[index].path
        if path not in self._boxes:
            self._boxes[path] = fit_sensor(opened(path).size, self.size, self.how)
        return self._boxes[path]

    def shown(self, request: int | SampleRequest) -> tuple[int, NDArray[np.uint8], Moved]:
        """An index or the loader's request: its clip, its frames uint8 [T, C, H, W], and how they were moved."""
        if not isinstance(request, SampleRequest):
            request = SampleRequest(int(request), self.epoch)
        if request.size not in (None, self.size):
            raise InputError("--multi-scale: events lie on px of a sensor and have no other scale; leave it away")
        index = request.index
        kept = self._kept[index] if self._kept else self._read(index)
        rng = np.random.Generator(np.random.PCG64((self.seed, request.epoch, index)))
        moved = draw_move(self.rule, self.size, self.flip, rng) if self.augment else Moved()
        if self._as_counts:
            counts = moved.frames(kept) if self.augment else kept
            return index, self.rule.shown(thinned(counts, self.rule.drop, rng) if self.augment else counts), moved
        events = unpacked(kept)
        events = disturbed(events, self.rule, rng) if self.augment else events
        frames = self.rule.frames(events, self.size, self._length(index))
        empty = 0 if self.rule.counts else GREY
        return index, moved.frames(frames, empty) if self.augment else frames, moved

    @property
    def _as_counts(self) -> bool:
        """Whether counts are enough to make, and to change, its frames."""
        return self.rule.counts and not (self.augment and self.rule.jitter)

    def _length(self, index: int) -> int | None:
        """How long a clip is, us; None where it is as long as its events."""
        clip = self._clip(index)
        return None if clip.end is None else clip.end - clip.begin

    def _clip(self, index: int) -> Clip:
        """The clip; of a longer one, or a whole recording, only what event_window= says, at its end."""
        clip = self.clips[index]
        if not self.rule.window or (clip.end is not None and clip.end - clip.begin <= self.rule.window):
            return clip
        end = opened(clip.path).end if clip.end is None else clip.end
        return Clip(clip.path, end - self.rule.window, end)

    def _read(self, index: int) -> NDArray[Any]:
        """What is kept of a clip: counts uint8 [T, 2, H, W], or its events, packed, us from its beginning."""
        clip = self._clip(index)
        try:
            events = placed(clip.events(), self.letterbox(index))
            if self.clips[index].end is None and not len(opened(clip.path)):
                empty = f"{clip.path}: no event in it; it is shown as a recording in which nothing was seen"
                say_once(log, logging.WARNING, empty)
            begin = clip.begin if clip.end is not None else int(events.t[0]) if len(events) else 0
            events = Events(events.t - begin, events.x, events.y, events.p)
            counts = to_frames(self.rule.binned(events, self._length(index)), self.size)
            return counts.clip(0, NEXT_TO_ONE_BYTE).astype(np.uint8) if self._as_counts else packed(events)
        except InputError as error:
            text = str(error)
            raise InputError(text if text.startswith(str(clip.path)) else f"{clip.path}: {text}") from None
