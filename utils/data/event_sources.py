"""Recordings of events that detect looks at: a file, a folder, a pattern; each window of one is an answer's picture."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path

from utils.data.event_clips import Clip, fit_sensor, opened, placed
from utils.data.event_frames import FrameRule, picture
from utils.data.events import Events, to_frames
from utils.data.folders import EVENT_SUFFIXES, is_recording
from utils.data.sources import Frame, Video
from utils.data.transforms import Letterbox, Resize
from utils.errors import InputError


def load_recordings(
    source: str | Path, rule: FrameRule, size: tuple[int, int], how: Resize = "letterbox"
) -> Iterator[Frame]:
    """The windows of a source's recordings, one after the other.

    A recording is cut into windows of event_window= us, from the one of its first event on, the last one whole; without
    that key it is one window. Its picture is that of the sensor, its ``steps`` are what the network is shown.

    Args:
        source: recording, folder of them, or pattern with ``*``.
        rule: how the network is shown them.
        size: (height, width) of the network's input, px.
        how: a sensor that is larger is fitted into it.

    Raises:
        InputError: at once, where there is nothing to see; later, where a recording is damaged.
    """
    return _windows_of(_paths(str(source)), rule, size, how)


def _windows_of(paths: list[Path], rule: FrameRule, size: tuple[int, int], how: Resize) -> Iterator[Frame]:
    for path in paths:
        yield from _windows(path, rule, size, how)


def _paths(source: str) -> list[Path]:
    path = Path(source)
    if path.is_file() or (not path.exists() and not glob.has_magic(source)):
        if not is_recording(path):
            raise InputError(
                f"{source}: the network takes recordings of events (input=frames in [net]); known are "
                f"{' '.join(EVENT_SUFFIXES)}"
            )
        if not path.is_file():
            raise InputError(f"{path}: no such recording; give a file, a folder or a pattern")
        return [path]
    found = path.rglob("*") if path.is_dir() else map(Path, glob.glob(source, recursive=True))  # noqa: PTH207
    recordings = sorted(each for each in found if is_recording(each))
    if not recordings:
        raise InputError(f"{source}: no recording of events there; known are {' '.join(EVENT_SUFFIXES)}")
    return recordings


def _windows(path: Path, rule: FrameRule, size: tuple[int, int], how: Resize) -> Iterator[Frame]:
    recording = opened(path)
    box = fit_sensor(recording.size, size, how)
    first = recording.begin // rule.window if rule.window else 0  # a clock may have run for hours before
    count = recording.end // rule.window - first if rule.window else 0
    if count < 2:
        clip = Clip(path, recording.end - rule.window, recording.end) if rule.window else Clip(path)
        yield _frame(clip, rule, box)
        return
    video = Video(1e6 / rule.window, count, box.original)
    for n in range(count):
        clip = Clip(path, (first + n) * rule.window, (first + n + 1) * rule.window)
        yield _frame(clip, rule, box, n, video)


def _frame(clip: Clip, rule: FrameRule, box: Letterbox, number: int = 0, video: Video | None = None) -> Frame:
    events = clip.events()
    begin = clip.begin if clip.end is not None else int(events.t[0]) if len(events) else 0
    length = None if clip.end is None else clip.end - begin
    events = Events(events.t - begin, events.x, events.y, events.p)
    try:
        shown = picture(to_frames(rule.binned(events, length), box.original)).transpose(1, 2, 0)
        return Frame(str(clip.path), shown, number, video, rule.frames(placed(events, box), box.size, length), box)
    except InputError as error:
        text = str(error)
        raise InputError(text if text.startswith(str(clip.path)) else f"{clip.path}: {text}") from None
