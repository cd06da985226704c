"""The images of a list: read, perhaps kept in memory, replaced where they cannot be read; their labels are a task's.

A task's data set adds what is to be learned: it makes samples of what ``fetch`` gives, and batches of samples.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np
import torch
from torch import Tensor

from utils.data import transforms
from utils.data.images import JPEG_SUFFIXES, Size, UnreadableImageError, image_size, read_picture, reduction
from utils.data.manifest import read_list
from utils.data.mapped_images import MappedImages, Wanted, loaded, map_images
from utils.data.transforms import Resize
from utils.errors import InputError
from utils.memory import free_memory, in_words

log = logging.getLogger(__name__)

Cache = Literal["ram", "disk", "off", "auto"]
Jpeg = Literal["full", "reduced"]
Unreadable = Literal["stop", "replace", "drop"]
RAM_SHARE = 0.3  # of the free memory: the training and validation sets and the network must fit together
TRIES = 20  # other images looked at in place of an unreadable one
HEADS = 256  # images whose size says how large those of a set are


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
    jpeg: Jpeg
    largest: Size | None
    unreadable: Unreadable


class ImageFiles:
    """The images of a list.

    What is kept of an image is what every sample is made of, kept or not: the image scaled to fit ``size``, or, where
    samples show parts of it or larger sizes, the image as it was decoded.

    Args:
        images: list file or folder (``manifest.train`` or ``manifest.valid``).
        size: (height, width) of the network's image, px.
        seed: of every random choice.
        channels: 3 (RGB) or 1 (grey).
        grey: read grey images, to be repeated to ``channels``.
        how: images go into ``size``: "letterbox" or "stretch".
        jpeg: "full", or "reduced": a JPEG at the least half, quarter or eighth that has as many px as are shown.
        largest: (height, width) that a sample is asked for at most; None: ``size``.
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
        jpeg: Jpeg = "full",
        largest: Size | None = None,
        unreadable: Unreadable = "stop",
    ) -> None:
        if channels not in (1, 3):
            raise InputError(f"cfg [net]: channels={channels}; images have 3 (RGB) or 1 (grey), change it")
        self.place, self.images = images, read_list(images)
        self.size, self.seed, self.channels, self.epoch = size, seed, channels, 0
        self.jpeg: Jpeg = jpeg
        self.largest = largest or size
        self.how: Resize = how
        self.unreadable: Unreadable = unreadable
        self.gaps: dict[int, str] = {}
        self._read = 1 if grey else channels  # how many channels are read and kept
        self._shapes: list[tuple[int, int]] | None = None
        self._cached: Sequence[np.ndarray | None] | MappedImages | None = None

    def __len__(self) -> int:
        return len(self.images)

    def set_epoch(self, epoch: int) -> None:
        """Which epoch's random choices plain ``dataset[i]`` shows; a loader says so itself, sample by sample."""
        self.epoch = epoch

    def keep(self, cache: Cache) -> None:
        """Read every image now and keep what samples are made of; "auto": if that is less than 30 % of what is free.

        Raises:
            InputError: there is no room, or an image is missing or corrupt, and ``unreadable`` is "stop".
        """
        self._tell_jpeg()
        if cache == "off":
            return
        need, free = self.estimated_bytes(), free_memory()
        words = f"{len(self)} images take {in_words(need)} of memory, {in_words(free)} are free"
        if cache == "disk":
            self._map(need)
        elif cache == "ram" and need > free:
            raise InputError(f"--cache ram: {words}; use --cache disk or off")
        elif cache == "ram" or need < RAM_SHARE * free:
            self._fill()
        else:
            log.info("%s: %s: each is decoded whenever it is asked for; --cache disk keeps them", self.place, words)

    def shapes(self) -> list[tuple[int, int]]:
        """(height, width) of every original image, read from the files' heads unless they are known."""
        if self._shapes is None:
            self._shapes = [self._shape(index) for index in range(len(self))]
        return self._shapes

    @property
    def whole(self) -> bool:
        """Whether samples show parts of images, or larger sizes, so that they are kept as they are decoded."""
        return self.largest != self.size

    @property
    def scale_words(self) -> str:
        """How far the images that are kept are scaled."""
        return "whole" if self.whole else f"{self.size} {self.how}"

    def needed(self, original: Size) -> Size:
        """The least (height, width) px that an image is decoded at."""
        return transforms.fit(original, self.largest, self.how).scaled

    def estimated_bytes(self) -> int:
        """What the cache would take: at most, or as much as some of the images say."""
        height, width = self.size
        if not self.whole:
            return len(self.images) * height * width * self._read
        some = range(0, len(self), max(1, len(self) // HEADS))
        return sum(self._decoded_px(index) for index in some) * self._read * len(self) // len(some)

    @property
    def cached(self) -> bool:
        """Whether the images are kept, in memory or in a file."""
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

    def _decoded(self, index: int) -> tuple[np.ndarray, Size]:
        if self._cached is None:
            return self._load(index)
        kept = self._cached[index]
        if kept is None:
            raise UnreadableImageError(self.gaps[index])
        return kept, self.shapes()[index]

    def _load(self, index: int) -> tuple[np.ndarray, Size]:
        """What samples of an image are made of, and its original (height, width)."""
        needed = self.needed if self.jpeg == "reduced" else None
        image, original = read_picture(self.images[index], self._read, needed)
        if not self.whole:
            image = transforms.resize(image, transforms.fit(original, self.size, self.how).scaled)
        return image, original

    def _loaded(self, index: int) -> tuple[np.ndarray | None, Size]:
        try:
            return self._load(index)
        except UnreadableImageError as error:
            return None, self._gap(index, error)

    def _decoded_px(self, index: int) -> int:
        """How many px an image is decoded to."""
        try:
            height, width = original = image_size(self.images[index])
        except UnreadableImageError:
            return 0  # is met, and told, when it is read
        reduced = self.jpeg == "reduced" and self.images[index].suffix.lower() in JPEG_SUFFIXES
        factor = reduction(original, self.needed(original)) if reduced else 1
        return -(-height // factor) * -(-width // factor)

    def _tell_jpeg(self) -> None:
        """Say of how many images nothing can be left out."""
        other = sum(path.suffix.lower() not in JPEG_SUFFIXES for path in self.images)
        if self.jpeg == "reduced" and other:
            log.info("--jpeg reduced: %s: %d of %d are no JPEG and decoded whole", self.place, other, len(self))

    def _fill(self) -> None:
        """Read every image once."""
        found = list(loaded(len(self), self._loaded))
        self._cached = [image for image, _ in found]
        self._shapes = [original for _, original in found]

    def _map(self, need: int) -> None:
        """Read every image once into a file, or find them there."""
        needed = self.needed((1000, 1000))  # as it is for these, so for all
        shown = f"{self.scale_words} {self.jpeg} {needed} {self._read}"
        wanted = Wanted(self.place, shown, self.images, len(self), self._loaded, need)
        self._cached = found = map_images(wanted, self._lacks)
        self._shapes = found.originals

    def _lacks(self, found: MappedImages) -> bool:
        """Whether images that could not be read cannot be read now either; says what is wrong with them."""
        return all(self._loaded(index)[0] is None for index in found.lacking)


def check_still(images: Path, frames: object) -> None:
    """Refuse still images to a network that takes frames.

    Raises:
        InputError: ``frames`` is not None.
    """
    if frames is not None:
        raise InputError(f"{images}: the network takes frames (input=frames in [net]), these are still images")
