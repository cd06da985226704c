"""What detect looks at: an image, a folder, a pattern, a video, a camera."""

from __future__ import annotations

import glob
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from utils.data.folders import IMAGE_SUFFIXES, is_recording
from utils.data.images import HUSH, Size, UnreadableImageError, read_image, read_picture
from utils.data.loader import MOST_GAPS
from utils.data.transforms import Letterbox
from utils.errors import InputError
from utils.numbers import is_whole

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = (".avi", ".gif", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")


@dataclass(frozen=True)
class Video:
    """What a video or camera says of itself; ``frames`` is 0 where it does not know (a camera)."""

    fps: float
    frames: int
    size: tuple[int, int]  # (height, width) px


@dataclass(frozen=True)
class Frame:
    """``image`` uint8 [H, W, C] RGB or grey of ``name`` (a path, an address or a camera); ``number`` counts from 0.

    Of a recording of events ``steps`` uint8 [T, C, H, W] is what the network is shown, and ``box`` how it was fitted.
    ``reduced``: a JPEG file as it was decoded for the network, where that is not ``image``.
    """

    name: str
    image: np.ndarray
    number: int = 0
    video: Video | None = None
    steps: np.ndarray | None = None
    box: Letterbox | None = None
    reduced: np.ndarray | None = None


def load_images(source: str | Path, channels: int = 3, needed: Callable[[Size], Size] | None = None) -> Iterator[Frame]:
    """The frames of a source, one after the other.

    Args:
        source: image or video file, folder of them, pattern with ``*``, stream's address, or number of a camera.
        channels: 3 (RGB) or 1 (grey).
        needed: JPEG files are decoded for the network as ``read_picture`` says; None: in full.

    Raises:
        InputError: at once, where there is nothing to see; later, where a file turns out unreadable.
    """
    source = str(source)
    if is_whole(source) and not Path(source).exists():
        return _video(int(source), f"camera {source}", channels)
    if "://" in source:
        return _video(source, source, channels)
    return _files(_paths(source), channels, needed)


def may_be_film(source: str | Path) -> bool:
    """Whether a source is a camera, a stream or a video, or has one among its files.

    Raises:
        InputError: there is nothing to see.
    """
    source = str(source)
    if (is_whole(source) and not Path(source).exists()) or "://" in source:
        return True
    return any(path.suffix.lower() in VIDEO_SUFFIXES for path in _paths(source))


def _paths(source: str) -> list[Path]:
    """The images and videos a path or pattern stands for, by name."""
    path, known = Path(source), tuple(dict.fromkeys(IMAGE_SUFFIXES + VIDEO_SUFFIXES))
    if path.is_file():
        if is_recording(path):
            raise InputError(f"{path}: a recording of events, and the network takes images; give images")
        if path.suffix.lower() not in known:
            raise InputError(f"{path}: neither image nor video by its name; known are {' '.join(known)}")
        return [path]
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix.lower() in known)
        if not found:
            raise InputError(f"{path}: no image or video in this folder; known are {' '.join(known)}")
        return found
    if glob.has_magic(source):
        found = sorted(p for p in map(Path, glob.glob(source, recursive=True)) if p.suffix.lower() in known)  # noqa: PTH207
        if not found:
            raise InputError(f"{source}: no image or video fits this pattern; quote it and check the folder")
        return found
    raise InputError(f"{source}: no such file or folder; give an image, video, folder, pattern or camera number")


def _files(paths: list[Path], channels: int, needed: Callable[[Size], Size] | None) -> Iterator[Frame]:
    gaps = 0
    for path in paths:
        if path.suffix.lower() in VIDEO_SUFFIXES:
            yield from _video(str(path), str(path), channels)
            continue
        try:
            image = read_image(path, channels)
            reduced = read_picture(path, channels, needed)[0] if needed else None
        except UnreadableImageError as error:  # as a loader does
            gaps += 1
            if gaps > MOST_GAPS * len(paths):
                fact = f"; {gaps} of {len(paths)} images can not be read, more than {MOST_GAPS:.0%}"
                raise InputError(f"{error}{fact if len(paths) > 1 else ''}") from None
            log.warning("%s; skipped, as %d of %d images so far", error, gaps, len(paths))
            continue
        yield Frame(str(path), image, reduced=reduced)


def _video(source: str | int, name: str, channels: int) -> Iterator[Frame]:
    """Open now, so that a mistake shows before anything else is done; read later."""
    with HUSH:
        capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        capture.release()
        if isinstance(source, int):
            raise InputError(f"{name}: does not open; is it plugged in and free?")
        stream = "does not open; is its sender on, and the address right?"
        raise InputError(f"{name}: {stream if '://' in source else 'can not be read as a video; convert it'}")
    return _frames(capture, name, channels)


def _frames(capture: cv2.VideoCapture, name: str, channels: int) -> Iterator[Frame]:
    number = 0
    try:
        height, width = (int(capture.get(key)) for key in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
        frames = max(0, int(capture.get(cv2.CAP_PROP_FRAME_COUNT)))
        video = Video(capture.get(cv2.CAP_PROP_FPS) or 25.0, frames, (height, width))
        while True:
            with HUSH:
                good, image = capture.read()
            if not good:
                break
            colour = cv2.cvtColor(image, cv2.COLOR_BGR2RGB if channels == 3 else cv2.COLOR_BGR2GRAY)
            yield Frame(name, colour.reshape(*image.shape[:2], channels), number, video)
            number += 1
    finally:
        capture.release()
    if not number:
        raise InputError(f"{name}: not one frame could be read; check the video")
