"""The images of a list: read, perhaps kept in memory, replaced where they cannot be read; their labels are a task's.

A task's data set adds what is to be learned: it makes samples of what ``fetch`` gives, and batches of samples.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from utils.data import transforms
from utils.data.images import UnreadableImageError, image_size, read_image
from utils.data.manifest import read_list
from utils.data.transforms import Resize
from utils.errors import InputError
from utils.memory import free_memory, in_words

Cache = Literal["ram", "off", "auto"]
Unreadable = Literal["stop", "replace", "drop"]
RAM_SHARE = 0.3  # of the free memory: the training and validation sets and the network must fit together
TRIES = 20  # other images looked at in place of an unreadable one


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """What the loader asks for; it travels to the workers, which so need not be told of a new epoch."""

    index: int
    epoch: int = 0
    size: tuple[int, int] | None = None
    mosaic: bool = True


class Reading(TypedDict, total=False):
    """How the images of a list are read and shown; each is explained, and has its usual value, in ``ImageFiles``."""

    seed: int
    channels: int
    grey: bool
    how: Resize
    unreadable: Unreadable


class ImageFiles:
    """The images of a list.

    Args:
        images: list file or folder (``manifest.train`` or ``manifest.valid``).
        size: (height, width) of the network's image, px.
        seed: of every random choice.
        channels: 3 (RGB) or 1 (grey).
        grey: read grey images, to be repeated to ``channels``.
        how: images go into ``size``: "letterbox" or "stretch".
        unreadable: what becomes of an image that is missing or corrupt. "stop": an error, and a cached set is not made.
            "replace": another image is shown, chosen by (seed, index), so that an order stays what it was. "drop": an
            ``UnreadableImageError`` when it is asked for, which a loader leaves out.

    Attributes:
        images: the paths, in the list's order.
        gaps: the images found unreadable when they were cached or measured: number -> what is wrong.

    Raises:
        InputError: a list is missing or wrong, or there is no such image.
    """

    def __init__(
        self,
        images: Path,
        size: tuple[int, int],
        *,
        seed: int = 0,
        channels: int = 3,
        grey: bool = False,
        how: Resize = "letterbox",
        unreadable: Unreadable = "stop",
    ) -> None:
        if channels not in (1, 3):
            raise InputError(f"cfg [net]: channels={channels}; images have 3 (RGB) or 1 (grey), change it")
        self.images = read_list(images)
        self.size, self.seed, self.channels, self.epoch = size, seed, channels, 0
        self.how: Resize = how
        self.unreadable: Unreadable = unreadable
        self.gaps: dict[int, str] = {}
        self._read = 1 if grey else channels  # how many channels are read and kept
        self._shapes: list[tuple[int, int]] | None = None
        self._cached: list[np.ndarray | None] | None = None

    def __len__(self) -> int:
        return len(self.images)

    def set_epoch(self, epoch: int) -> None:
        """Which epoch's random choices plain ``dataset[i]`` shows; a loader says so itself, sample by sample."""
        self.epoch = epoch

    def keep(self, cache: Cache) -> None:
        """Read every image now and keep it, scaled to fit ``size``; "auto": if that is less than 30 % of what is free.

        Raises:
            InputError: an image is missing or corrupt, and ``unreadable`` is "stop".
        """
        if cache == "ram" and self.estimated_bytes() > free_memory():
            need, free = in_words(self.estimated_bytes()), in_words(free_memory())
            raise InputError(f"--cache ram: {len(self)} images take {need} of memory, {free} are free; use --cache off")
        if cache == "ram" or (cache == "auto" and self.estimated_bytes() < RAM_SHARE * free_memory()):
            self._fill()

    def shapes(self) -> list[tuple[int, int]]:
        """(height, width) of every original image, read from the files' heads unless they are known."""
        if self._shapes is None:
            self._shapes = [self._shape(index) for index in range(len(self))]
        return self._shapes

    def estimated_bytes(self) -> int:
        """What the cache would take at most."""
        return len(self.images) * self.size[0] * self.size[1] * self._read

    @property
    def cached(self) -> bool:
        """Whether the images are kept in memory."""
        return self._cached is not None

    def asked(self, request: int | SampleRequest) -> tuple[SampleRequest, tuple[int, int], np.random.Generator]:
        """An index, or the loader's request, as a request; the size that it wants, px; the dice of its sample."""
        if not isinstance(request, SampleRequest):
            request = SampleRequest(int(request), self.epoch)
        rng = np.random.Generator(np.random.PCG64((self.seed, request.epoch, request.index)))
        return request, request.size or self.size, rng

    @property
    def read_channels(self) -> int:
        """How many channels are read of a file: 1 where grey images are repeated."""
        return self._read

    def as_tensor(self, image: np.ndarray) -> Tensor:
        """A picture [H, W, C] as the network's uint8 [channels, H, W]; a grey one repeated."""
        return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).expand(self.channels, -1, -1)

    def fetch(self, index: int, gaps: dict[int, str]) -> tuple[int, np.ndarray, tuple[int, int]]:
        """An image, perhaps scaled already, its number and original (height, width); unreadable ones go to ``gaps``."""
        for chosen in itertools.chain([index], self._others(index)):
            try:
                return chosen, *self._decoded(chosen)
            except UnreadableImageError as error:
                gaps[chosen], last = str(error), error
        raise last

    def _shape(self, index: int) -> tuple[int, int]:
        try:
            return image_size(self.images[index])
        except UnreadableImageError as error:
            return self._gap(index, error)

    def _gap(self, index: int, error: UnreadableImageError) -> tuple[int, int]:
        """Remember an image that is not there; the size it is thought to have meanwhile."""
        if self.unreadable == "stop":
            raise error
        self.gaps[index] = str(error)
        return self.size

    def _others(self, index: int) -> Iterator[int]:
        """What is looked at in place of an image that is not there."""
        if self.unreadable == "replace":
            rng = np.random.Generator(np.random.PCG64((self.seed, index)))
            yield from rng.integers(len(self), size=TRIES).tolist()

    def _decoded(self, index: int) -> tuple[np.ndarray, tuple[int, int]]:
        if self._cached is None:
            image = read_image(self.images[index], self._read)
            return image, (image.shape[0], image.shape[1])
        kept = self._cached[index]
        if kept is None:
            raise UnreadableImageError(self.gaps[index])
        return kept, self.shapes()[index]

    def _fill(self) -> None:
        """Read every image once, scaled to fit ``size``."""

        def load(index: int) -> tuple[np.ndarray | None, tuple[int, int]]:
            try:
                image = read_image(self.images[index], self._read)
            except UnreadableImageError as error:
                return None, self._gap(index, error)
            original = (image.shape[0], image.shape[1])
            return transforms.resize(image, transforms.fit(original, self.size, self.how).scaled), original

        bar = {"desc": "reading images", "total": len(self.images), "delay": 2, "leave": False, "disable": None}
        # a copy of stderr, because the threads hush the real one nearly all the time
        with ThreadPoolExecutor(os.cpu_count()) as pool, os.fdopen(os.dup(2), "w") as shown:
            loaded = list(tqdm(pool.map(load, range(len(self))), file=shown, **bar))
        self._cached = [image for image, _ in loaded]
        self._shapes = [original for _, original in loaded]


def check_still(images: Path, frames: object) -> None:
    """Refuse still images to a network that takes frames.

    Raises:
        InputError: ``frames`` is not None.
    """
    if frames is not None:
        raise InputError(f"{images}: the network takes frames (input=frames in [net]), these are still images")
