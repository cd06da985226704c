"""What detect.py does: frames in, what is found in them drawn and written out."""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from torch import nn

from models import Darknet, Loaded, load_model
from pipeline.images import frame_rule
from pipeline.session import trained_as_spikes
from utils.answers import FrameReport, ResultWriter
from utils.config.as_trained import as_trained, data_as_trained, how_of, jpeg_of
from utils.config.measure import SOURCE, DetectConfig
from utils.config.run import DATA
from utils.darknet.memory import check_memory
from utils.darknet.shapes import image_size
from utils.data.dataset import Jpeg
from utils.data.event_frames import check_frames
from utils.data.event_sources import load_recordings
from utils.data.images import Size
from utils.data.loader import Batch
from utils.data.pictures import spread
from utils.data.screen import Screen
from utils.data.sources import Frame, load_images, may_be_film
from utils.data.transforms import Resize, fit, letterbox
from utils.errors import InputError
from utils.files import names_kept, take
from utils.reporting.record import Record, finish_record, new_run_folder, start_record
from utils.reporting.runs import ANY, RUNS, newest
from utils.spiking.stateful_video import CarriedStream
from utils.spiking.stream import StreamExecutor
from utils.task import Result, Task
from utils.tasks import check_idle, check_serves, task_of
from utils.temporal.early_exit import StepByStep
from utils.temporal.spike_record import SpikeRecord
from utils.temporal.stateful_video import CarriedSteps
from utils.thresholds import Thresholds
from utils.training.device import select_device

log = logging.getLogger(__name__)

FEW = 10  # validation images that are looked at where no --source is given


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
    jpeg: Jpeg = "full"

    def needed(self, original: Size) -> Size:
        """The least (height, width) px that it is shown of a picture."""
        return fit(original, self.size, self.how).scaled

    def look(self, frame: Frame) -> Result:
        """What it answers about an image, or about the steps of a recording, in px of the frame's picture."""
        if frame.steps is None or frame.box is None:
            return self.find(frame.image, frame.reduced)
        with torch.inference_mode():
            steps = torch.from_numpy(frame.steps)[None]
            raw = self.loaded.predictor(self.task.inputs(Batch(images=steps, indices=(0,)), self.device))
        return self.task.postprocess(raw, self.loaded.spec, [frame.box], self.thresholds)[0]

    def find(self, image: np.ndarray, reduced: np.ndarray | None = None) -> Result:
        """What it answers about a picture uint8 [H, W, C], RGB or grey, in px of the picture.

        Args:
            image: the picture.
            reduced: the same, as it is shown to a network that was trained on reduced JPEGs.
        """
        box = fit((image.shape[0], image.shape[1]), self.size, self.how)
        pixels = torch.from_numpy(np.ascontiguousarray(letterbox(image if reduced is None else reduced, box))).permute(
            2, 0, 1
        )[None]
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
    config = as_trained(config, grey=loaded.grey, resize=loaded.resize, jpeg=loaded.jpeg)
    known = task.classes(loaded.spec)
    if config.classes and max(config.classes) >= known:
        raise InputError(f"--classes: {max(config.classes)}; {loaded.path} detects {known} classes, 0 to {known - 1}")
    loaded.predictor.to(device)
    if config.raster or config.early_exit is not None or config.carry:
        loaded = replace(loaded, predictor=in_steps(loaded, config))
    names = names_of(loaded, task, config.data)
    channels = 1 if config.gray_scale else loaded.spec.channels
    return Detector(loaded, task, names, size, config.thresholds, device, channels, how_of(config), jpeg_of(config))


def frames_of(config: DetectConfig, detector: Detector) -> Iterator[Frame]:
    """The source's frames, at most ``--frames`` of them."""
    chosen: Sequence[str | Path] = config.source
    if config.source == (SOURCE,):
        data = data_as_trained(config, detector.loaded.data, detector.loaded.path, detector.task).data
        manifest = detector.task.open_data(data)  # composes the sample set where it is not there yet
        images = detector.task.listed(manifest.valid)  # of a folder of classes class by class
        chosen = config.source if data == DATA else [images[n] for n in spread(len(images), FEW)]
    rule = frame_rule(detector.loaded.spec)
    if rule:
        check_frames(rule, detector.loaded.spec.channels, config.source[0], "a cfg with those")
        sources = [load_recordings(source, rule, detector.size, detector.how) for source in chosen]
    else:
        needed = detector.needed if detector.jpeg == "reduced" else None
        sources = [load_images(source, detector.channels, needed) for source in chosen]  # a missing one is told at once
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
    config = replace(config, resize=detector.how, jpeg=detector.jpeg, gray_scale=config.gray_scale or loaded.grey)
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
    report = FrameReport(names)
    try:
        look_at(chain([first], frames), detector, writer, report, text=config.save_txt)
    finally:
        report.close()
        writer.close()
    log.info("%d frames: %s; %.1f ms each; pictures in %s", len(report.ms), report, report.typical, writer.folder)
    numbers = {"images": len(report.ms), task.answers: len(writer.rows), "find_ms": round(report.typical, 3)}
    return finish_record(record, metrics=numbers | step_report(predictor), outputs=writer.outputs)


def look_at(
    frames: Iterable[Frame], detector: Detector, writer: ResultWriter, report: FrameReport, *, text: bool
) -> None:
    """Ask the network about each frame, and write and tell what it answers."""
    predictor = detector.loaded.predictor
    for frame in frames:
        if isinstance(predictor, CarriedStream | CarriedSteps) and not (frame.video and frame.number):
            predictor.reset()
        began = time.perf_counter()
        found = detector.look(frame)
        report.add(frame, found, 1000 * (time.perf_counter() - began))
        if not writer.add(frame, found, text=text, record=getattr(predictor, "record", None)):
            log.info("%s: the window was closed, so it ends here", frame.name)
            return


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


FILM = 48  # steps of a film that a raster shows
InSteps = CarriedStream | CarriedSteps | StepByStep  # predictors that count the steps they take


def in_steps(loaded: Loaded, config: DetectConfig) -> InSteps:
    """The predictor that is asked step by step: on video, until it is sure, or to see what fires.

    Raises:
        InputError: the network takes no steps of its own.
    """
    if config.raster or config.early_exit is not None:
        flag = "--raster" if config.raster else "--early-exit"
        network = trained_as_spikes(loaded, flag, least=1 if config.early_exit is None else 2)
        record = SpikeRecord(loaded.spec, FILM if config.carry else loaded.spec.timesteps) if config.raster else None
        if record and not record.firing:
            kinds = ", ".join(sorted({each.kind for each in loaded.spec.neurons.values()}))
            raise InputError(f"--raster: {loaded.path} has no neuron that fires, but {kinds}; leave --raster away")
        if config.carry:
            return CarriedSteps(network, config.reset or 0, record)
        return StepByStep(network, config.early_exit, record)
    return carry(loaded, config.reset)


def carry(loaded: Loaded, every: int | None) -> CarriedStream | CarriedSteps:
    """The predictor that keeps its state from frame to frame.

    Raises:
        InputError: the network has no state to keep, or is to forget one that settles anyway.
    """
    if isinstance(loaded.predictor, Darknet) and loaded.spec.neurons:
        return CarriedSteps(loaded.predictor, every or 0)
    if not isinstance(loaded.predictor, StreamExecutor):
        raise InputError(
            f"--carry: {loaded.path} keeps no state; make a network with convert_snn.py --mode stream, or train one "
            "with train.py --spiking lif"
        )
    if every:
        raise InputError(f"--reset: {loaded.path} answers for a frame whatever was before; leave --reset away")
    return CarriedStream(loaded.predictor)


def step_report(predictor: nn.Module) -> dict[str, float]:
    """Say how many steps were taken and how many neurons fired in one; the same numbers for the record."""
    found: dict[str, float] = {}
    if isinstance(predictor, InSteps):
        found["steps"] = statistics.mean(predictor.taken)
        log.info("%.1f steps a frame, %d for the first", found["steps"], predictor.taken[0])
    watched = getattr(predictor, "record", None)
    if watched:
        found["firing"] = statistics.mean(watched.firing.values())
        layers = ", ".join(f"{name} {100 * share:.1f}%" for name, share in watched.firing.items())
        log.info("%.1f%% of the neurons of a layer fire in a step: %s", 100 * found["firing"], layers)
    return found
