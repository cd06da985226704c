"""Images and their boxes, as the network takes them; a sample depends on (seed, epoch, index) and nothing else."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from utils.data import transforms
from utils.data.images import UnreadableImageError, image_size, read_image
from utils.data.labels import read_all
from utils.data.manifest import Manifest, read_list
from utils.data.transforms import Augment, Letterbox
from utils.errors import InputError

log = logging.getLogger(__name__)

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


@dataclass(frozen=True, slots=True)
class Sample:
    """``image`` uint8 [C, H, W] RGB or grey, ``boxes`` float32 [n, 5] (class, cx, cy, w, h; 0..1 of this image).

    ``gaps`` are the images that could not be read and were replaced: number in the dataset and what is wrong.
    """

    image: Tensor
    boxes: Tensor
    index: int
    letterbox: Letterbox
    gaps: tuple[tuple[int, str], ...] = ()


class DetectionDataset(Dataset[Sample]):
    """The images of a list.

    Args:
        images: list file or folder (``manifest.train`` or ``manifest.valid``).
        manifest: gives the number of classes, the place of the labels, and the share of mirrored images.
        size: (height, width) of the network's image, px.
        augment: True for the usual strengths with the manifest's flip, or one's own.
        cache: keep images in memory, scaled to fit ``size``; "auto" when they take less than 30 % of what is free.
        seed: of every random choice.
        channels: 3 (RGB) or 1 (grey).
        grey: read grey images and repeat them to ``channels``.
        unreadable: what becomes of an image that is missing or corrupt. "stop": an error, and a cached set is not made.
            "replace": another image is shown, chosen by (seed, index), so that an order stays what it was. "drop": an
            ``UnreadableImageError`` when it is asked for, which a loader leaves out.

    Attributes:
        images: the paths, in the list's order.
        boxes: of each image, float32 [n, 5] (class, cx, cy, w, h; 0..1 of the original image).
        missing: how many images have no label file, and so no objects.
        gaps: the images found unreadable when they were cached or measured: number -> what is wrong.

    Raises:
        InputError: a list, label or (when cached) image file is missing or wrong, or there is no such image.
    """

    def __init__(
        self,
        images: Path,
        manifest: Manifest,
        size: tuple[int, int],
        *,
        augment: bool | Augment = False,
        cache: Cache = "auto",
        seed: int = 0,
        channels: int = 3,
        grey: bool = False,
        unreadable: Unreadable = "stop",
    ) -> None:
        if channels not in (1, 3):
            raise InputError(f"cfg [net]: channels={channels}; images have 3 (RGB) or 1 (grey), change it")
        self.images = read_list(images)
        self.boxes, self.missing = read_all(self.images, manifest, images)
        self._corners = [transforms.to_corners(rows) for rows in self.boxes]
        self.size, self.seed, self.channels, self.epoch = size, seed, channels, 0
        self._read = 1 if grey else channels  # how many channels are read and kept
        self.unreadable: Unreadable = unreadable
        self.gaps: dict[int, str] = {}
        if isinstance(augment, bool):
            augment = (
                Augment(flip=manifest.flip, mosaic=manifest.mosaic, scale=manifest.scale) if augment else Augment.off()
            )
        self.augment = augment
        self._shapes: list[tuple[int, int]] | None = None
        self._cached: list[np.ndarray | None] | None = None
        if cache == "ram" or (cache == "auto" and self.estimated_bytes() < RAM_SHARE * free_memory()):
            self._fill()

    def __len__(self) -> int:
        return len(self.images)

    def set_epoch(self, epoch: int) -> None:
        """Which epoch's random choices plain ``dataset[i]`` shows; a loader says so itself, sample by sample."""
        self.epoch = epoch

    def shapes(self) -> list[tuple[int, int]]:
        """(height, width) of every original image, read from the files' heads unless they are known."""
        if self._shapes is None:
            self._shapes = [self._shape(index) for index in range(len(self))]
        return self._shapes

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

    def estimated_bytes(self) -> int:
        """What the cache would take at most."""
        return len(self.images) * self.size[0] * self.size[1] * self._read

    @property
    def cached(self) -> bool:
        """Whether the images are kept in memory."""
        return self._cached is not None

    def __getitem__(self, ticket: int | SampleRequest) -> Sample:
        """The sample of an index, or of the loader's ticket (index, epoch, size, mosaic or not)."""
        if not isinstance(ticket, SampleRequest):
            ticket = SampleRequest(int(ticket), self.epoch)
        size = ticket.size or self.size
        rng = np.random.Generator(np.random.PCG64((self.seed, ticket.epoch, ticket.index)))
        strength = transforms.with_mosaic(self.augment, ticket.mosaic)
        gaps: dict[int, str] = {}
        if rng.random() < strength.mosaic:
            index, image, boxes, box = self._mosaic(ticket.index, size, strength, rng, gaps)
        else:
            index, image, boxes, box = self._single(ticket.index, size, strength, rng, gaps)
        if any(strength.hsv):
            image = transforms.shift_colours(image, strength.hsv, rng)
        rows = transforms.to_shares(boxes, size)
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).expand(self.channels, -1, -1)
        return Sample(pixels, torch.from_numpy(rows), index, box, tuple(gaps.items()))

    def _single(
        self, index: int, size: tuple[int, int], strength: Augment, rng: np.random.Generator, gaps: dict[int, str]
    ) -> tuple[int, np.ndarray, np.ndarray, Letterbox]:
        """One image, letterboxed and then moved, and its number."""
        index, image, original = self._fetch(index, gaps)
        box = transforms.fit(original, size)
        image = transforms.letterbox(image, box)
        boxes = transforms.place(self._corners[index], box.scaled, box.pad)
        flip = rng.random() < strength.flip
        if strength.moves:
            matrix = transforms.random_matrix(size, size, strength, rng)
            matrix = transforms.mirror(matrix, size[1]) if flip else matrix
            boxes = transforms.warp_boxes(boxes, matrix, size, size, strength.visible)
            return index, transforms.warp(image, matrix, size), boxes, box
        if flip:
            image = image[:, ::-1]
            boxes[:, [1, 3]] = size[1] - boxes[:, [3, 1]]
        return index, image, boxes, box

    def _mosaic(
        self, index: int, size: tuple[int, int], strength: Augment, rng: np.random.Generator, gaps: dict[int, str]
    ) -> tuple[int, np.ndarray, np.ndarray, Letterbox]:
        """Four images side by side, moved and cut to one in a single warp, and the number of the first."""
        indices, images = [], []
        for wanted in (index, *rng.integers(len(self.images), size=3).tolist()):
            shown, image, original = self._fetch(wanted, gaps)
            indices.append(shown)
            images.append(transforms.resize(image, transforms.fit(original, size).scaled))
        canvas, boxes = transforms.mosaic(images, [self._corners[i] for i in indices], size, rng)
        whole = (2 * size[0], 2 * size[1])
        matrix = transforms.random_matrix(whole, size, strength, rng)
        if rng.random() < strength.flip:
            matrix = transforms.mirror(matrix, size[1])
        boxes = transforms.warp_boxes(boxes, matrix, whole, size, strength.visible)
        box = transforms.fit(size, size)  # of four images none maps back; this one says so by changing nothing
        return indices[0], transforms.warp(canvas, matrix, size), boxes, box

    def _fetch(self, index: int, gaps: dict[int, str]) -> tuple[int, np.ndarray, tuple[int, int]]:
        """An image, perhaps scaled already, its number and original (height, width); unreadable ones go to ``gaps``."""
        for chosen in itertools.chain([index], self._others(index)):
            try:
                return chosen, *self._decoded(chosen)
            except UnreadableImageError as error:
                gaps[chosen], last = str(error), error
        raise last

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
            return transforms.resize(image, transforms.fit(original, self.size).scaled), original

        bar = {"desc": "reading images", "total": len(self.images), "delay": 2, "leave": False, "disable": None}
        # a copy of stderr, because the threads hush the real one nearly all the time
        with ThreadPoolExecutor(os.cpu_count()) as pool, os.fdopen(os.dup(2), "w") as shown:
            loaded = list(tqdm(pool.map(load, range(len(self))), file=shown, **bar))
        self._cached = [image for image, _ in loaded]
        self._shapes = [original for _, original in loaded]


def free_memory() -> int:
    """Bytes that can be had now, within the limits of a container."""
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        rows = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        available = int(rows["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.is_file() and used.is_file() and limit.read_text().strip().isdigit():
        available = min(available, int(limit.read_text()) - int(used.read_text()))
    return max(0, available)
