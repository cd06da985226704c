"""What detect.py does: frames in, boxes drawn and written out."""

from __future__ import annotations

import argparse
import json
import logging
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from models import Loaded, load_model
from pipeline.session import ANY, RUNS, heads_of, image_size, newest, show_grey
from utils.cli import DATA
from utils.data.sources import Frame, load_images
from utils.data.transforms import fit, letterbox
from utils.detection.decode import decode
from utils.detection.nms import non_max_suppression
from utils.detection.open_data import read_manifest
from utils.detection.pictures import draw_boxes, save_picture
from utils.detection.sample import prepare_if_sample
from utils.errors import InputError
from utils.files import write_text
from utils.reporting.record import Record, finish_record, new_run_folder, start_record
from utils.spiking.stateful_video import CarriedStream
from utils.spiking.stream import StreamExecutor
from utils.training.device import select_device

log = logging.getLogger(__name__)

SOURCE = "data/digits/images/valid/0000?.jpg"


@dataclass
class ResultWriter:
    """Where the pictures of a run go, and the boxes it found."""

    folder: Path
    names: tuple[str, ...]
    videos: dict[str, cv2.VideoWriter] = field(default_factory=dict)
    listed: bool = False  # whether all boxes go into one file at the end
    outputs: list[Path] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, frame: Frame, boxes: Tensor, *, text: bool) -> None:
        """Write a frame with its boxes."""
        grey = frame.image.shape[2] == 1
        picture = draw_boxes(np.repeat(frame.image, 3, 2) if grey else frame.image, boxes, self.names)
        stem = Path(frame.name).stem.replace(" ", "_") or "frame"
        if frame.video:
            self._film(stem, frame, picture)
        else:
            path = self._free(stem, ".jpg")
            save_picture(path, picture)
            self.outputs.append(path)
        if text:
            name = f"{stem}_{frame.number:06d}" if frame.video else stem
            height, width = frame.image.shape[:2]
            self.outputs.append(write_text(self._free(name, ".txt"), text_rows(boxes, height, width)))
        for x1, y1, x2, y2, score, label in boxes.tolist():
            box = [round(v, 2) for v in (x1, y1, x2 - x1, y2 - y1)]
            row = {
                "image_id": frame.name,
                "frame": frame.number,
                "category_id": int(label),
                "name": self.names[int(label)],
            }
            self.rows.append({**row, "bbox": box, "score": round(score, 5)})

    def close(self) -> None:
        """Finish the videos and the list of boxes, also when something stopped the run: what was found is kept."""
        for writer in self.videos.values():
            writer.release()
        if self.listed:
            self.outputs.append(write_text(self.folder / "detections.json", json.dumps(self.rows, indent=1)))

    def _film(self, stem: str, frame: Frame, picture: np.ndarray) -> None:
        height, width = picture.shape[:2]
        if frame.name not in self.videos:
            path = self._free(stem, ".mp4")
            fps = frame.video.fps if frame.video else 25.0
            self.videos[frame.name] = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), fps, (width, height))
            if not self.videos[frame.name].isOpened():
                raise InputError(f"{path}: this build of OpenCV cannot write mp4; give images instead")
            self.outputs.append(path)
        self.videos[frame.name].write(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))

    def _free(self, stem: str, suffix: str) -> Path:
        """Two pictures of one name, from two folders, both stay."""
        path, number = self.folder / f"{stem}{suffix}", 1
        while path in self.outputs:
            number += 1
            path = self.folder / f"{stem}-{number}{suffix}"
        return path


def text_rows(boxes: Tensor, height: int, width: int) -> str:
    """Lines of class, cx, cy, w, h (0..1 of the picture), score."""
    lines = []
    for x1, y1, x2, y2, score, label in boxes.tolist():
        values = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height, score)
        lines.append(" ".join([str(int(label)), *(f"{value:.6f}" for value in values)]))
    return "".join(line + "\n" for line in lines)


def find(loaded: Loaded, frame: Frame, size: tuple[int, int], args: argparse.Namespace, device: torch.device) -> Tensor:
    """Boxes [n, 6] (x1, y1, x2, y2 in px of the frame, score, class), best first."""
    box = fit((frame.image.shape[0], frame.image.shape[1]), size)
    pixels = torch.from_numpy(np.ascontiguousarray(letterbox(frame.image, box))).permute(2, 0, 1)[None]
    pixels = pixels.expand(-1, loaded.spec.channels, -1, -1)  # a grey frame looks the same in every channel
    with torch.inference_mode():
        raw = loaded.predictor(pixels.to(device).float() / 255)
    decoded = decode(raw, heads_of(loaded.spec), size)
    found = non_max_suppression(
        decoded, conf=args.conf_thres, iou=args.iou_thres, agnostic=args.agnostic_nms, classes=args.classes
    )[0].cpu()
    corners = torch.from_numpy(box.to_original(found[:, :4].numpy()))
    return torch.cat([corners.to(found), found[:, 4:]], 1)


def frames_of(args: argparse.Namespace, channels: int) -> Iterator[Frame]:
    """The source's frames, at most ``--frames`` of them."""
    if args.source == [SOURCE]:
        prepare_if_sample(DATA)
    sources = [load_images(source, channels) for source in args.source]  # a missing one is told before any is read
    for number, frame in enumerate(chain.from_iterable(sources)):
        if number == args.frames:
            return
        yield frame


def detect(args: argparse.Namespace) -> Record:
    """Run a network over a source.

    Raises:
        InputError: weights or source are missing or unreadable; what was drawn before stays.
    """
    weights = Path(args.weights) if args.weights else newest(ANY)
    loaded, device = load_model(weights, args.cfg), select_device(args.device)
    size = image_size(args.img_size, loaded.spec, loaded.size)
    show_grey(args, grey=loaded.grey)
    loaded.predictor.to(device)
    carried = carry(loaded) if args.carry else None
    if carried is not None:
        loaded = replace(loaded, predictor=carried)
    names = names_of(loaded, args)
    frames = frames_of(args, 1 if args.gray_scale else loaded.spec.channels)
    first = next(frames, None)
    if first is None:
        raise InputError(f"{' '.join(args.source)}: no frame to look at")
    folder = new_run_folder(RUNS, "detect", args.name)
    record = start_record(
        folder, script="detect", args=vars(args), device=str(device), seed=args.seed, inputs=[weights]
    )
    album, counts = ResultWriter(folder, names, listed=args.save_json), dict.fromkeys(names, 0)
    images = 0
    try:
        for frame in tqdm(chain([first], frames), desc="detect", unit=" frames", delay=2, leave=False, disable=None):
            if carried is not None and not (frame.video and frame.number):
                carried.reset()
            boxes = find(loaded, frame, size, args, device)
            album.add(frame, boxes, text=args.save_txt)
            images += 1
            for label in boxes[:, 5].tolist():
                counts[names[int(label)]] += 1
    finally:
        album.close()
    message = ", ".join(f"{n} {name}" for name, n in counts.items() if n) or "nothing"
    log.info("%d frames: %s; pictures in %s", images, message, folder)
    if carried is not None:
        log.info("%.1f steps a frame, %d for the first", statistics.mean(carried.taken), carried.taken[0])
    return finish_record(record, metrics={"images": images, "boxes": len(album.rows)}, outputs=album.outputs)


def carry(loaded: Loaded) -> CarriedStream:
    """The predictor that keeps its state from frame to frame.

    Raises:
        InputError: the network does not stream.
    """
    if not isinstance(loaded.predictor, StreamExecutor):
        raise InputError(f"--carry: {loaded.path} does not stream; make a network with convert_snn.py --mode stream")
    return CarriedStream(loaded.predictor)


def names_of(loaded: Loaded, args: argparse.Namespace) -> tuple[str, ...]:
    """The classes' names: the checkpoint's own, else those of ``--data``, else numbers.

    Raises:
        InputError: ``--data`` names another number of classes.
    """
    classes = max((head.classes for head in heads_of(loaded.spec)), default=0)
    if len(loaded.names) == classes:
        return loaded.names
    if args.data != DATA:
        manifest = read_manifest(args.data)
        if manifest.classes != classes:
            raise InputError(
                f"{loaded.path}: detects {classes} classes, {args.data} has {manifest.classes}; "
                "give the --data it was trained on, or none"
            )
        return manifest.names
    return tuple(str(i) for i in range(classes))
