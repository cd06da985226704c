"""Recordings of event cameras with boxes at some moments: each moment is a sample, shown what came before it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from utils.data.dataset import Reading, SampleRequest
from utils.data.event_clips import Clip, ClipFrames, opened
from utils.data.event_frames import FrameRule, check_frames, picture
from utils.data.manifest import Manifest, read_list
from utils.data.prophesee import boxes_path, read_boxes
from utils.data.recordings import check_plain
from utils.detection import augment as boxed
from utils.detection.dataset import BoxBatch, Sample, collate
from utils.errors import InputError

log = logging.getLogger(__name__)

VISIBLE = 0.25  # least share of a box that is left inside when a recording is moved


@dataclass(frozen=True, slots=True, kw_only=True)
class EventBoxSample(Sample):
    """``frames`` uint8 [T, C, H, W], as the cfg says; ``image`` is all of them as one picture."""

    frames: Tensor


class EventBoxDataset(ClipFrames):
    """The moments of a list's or folder's recordings at which there are boxes.

    Boxes lie beside their recording, see `boxes_path`. Those that the manifest says do not count are left out, and with
    them moments that have no other; so are moments before the first whole window, and each box where it is outside of
    the sensor.

    Args:
        images: list file or folder of recordings.
        manifest: says the classes, and which boxes count.
        size: (height, width) of the network's input, px.
        frames: how the network is shown events; None: it takes no frames.
        augment: whether a recording is moved by some px, mirrored as the manifest says, and loses some events.
        cache: "off" reads and bins a recording each time it is asked for.
        reading: as in ``ClipFrames``; ``channels`` of the network's input.

    Raises:
        InputError: the network takes no frames, or other channels; a recording or its boxes are missing or damaged, or
            not one box is left.
    """

    def __init__(
        self,
        images: Path,
        manifest: Manifest,
        size: tuple[int, int],
        *,
        frames: FrameRule | None,
        augment: bool = False,
        cache: str = "auto",
        **reading: Unpack[Reading],
    ) -> None:
        check_plain(images, grey=reading.get("grey", False))
        rule = check_frames(frames, reading.get("channels", 2), images, "cfg/dvs-digits-lif.cfg")
        found = [labelled(path, manifest, rule.window) for path in read_list(images)]
        self.boxes = [rows for each in found for rows in each.boxes]  # (class, x1, y1, x2, y2; px of the sensor)
        clips = [clip for each in found for clip in each.clips]
        early, small = (sum(getattr(each, name) for each in found) for name in ("early", "small"))
        if not clips:
            raise InputError(
                f"{images}: no box counts, of {early} early and {small} small ones; check event_window= in [net], and "
                "diagonal, side and skip of the .data file"
            )
        if early or small:
            log.info(
                "%s: %d moments; %d boxes before the first whole window or in what is skipped, %d too small",
                images, len(clips), early, small,
            )  # fmt: skip
        self.least = (manifest.diagonal, manifest.side)
        super().__init__(
            clips,
            size,
            rule,
            augment=augment,
            flip=manifest.flip,
            cache=cache,
            **reading,
        )

    def __getitem__(self, request: int | SampleRequest) -> EventBoxSample:
        """The sample of an index, or of the loader's request."""
        index, frames, moved = self.shown(request)
        box = self.letterbox(index)
        rows = self.boxes[index]
        corners = np.concatenate([rows[:, :1], box.to_network(rows[:, 1:])], 1)
        corners = boxed.warp_boxes(
            corners, moved.matrix(self.size[1]), self.size, self.size, VISIBLE if self.augment else 0
        )
        return EventBoxSample(
            torch.from_numpy(picture(frames)),
            torch.from_numpy(boxed.to_shares(corners, self.size).astype(np.float32)),
            index,
            box,
            frames=torch.from_numpy(frames),
        )

    def collate(self, samples: Sequence[EventBoxSample]) -> BoxBatch:
        """One batch of samples: ``images`` uint8 [N, T, C, H, W]."""
        return collate(samples, torch.stack([sample.frames for sample in samples]), self.least)


@dataclass(frozen=True)
class Labelled:
    """A recording's moments: ``clips`` and their ``boxes`` [n, 5]; how many boxes were too ``early``, too ``small``."""

    clips: list[Clip]
    boxes: list[NDArray[np.float32]]
    early: int
    small: int


def labelled(path: Path, manifest: Manifest, window: int) -> Labelled:
    """The moments of a recording at which boxes count.

    Source: the evaluation protocol of Prophesee's automotive data sets (de Tournemire et al., arXiv 2001.08499;
    Perot et al., NeurIPS 2020, supplement): boxes of the first half second and small ones are left out.
    """
    rows = read_boxes(boxes_path(path))
    if len(rows) and int(rows["class_id"].max()) >= manifest.classes:
        raise InputError(
            f"{boxes_path(path)}: class {rows['class_id'].max()} of {manifest.classes} (0 to {manifest.classes - 1}); "
            "name all of them in the set's .names file"
        )
    late = (rows["t"] >= window) & (rows["t"] > manifest.skip if manifest.skip else True)
    large = counts_as(rows["w"], rows["h"], manifest.diagonal, manifest.side)
    kept = rows[late & large]
    clips, boxes = [], []
    for moment in np.unique(kept["t"]):
        here = kept[kept["t"] == moment]
        inside = in_sensor(here, opened(path).size)
        if len(inside):
            end = int(moment)
            clips.append(Clip(path, end - window if window else 0, end))
            numbers = np.array(manifest.numbers or range(manifest.classes), np.float32)
            inside[:, 0] = numbers[inside[:, 0].astype(int)]
            boxes.append(inside)
    return Labelled(clips, boxes, int((~late).sum()), int((late & ~large).sum()))


def counts_as(
    width: NDArray[np.float32], height: NDArray[np.float32], diagonal: float, side: float
) -> NDArray[np.bool_]:
    """Which boxes are large enough; px of the sensor."""
    found: NDArray[np.bool_] = (np.hypot(width, height) >= diagonal) & (width >= side) & (height >= side)
    return found


def in_sensor(rows: NDArray[np.void], size: tuple[int, int] | None) -> NDArray[np.float32]:
    """Boxes as [n, 5] (class, x1, y1, x2, y2; px), cut to a sensor of (height, width); those outside of it are gone."""
    found = np.stack([rows[name] for name in ("class_id", "x", "y", "w", "h")], 1).astype(np.float32)
    found[:, 3:] += found[:, 1:3]
    if size:
        found[:, 1::2], found[:, 2::2] = found[:, 1::2].clip(0, size[1]), found[:, 2::2].clip(0, size[0])
    return found[(found[:, 3:] > found[:, 1:3]).all(1)]
