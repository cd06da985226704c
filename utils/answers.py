"""What a network answered about frames: drawn, written, filmed, listed; counted and told while it goes."""

from __future__ import annotations

import json
import logging
import statistics
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from tqdm import tqdm

from utils.data.images import HUSH, save_picture
from utils.data.screen import Screen
from utils.data.sources import Frame
from utils.errors import InputError
from utils.files import write_text
from utils.reporting.raster import with_raster
from utils.task import Result
from utils.temporal.spike_record import SpikeRecord

log = logging.getLogger(__name__)
FILMS = {"xvid": ".avi", "divx": ".avi", "mjpg": ".avi", "vp80": ".webm", "vp90": ".webm"}  # others: .mp4


@dataclass
class ResultWriter:
    """Where the pictures of a run go, and what it found."""

    folder: Path
    names: tuple[str, ...]
    fourcc: str = "mp4v"
    window: Screen | None = None
    videos: dict[str, cv2.VideoWriter] = field(default_factory=dict)
    listed: str = ""  # the file that all answers go into at the end
    outputs: list[Path] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, frame: Frame, found: Result, *, text: bool, record: SpikeRecord | None = None) -> bool:
        """Write a frame with what was found in it, and what fired meanwhile; False where a person has seen enough."""
        picture = found.draw(frame.image, self.names)
        if record:
            rows = {name: values.numpy() for name, values in record.rows.items()}
            picture = with_raster(picture, rows, record.firing, record.steps if frame.video else 0)
        stem = Path(frame.name).stem.replace(" ", "_") or "frame"
        if frame.video:
            self._film(stem, frame, picture)
        else:
            path = self._free(stem, ".jpg")
            save_picture(path, picture)
            self.outputs += [path, *found.beside(path.with_suffix(""))]
        if text:
            name = f"{stem}_{frame.number:06d}" if frame.video else stem
            height, width = frame.image.shape[:2]
            self.outputs.append(write_text(self._free(name, ".txt"), found.text(height, width)))
        place = {"image_id": frame.name, "frame": frame.number}
        self.rows += [{**place, **row} for row in found.rows(self.names)]
        return self.window is None or self.window.show(picture, wait=frame.video is None)

    def close(self) -> None:
        """Finish the videos and the list of answers, also when something stopped the run: what was found is kept."""
        for writer in self.videos.values():
            writer.release()
        if self.window is not None:
            self.window.close()
        if self.listed:
            self.outputs.append(write_text(self.folder / self.listed, json.dumps(self.rows, indent=1)))

    def _film(self, stem: str, frame: Frame, picture: np.ndarray) -> None:
        height, width = picture.shape[:2]
        if frame.name not in self.videos:
            path = self._free(stem, FILMS.get(self.fourcc.lower(), ".mp4"))
            fps = frame.video.fps if frame.video else 25.0
            with HUSH:
                film = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*self.fourcc), fps, (width, height))
            if not film.isOpened():
                path.unlink(missing_ok=True)
                raise InputError(f"--fourcc {self.fourcc}: this build of OpenCV writes no such film; use mp4v or MJPG")
            self.videos[frame.name] = film
            self.outputs.append(path)
            log.info("%s: goes to %s, without its sound: pictures alone are read", frame.name, path)
        self.videos[frame.name].write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))

    def _free(self, stem: str, suffix: str) -> Path:
        """Two pictures of one name, from two folders, both stay."""
        path, number = self.folder / f"{stem}{suffix}", 1
        while path in self.outputs:
            number += 1
            path = self.folder / f"{stem}-{number}{suffix}"
        return path


class FrameReport:
    """What was found so far and how long it took: a line an image, and for a film a bar and a line at its end.

    ``ms`` are of fitting the picture, the network and what is made of its maps; reading and drawing are not in them.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names, self.ms = names, list[float]()
        self.counts: Counter[int] = Counter()
        self._film: tuple[str, int, Counter[int]] | None = None  # name, frames before it, what was found in it
        self._bar: tqdm[Any] | None = None

    @property
    def typical(self) -> float:
        """The median, ms."""
        return statistics.median(self.ms)

    def __str__(self) -> str:
        return self.words(self.counts)

    def words(self, counts: Counter[int]) -> str:
        """Numbers and names, in the order of the classes."""
        return ", ".join(f"{counts[i]} {name}" for i, name in enumerate(self.names) if counts[i]) or "nothing"

    def add(self, frame: Frame, found: Result, ms: float) -> None:
        """Count a frame, and tell of it."""
        counts = Counter(found.labels())
        if self._film and (frame.video is None or frame.name != self._film[0]):
            self.close()
        if frame.video is None:
            log.info("%s: %s, %.1f ms", frame.name, self.words(counts), ms)
        elif self._film is None:
            self._film = (frame.name, len(self.ms), Counter())
            total = frame.video.frames or None
            self._bar = tqdm(total=total, desc=frame.name, unit=" frames", delay=2, leave=False, disable=None)
        if self._film:
            self._film[2].update(counts)
        if self._bar is not None:
            self._bar.update()
        self.ms.append(ms)
        self.counts += counts

    def close(self) -> None:
        """The line of a film that is over."""
        if self._bar is not None:
            self._bar.close()
        if self._film:
            name, before, counts = self._film
            ms = self.ms[before:]
            log.info("%s: %d frames: %s, %.1f ms a frame", name, len(ms), self.words(counts), statistics.median(ms))
        self._film = self._bar = None
