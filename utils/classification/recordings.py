"""Recordings of event cameras and the class of each, as frames: a bin of events a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from utils.classification.dataset import ClassBatch, ClassSample, in_turn
from utils.classification.open_data import labels_of
from utils.data.dataset import RAM_SHARE, SampleRequest, Unreadable
from utils.data.events import bins_of, read_events, to_frames
from utils.data.manifest import Manifest, read_list
from utils.data.transforms import fit
from utils.errors import InputError
from utils.memory import free_memory

POLARITIES = 2  # channels of a frame: ON, OFF
SHIFT, DROPPED = 0.06, 0.1  # of the side, at most; share of events: how training changes a recording
MOST = 255  # a pixel with an event in the bin; the network sees 1


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSample(ClassSample):
    """``frames`` uint8 [T, 2, H, W], 255 where a pixel saw an event; ``image`` is all of them as one picture."""

    frames: Tensor


class EventDataset:
    """The recordings of a list or folder, with the class of each.

    Args:
        images: list file or folder of recordings.
        manifest: says the classes.
        size: (height, width) of the network's input, px; the sensor's.
        frames: T, bins of as many events each.
        augment: whether a recording is moved by some px and loses some events.
        cache: "off" reads and bins a recording each time it is asked for.
        seed: of every random choice.
        channels: of the network's input, 2.
        unreadable: recordings that are damaged: "drop" leaves them out; else they are an error, there is no stand-in.

    Raises:
        InputError: the network takes no frames, or other channels; a recording is damaged or larger than ``size``.
    """

    def __init__(
        self,
        images: Path,
        manifest: Manifest,
        size: tuple[int, int],
        *,
        frames: int,
        augment: bool = False,
        cache: str = "auto",
        seed: int = 0,
        channels: int = POLARITIES,
        unreadable: Unreadable = "stop",
    ) -> None:
        if not frames or channels != POLARITIES:
            raise InputError(
                f"{images}: recordings of events need a network with input=frames, timesteps= and channels=2 in [net]; "
                "use cfg/nmnist-lif.cfg, or write one"
            )
        self.images = read_list(images)
        self.labels = labels_of(self.images, manifest, images)
        if images.is_dir():
            order = in_turn(self.labels)
            self.images, self.labels = [self.images[i] for i in order], [self.labels[i] for i in order]
        self.size, self.frames, self.augment, self.seed, self.epoch = size, frames, augment, seed, 0
        self.unreadable: Unreadable = unreadable
        self.gaps: dict[int, str] = {}
        self._kept: list[NDArray[np.uint8]] | None = None
        each = frames * POLARITIES * size[0] * size[1]
        if cache == "ram" or (cache == "auto" and each * len(self.images) < RAM_SHARE * free_memory()):
            self._kept = [self._counts(i) for i in range(len(self.images))]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def cached(self) -> bool:
        """Whether the bins are kept in memory."""
        return self._kept is not None

    def set_epoch(self, epoch: int) -> None:
        """Which epoch's random choices plain ``dataset[i]`` shows."""
        self.epoch = epoch

    def shapes(self) -> list[tuple[int, int]]:
        """(height, width) of every recording."""
        return [self.size] * len(self)

    def __getitem__(self, request: int | SampleRequest) -> EventSample:
        """The sample of an index, or of the loader's request."""
        if not isinstance(request, SampleRequest):
            request = SampleRequest(int(request), self.epoch)
        index = request.index
        counts = self._kept[index] if self._kept else self._counts(index)
        if self.augment:
            rng = np.random.Generator(np.random.PCG64((self.seed, request.epoch, index)))
            counts = changed(counts, rng)
        frames = torch.from_numpy((counts > 0).astype(np.uint8) * np.uint8(MOST))
        return EventSample(
            image=picture(counts),
            label=self.labels[index],
            index=index,
            letterbox=fit(self.size, self.size),
            frames=frames,
        )

    def collate(self, samples: Sequence[EventSample]) -> ClassBatch:
        """One batch of samples: ``images`` uint8 [N, T, 2, H, W]."""
        return ClassBatch(
            images=torch.stack([sample.frames for sample in samples]),
            labels=torch.tensor([sample.label for sample in samples]),
            indices=tuple(sample.index for sample in samples),
        )

    def _counts(self, index: int) -> NDArray[np.uint8]:
        """Events of each bin and pixel, uint8 [T, 2, H, W]."""
        path = self.images[index]
        try:
            found = to_frames(bins_of(read_events(path), self.frames), self.size)
        except InputError as error:
            text = str(error)
            raise InputError(text if text.startswith(str(path)) else f"{path}: {text}") from None
        return found.clip(0, MOST).astype(np.uint8)


def changed(counts: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Moved by whole pixels, the same in every bin, and with some events left out."""
    height, width = counts.shape[2:]
    y, x = (int(rng.integers(-round(SHIFT * side), round(SHIFT * side) + 1)) for side in (height, width))
    out = np.zeros_like(counts)
    out[:, :, max(0, y) : height + min(0, y), max(0, x) : width + min(0, x)] = counts[
        :, :, max(0, -y) : height + min(0, -y), max(0, -x) : width + min(0, -x)
    ]
    kept: NDArray[np.uint8] = rng.binomial(out, 1 - DROPPED).astype(np.uint8)
    return kept


def picture(counts: NDArray[np.uint8]) -> Tensor:
    """All bins as one picture, uint8 [3, H, W]: ON red, OFF blue, on white."""
    total = counts.sum(0, dtype=np.float64)
    strength = (MOST * total / max(1.0, total.max())).round()
    on, off = strength
    shown = np.stack((MOST - off, MOST - np.maximum(on, off), MOST - on))
    return torch.from_numpy(shown.clip(0, MOST).astype(np.uint8))
