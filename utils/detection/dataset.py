"""Images and their boxes, as the network takes them; a sample depends on (seed, epoch, index) and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import numpy as np
import torch
from torch import Tensor

from utils.data import transforms
from utils.data.dataset import Cache, ImageFiles, Reading, SampleRequest
from utils.data.loader import Batch
from utils.data.manifest import Manifest
from utils.data.transforms import Letterbox
from utils.detection import augment as boxed
from utils.detection.augment import Augment
from utils.detection.labels import read_all


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


@dataclass(frozen=True, kw_only=True)
class BoxBatch(Batch):
    """Images with boxes.

    ``targets`` float32 [M, 6] (image in the batch, class, cx, cy, w, h; 0..1 of the network's image); ``letterboxes``
    to map boxes back. ``least``: diagonal and side, px of the originals, of boxes that count.
    """

    targets: Tensor
    letterboxes: tuple[Letterbox, ...]
    least: tuple[float, float] = (0.0, 0.0)


class DetectionDataset(ImageFiles):
    """The images of a list, with their boxes.

    Args:
        images: list file or folder (``manifest.train`` or ``manifest.valid``).
        manifest: gives the number of classes, the place of the labels, and the share of mirrored images.
        size: (height, width) of the network's image, px.
        augment: True for the usual strengths with the manifest's flip, or one's own.
        cache: keep images in memory, scaled to fit ``size``; "auto" when they take less than 30 % of what is free.
        reading: as in ``ImageFiles``.

    Attributes:
        boxes: of each image, float32 [n, 5] (class, cx, cy, w, h; 0..1 of the original image).
        missing: how many images have no label file, and so no objects.

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
        **reading: Unpack[Reading],
    ) -> None:
        super().__init__(images, size, **reading)
        self.boxes, self.missing = read_all(self.images, manifest, images)
        self._corners = [boxed.to_corners(rows) for rows in self.boxes]
        if isinstance(augment, bool):
            augment = (
                Augment(flip=manifest.flip, mosaic=manifest.mosaic, scale=manifest.scale) if augment else Augment.off()
            )
        self.augment = augment
        self.keep(cache)

    def __getitem__(self, request: int | SampleRequest) -> Sample:
        """The sample of an index, or of the loader's request (index, epoch, size, mosaic or not)."""
        request, size, rng = self.asked(request)
        strength = boxed.with_mosaic(self.augment, request.mosaic)
        gaps: dict[int, str] = {}
        if rng.random() < strength.mosaic:
            index, image, boxes, box = self._mosaic(request.index, size, strength, rng, gaps)
        else:
            index, image, boxes, box = self._single(request.index, size, strength, rng, gaps)
        if any(strength.hsv):
            image = transforms.shift_colours(image, strength.hsv, rng)
        rows = boxed.to_shares(boxes, size)
        pixels = self.as_tensor(image)
        return Sample(pixels, torch.from_numpy(rows), index, box, tuple(gaps.items()))

    def collate(self, samples: Sequence[Sample]) -> BoxBatch:
        """One batch of samples, at least one."""
        return collate(samples)

    def _single(
        self, index: int, size: tuple[int, int], strength: Augment, rng: np.random.Generator, gaps: dict[int, str]
    ) -> tuple[int, np.ndarray, np.ndarray, Letterbox]:
        """One image, fitted to the size and then moved, and its number."""
        index, image, original = self.fetch(index, gaps)
        box = transforms.fit(original, size, self.how)
        image = transforms.letterbox(image, box)
        boxes = boxed.place(self._corners[index], box.scaled, box.pad)
        flip = rng.random() < strength.flip
        if strength.moves:
            matrix = transforms.random_matrix(size, size, strength, rng)
            matrix = transforms.mirror(matrix, size[1]) if flip else matrix
            boxes = boxed.warp_boxes(boxes, matrix, size, size, strength.visible)
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
            shown, image, original = self.fetch(wanted, gaps)
            indices.append(shown)
            images.append(transforms.resize(image, transforms.fit(original, size, self.how).scaled))
        canvas, boxes = boxed.mosaic(images, [self._corners[i] for i in indices], size, rng)
        whole = (2 * size[0], 2 * size[1])
        matrix = transforms.random_matrix(whole, size, strength, rng)
        if rng.random() < strength.flip:
            matrix = transforms.mirror(matrix, size[1])
        boxes = boxed.warp_boxes(boxes, matrix, whole, size, strength.visible)
        box = transforms.fit(size, size)  # of four images none maps back; this one says so by changing nothing
        return indices[0], transforms.warp(canvas, matrix, size), boxes, box


def collate(
    samples: Sequence[Sample], images: Tensor | None = None, least: tuple[float, float] = (0.0, 0.0)
) -> BoxBatch:
    """One batch of samples, at least one; ``images`` where the network is shown something else than their pictures."""
    rows = [torch.cat([torch.full((len(s.boxes), 1), float(i)), s.boxes], 1) for i, s in enumerate(samples)]
    return BoxBatch(
        images=transforms.stack([s.image for s in samples]) if images is None else images,
        targets=torch.cat(rows),
        indices=tuple(s.index for s in samples),
        letterboxes=tuple(s.letterbox for s in samples),
        gaps=tuple(gap for s in samples for gap in s.gaps),
        least=least,
    )
