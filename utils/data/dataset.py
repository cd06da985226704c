"""Images and their boxes, as the network takes them; a sample depends on (seed, epoch, index) and nothing else."""

from __future__ import annotations

import logging
import os
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
from utils.data.images import image_size, read_image
from utils.data.labels import read_all
from utils.data.manifest import Manifest, read_list
from utils.data.transforms import Augment, Letterbox

log = logging.getLogger(__name__)

Cache = Literal["ram", "off", "auto"]
RAM_SHARE = 0.3  # of the free memory: the training and validation sets and the network must fit together


@dataclass(frozen=True, slots=True)
class Ticket:
    """What the loader asks for; it travels to the workers, which so need not be told of a new epoch."""

    index: int
    epoch: int = 0
    size: tuple[int, int] | None = None
    mosaic: bool = True


@dataclass(frozen=True, slots=True)
class Sample:
    """``image`` uint8 [C, H, W] RGB or grey, ``boxes`` float32 [n, 5] (class, cx, cy, w, h; 0..1 of this image)."""

    image: Tensor
    boxes: Tensor
    index: int
    letterbox: Letterbox


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

    Attributes:
        images: the paths, in the list's order.
        boxes: of each image, float32 [n, 5] (class, cx, cy, w, h; 0..1 of the original image).
        missing: how many images have no label file, and so no objects.

    Raises:
        InputError: a list, label or (when cached) image file is missing or wrong.
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
    ) -> None:
        self.images = read_list(images)
        self.boxes, self.missing = read_all(self.images, manifest, images)
        self._corners = [transforms.to_corners(rows) for rows in self.boxes]
        self.size, self.seed, self.channels, self.epoch = size, seed, channels, 0
        if isinstance(augment, bool):
            augment = (
                Augment(flip=manifest.flip, mosaic=manifest.mosaic, scale=manifest.scale) if augment else Augment.off()
            )
        self.augment = augment
        self._shapes: list[tuple[int, int]] | None = None
        self._cached: list[np.ndarray] | None = None
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
            self._shapes = [image_size(path) for path in self.images]
        return self._shapes

    def estimated_bytes(self) -> int:
        """What the cache would take at most."""
        return len(self.images) * self.size[0] * self.size[1] * self.channels

    @property
    def cached(self) -> bool:
        """Whether the images are kept in memory."""
        return self._cached is not None

    def __getitem__(self, ticket: int | Ticket) -> Sample:
        """The sample of an index, or of the loader's ticket (index, epoch, size, mosaic or not)."""
        if not isinstance(ticket, Ticket):
            ticket = Ticket(int(ticket), self.epoch)
        size = ticket.size or self.size
        rng = np.random.Generator(np.random.PCG64((self.seed, ticket.epoch, ticket.index)))
        strength = transforms.with_mosaic(self.augment, ticket.mosaic)
        if rng.random() < strength.mosaic:
            image, boxes, box = self._mosaic(ticket.index, size, strength, rng)
        else:
            image, boxes, box = self._single(ticket.index, size, strength, rng)
        if any(strength.hsv):
            image = transforms.shift_colours(image, strength.hsv, rng)
        rows = transforms.to_shares(boxes, size)
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)
        return Sample(pixels, torch.from_numpy(rows), ticket.index, box)

    def _single(
        self, index: int, size: tuple[int, int], strength: Augment, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, Letterbox]:
        """One image, letterboxed and then moved."""
        image, original = self._fetch(index)
        box = transforms.fit(original, size)
        image = transforms.letterbox(image, box)
        boxes = transforms.place(self._corners[index], box.scaled, box.pad)
        flip = rng.random() < strength.flip
        if strength.moves:
            matrix = transforms.random_matrix(size, size, strength, rng)
            matrix = transforms.mirror(matrix, size[1]) if flip else matrix
            boxes = transforms.warp_boxes(boxes, matrix, size, size, strength.visible)
            return transforms.warp(image, matrix, size), boxes, box
        if flip:
            image = image[:, ::-1]
            boxes[:, [1, 3]] = size[1] - boxes[:, [3, 1]]
        return image, boxes, box

    def _mosaic(
        self, index: int, size: tuple[int, int], strength: Augment, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray, Letterbox]:
        """Four images side by side, moved and cut to one in a single warp."""
        indices = [index, *rng.integers(len(self.images), size=3).tolist()]
        images = []
        for i in indices:
            image, original = self._fetch(i)
            images.append(transforms.resize(image, transforms.fit(original, size).scaled))
        canvas, boxes = transforms.mosaic(images, [self._corners[i] for i in indices], size, rng)
        whole = (2 * size[0], 2 * size[1])
        matrix = transforms.random_matrix(whole, size, strength, rng)
        if rng.random() < strength.flip:
            matrix = transforms.mirror(matrix, size[1])
        boxes = transforms.warp_boxes(boxes, matrix, whole, size, strength.visible)
        box = transforms.fit(size, size)  # of four images none maps back; this one says so by changing nothing
        return transforms.warp(canvas, matrix, size), boxes, box

    def _fetch(self, index: int) -> tuple[np.ndarray, tuple[int, int]]:
        """An image, perhaps scaled already, and its original (height, width)."""
        if self._cached is not None:
            return self._cached[index], self.shapes()[index]
        image = read_image(self.images[index], self.channels)
        return image, (image.shape[0], image.shape[1])

    def _fill(self) -> None:
        """Read every image once, scaled to fit ``size``."""

        def load(path: Path) -> tuple[np.ndarray, tuple[int, int]]:
            image = read_image(path, self.channels)
            original = (image.shape[0], image.shape[1])
            return transforms.resize(image, transforms.fit(original, self.size).scaled), original

        bar = {"desc": "reading images", "total": len(self.images), "delay": 2, "leave": False, "disable": None}
        # a copy of stderr, because the threads hush the real one nearly all the time
        with ThreadPoolExecutor(os.cpu_count()) as pool, os.fdopen(os.dup(2), "w") as shown:
            loaded = list(tqdm(pool.map(load, self.images), file=shown, **bar))
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
