"""What detect.py does: frames in, what is found in them drawn and written out."""

from __future__ import annotations

import json
import logging
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from tqdm import tqdm

from models import Loaded, load_model
from pipeline.session import ANY, RUNS, frame_rule, image_size, newest
from pipeline.spiking_training import in_steps, told_of_steps
from pipeline.tasks import check_idle, check_serves, task_of
from utils.config.as_trained import as_trained, data_as_trained, how_of
from utils.config.measure import SOURCE, DetectConfig
from utils.config.run import DATA
from utils.darknet.memory import check_memory
from utils.data.event_frames import check_frames
from utils.data.event_sources import load_recordings
from utils.data.images import HUSH, save_picture
from utils.data.loader import Batch
from utils.data.screen import Screen
from utils.data.sources import Frame, load_images, may_be_film
from utils.data.transforms import Resize, fit, letterbox
from utils.errors import InputError
from utils.files import names_kept, take, write_text
from utils.reporting.raster import with_raster
from utils.reporting.record import Record, finish_record, new_run_folder, start_record
from utils.spiking.stateful_video import CarriedStream
from utils.task import Result, Task
from utils.temporal.spike_record import SpikeRecord
from utils.temporal.stateful_video import CarriedSteps
from utils.thresholds import Thresholds
from utils.training.device import select_device

log = logging.getLogger(__name__)

FILMS = {"xvid": ".avi", "divx": ".avi", "mjpg": ".avi", "vp80": ".webm", "vp90": ".webm"}  # others: .mp4
FEW = 10  # validation images that are looked at where no --source is given


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


class Told:
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


@dataclass(frozen=True)
class Detector:
    """A network that is ready to answer about pictures, and the classes' names."""

    loaded: Loaded
    task: Task
    names: tuple[str, ...]
    size: tuple[int, int]
    thresholds: Thresholds
    device: torch.device
    channels: int  # of the pictures it is shown
    how: Resize = "letterbox"  # they are fitted to the size

    def look(self, frame: Frame) -> Result:
        """What it answers about an image, or about the steps of a recording, in px of the frame's picture."""
        if frame.steps is None or frame.box is None:
            return self.find(frame.image)
        with torch.inference_mode():
            steps = torch.from_numpy(frame.steps)[None]
            raw = self.loaded.predictor(self.task.inputs(Batch(images=steps, indices=(0,)), self.device))
        return self.task.postprocess(raw, self.loaded.spec, [frame.box], self.thresholds)[0]

    def find(self, image: np.ndarray) -> Result:
        """What it answers about a picture uint8 [H, W, C], RGB or grey, in px of the picture."""
        box = fit((image.shape[0], image.shape[1]), self.size, self.how)
        pixels = torch.from_numpy(np.ascontiguousarray(letterbox(image, box))).permute(2, 0, 1)[None]
        pixels = pixels.expand(-1, self.loaded.spec.channels, -1, -1)  # a grey frame looks the same in every channel
        with torch.inference_mode():
            raw = self.loaded.predictor(self.task.inputs(Batch(images=pixels, indices=(0,)), self.device))
        return self.task.postprocess(raw, self.loaded.spec, [box], self.thresholds)[0]


def open_detector(config: DetectConfig, loaded: Loaded) -> Detector:
    """The network on its device, as the config says.

    Raises:
        InputError: ``--img-size``, ``--data`` or ``--carry`` does not fit it.
    """
    task, device = task_of(loaded.spec, str(loaded.path)), select_device(config.device)
    check_serves(task, loaded.path)
    check_idle(task, config.given)
    size = image_size(config.img_size, loaded.spec, loaded.size)
    check_memory(loaded.spec, size, 1, device)
    config = as_trained(config, grey=loaded.grey, resize=loaded.resize)
    known = task.classes(loaded.spec)
    if config.classes and max(config.classes) >= known:
        raise InputError(f"--classes: {max(config.classes)}; {loaded.path} detects {known} classes, 0 to {known - 1}")
    loaded.predictor.to(device)
    if config.raster or config.early_exit is not None or config.carry:
        loaded = replace(loaded, predictor=in_steps(loaded, config))
    names = names_of(loaded, task, config.data)
    channels = 1 if config.gray_scale else loaded.spec.channels
    return Detector(loaded, task, names, size, config.thresholds, device, channels, how_of(config))


def frames_of(config: DetectConfig, detector: Detector) -> Iterator[Frame]:
    """The source's frames, at most ``--frames`` of them."""
    chosen: Sequence[str | Path] = config.source
    if config.source == (SOURCE,):
        data = data_as_trained(config, detector.loaded.data, detector.loaded.path, detector.task).data
        manifest = detector.task.open_data(data)  # composes the sample set where it is not there yet
        chosen = config.source if data == DATA else detector.task.listed(manifest.valid)[:FEW]
    rule = frame_rule(detector.loaded.spec)
    if rule:
        check_frames(rule, detector.loaded.spec.channels, config.source[0], "a cfg with those")
        sources = [load_recordings(source, rule, detector.size, detector.how) for source in chosen]
    else:
        sources = [load_images(source, detector.channels) for source in chosen]  # a missing one is told at once
    for number, frame in enumerate(chain.from_iterable(sources)):
        if number == config.frames:
            return
        yield frame


@names_kept()
def detect(config: DetectConfig) -> Record:
    """Run a network over a source.

    Raises:
        InputError: weights or source are missing or unreadable; what was drawn before stays.
    """
    weights = Path(config.weights) if config.weights else newest(ANY)
    loaded = load_model(weights, config.cfg)
    detector = open_detector(config, loaded)
    config = replace(config, resize=detector.how, gray_scale=config.gray_scale or loaded.grey)
    task, names, predictor = detector.task, detector.names, detector.loaded.predictor
    if "fourcc" in config.given and not any(may_be_film(source) for source in config.source):
        raise InputError(f"--fourcc: {' '.join(config.source)} has no film; leave it away")
    frames = frames_of(config, detector)
    if (first := next(frames, None)) is None:
        raise InputError(f"{' '.join(config.source)}: no frame to look at")
    window = Screen("Darkspike") if config.view_img else None
    record = start_record(
        new_run_folder(RUNS, "detect", config.name),
        script="detect",
        args=config.values,
        device=str(detector.device),
        seed=config.seed,
        inputs=[weights],
    )
    listed = f"{task.pictures}.json" if config.save_json else ""
    writer = ResultWriter(folder_of(config, record), names, config.fourcc, window, listed=listed)
    told = Told(names)
    try:
        for frame in chain([first], frames):
            if isinstance(predictor, CarriedStream | CarriedSteps) and not (frame.video and frame.number):
                predictor.reset()
            began = time.perf_counter()
            found = detector.look(frame)
            told.add(frame, found, 1000 * (time.perf_counter() - began))
            if not writer.add(frame, found, text=config.save_txt, record=getattr(predictor, "record", None)):
                log.info("%s: the window was closed, so it ends here", frame.name)
                break
    finally:
        told.close()
        writer.close()
    log.info("%d frames: %s; %.1f ms each; pictures in %s", len(told.ms), told, told.typical, writer.folder)
    numbers = {"images": len(told.ms), task.answers: len(writer.rows), "find_ms": round(told.typical, 3)}
    return finish_record(record, metrics=numbers | told_of_steps(predictor), outputs=writer.outputs)


def folder_of(config: DetectConfig, record: Record) -> Path:
    """Where the pictures go: the run's own folder, or a new one called as ``--output`` says."""
    if not config.output:
        return record.folder
    (folder,) = take(config.output)
    folder.mkdir(parents=True)
    return folder


def names_of(loaded: Loaded, task: Task, data: str) -> tuple[str, ...]:
    """The classes' names: the checkpoint's own, else those of ``--data``, else numbers.

    Raises:
        InputError: ``--data`` has other classes.
    """
    classes = task.classes(loaded.spec)
    if len(loaded.names) == classes and data == DATA:
        return loaded.names
    if data != DATA:
        manifest = task.open_data(data)
        if manifest.classes != classes:
            raise InputError(
                f"{loaded.path}: detects {classes} classes, {data} has {manifest.classes}; "
                "give the --data it was trained on, or none"
            )
        return task.check_classes(loaded.spec, manifest, str(loaded.path), loaded.names).names
    return tuple(str(i) for i in range(classes))
