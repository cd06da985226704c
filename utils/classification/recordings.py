"""Recordings of event cameras and the class of each, as frames: a bin of events a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import torch
from torch import Tensor

from utils.classification.dataset import ClassBatch, ClassSample, in_turn
from utils.classification.gestures import clips_in
from utils.classification.open_data import labels_of
from utils.data.dataset import Reading, SampleRequest
from utils.data.event_clips import Clip, ClipFrames
from utils.data.event_frames import FrameRule, check_frames, picture
from utils.data.manifest import Manifest, read_list
from utils.data.recordings import check_plain


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSample(ClassSample):
    """``frames`` uint8 [T, C, H, W], as the cfg says; ``image`` is all of them as one picture."""

    frames: Tensor


class EventDataset(ClipFrames):
    """The recordings of a list or folder, with the class of each.

    Args:
        images: list file or folder of recordings.
        manifest: says the classes.
        size: (height, width) of the network's input, px.
        frames: how the network is shown them; None: it takes no frames.
        augment: whether a recording is moved by some px and loses some events.
        cache: "off" reads and bins a recording each time it is asked for.
        reading: as in ``ClipFrames``; ``channels`` of the network's input.

    Raises:
        InputError: the network takes no frames, or other channels; a recording is damaged or larger than ``size``.
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
        rule = check_frames(frames, reading.get("channels", 2), images, "cfg/nmnist-lif.cfg")
        clips, labels = clips_of(images, manifest)
        order = in_turn(labels) if images.is_dir() else range(len(clips))
        self.labels = [labels[i] for i in order]
        super().__init__(
            [clips[i] for i in order],
            size,
            rule,
            augment=augment,
            flip=manifest.flip,
            cache=cache,
            **reading,
        )

    def __getitem__(self, request: int | SampleRequest) -> EventSample:
        """The sample of an index, or of the loader's request."""
        index, frames, _ = self.shown(request)
        return EventSample(
            image=torch.from_numpy(picture(frames)),
            label=self.labels[index],
            index=index,
            letterbox=self.letterbox(index),
            frames=torch.from_numpy(frames),
        )

    def collate(self, samples: Sequence[EventSample]) -> ClassBatch:
        """One batch of samples: ``images`` uint8 [N, T, C, H, W]."""
        return ClassBatch(
            images=torch.stack([sample.frames for sample in samples]),
            labels=torch.tensor([sample.label for sample in samples]),
            indices=tuple(sample.index for sample in samples),
        )


def clips_of(images: Path, manifest: Manifest) -> tuple[list[Clip], list[int]]:
    """The clips of a list or folder and the class of each: as a table of times says, or else whole recordings."""
    cut = clips_in(images, manifest.classes)
    if cut is not None:
        return [clip for clip, _ in cut], [label for _, label in cut]
    paths = read_list(images)
    return [Clip(path) for path in paths], labels_of(paths, manifest, images)
