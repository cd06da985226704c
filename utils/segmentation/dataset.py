"""Images and their masks, changed together; a sample depends on (seed, epoch, index) and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import cv2
import numpy as np
import torch
from torch import Tensor

from utils.data import transforms
from utils.data.dataset import Cache, ImageFiles, Reading, SampleRequest
from utils.data.images import Size
from utils.data.loader import Batch
from utils.data.manifest import Manifest
from utils.data.mapped_images import MappedImages, Wanted, loaded, map_images
from utils.data.transforms import Jitter, Letterbox
from utils.errors import InputError
from utils.segmentation.open_data import IGNORED, mask_path, read_mask

STILL = Jitter(translate=0.0, scale=0.0, hsv=(0.0, 0.0, 0.0), flip=0.0)


@dataclass(frozen=True, slots=True)
class MaskSample:
    """``image`` uint8 [C, H, W], ``mask`` uint8 [H, W] of class numbers, its number in the dataset."""

    image: Tensor
    mask: Tensor
    index: int
    letterbox: Letterbox
    gaps: tuple[tuple[int, str], ...] = ()


@dataclass(frozen=True, kw_only=True)
class MaskBatch(Batch):
    """Images with masks: ``masks`` uint8 [N, H, W]; ``letterboxes`` to map back."""

    masks: Tensor
    letterboxes: tuple[Letterbox, ...]


class MaskDataset(ImageFiles):
    """The images of a list or folder with their masks; the arguments are those of ``ImageFiles``.

    Raises:
        InputError: a list, a mask or (when cached) an image is missing or wrong.
    """

    def __init__(
        self,
        images: Path,
        manifest: Manifest,
        size: tuple[int, int],
        *,
        augment: bool | Jitter = False,
        cache: Cache = "auto",
        **reading: Unpack[Reading],
    ) -> None:
        super().__init__(images, size, **reading)
        self.masks = [mask_path(image, manifest) for image in self.images]
        pairs = zip(self.images, self.masks, strict=True)
        lacking = next((mask for image, mask in pairs if mask == image or not mask.is_file()), None)
        if lacking is not None:
            raise InputError(f"{lacking}: no such mask; put one there, or take its image from {images}")
        self.augment = (
            (Jitter(flip=manifest.flip, scale=manifest.scale) if augment else STILL)
            if isinstance(augment, bool)
            else augment
        )
        self._kept: Sequence[np.ndarray | None] | MappedImages | None = None
        self.keep(cache)
        self._keep_masks(cache)

    def __getitem__(self, request: int | SampleRequest) -> MaskSample:
        """The sample of an index, or of the loader's request."""
        request, size, rng = self.asked(request)
        strength = self.augment
        gaps: dict[int, str] = {}
        index, image, original = self.fetch(request.index, gaps)
        box = transforms.fit(original, size, self.how)
        image, mask = transforms.letterbox(image, box), bordered(self._mask(index, original), box)
        flip = rng.random() < strength.flip
        if strength.moves:
            matrix = transforms.random_matrix(size, size, strength, rng)
            matrix = transforms.mirror(matrix, size[1]) if flip else matrix
            image, mask = transforms.warp(image, matrix, size), warped(mask, matrix, size)
        elif flip:
            image, mask = image[:, ::-1], mask[:, ::-1]
        if any(strength.hsv):
            image = transforms.shift_colours(image, strength.hsv, rng)
        pixels = self.as_tensor(image)
        return MaskSample(pixels, torch.from_numpy(np.ascontiguousarray(mask)), index, box, tuple(gaps.items()))

    def collate(self, samples: Sequence[MaskSample]) -> MaskBatch:
        """One batch of samples, at least one."""
        return MaskBatch(
            images=transforms.stack([sample.image for sample in samples]),
            masks=torch.stack([sample.mask for sample in samples]),
            indices=tuple(sample.index for sample in samples),
            letterboxes=tuple(sample.letterbox for sample in samples),
            gaps=tuple(gap for sample in samples for gap in sample.gaps),
        )

    def estimated_bytes(self) -> int:
        """What the cache would take, masks too."""
        return super().estimated_bytes() * (self.read_channels + 1) // self.read_channels

    def _keep_masks(self, cache: Cache) -> None:
        """The masks where the images are: made before there are workers, which then share them."""
        if not self.cached:
            return
        if cache == "disk":
            paths = [*self.masks, *self.images]  # a mask is of its image's size, or refused
            pixels = sum(height * width for height, width in self.shapes())
            shown = f"masks by their middles {self.scale_words}"
            self._kept = map_images(Wanted(self.place, shown, paths, len(self), self._load_mask, pixels))
        else:
            self._kept = [mask for mask, _ in loaded(len(self), self._load_mask)]

    def _load_mask(self, index: int) -> tuple[np.ndarray | None, Size]:
        original = self.shapes()[index]
        return (None if index in self.gaps else self._read_mask(index, original)), original

    def _mask(self, index: int, original: Size) -> np.ndarray:
        """What masks of samples are made of: uint8 [H, W], as ``fetch`` gives images."""
        kept = None if self._kept is None else self._kept[index]
        return self._read_mask(index, original)[..., 0] if kept is None else kept[..., 0]

    def _read_mask(self, index: int, original: Size) -> np.ndarray:
        size = original if self.whole else transforms.fit(original, self.size, self.how).scaled
        return scaled_mask(read_mask(self.masks[index]), original, size, self.masks[index])[..., None]


def scaled_mask(mask: np.ndarray, original: Size, size: Size, place: Path) -> np.ndarray:
    """A mask of another size: each px has the class that lies under its middle, where the image's colour comes from.

    Raises:
        InputError: it has another size than its image.
    """
    if mask.shape != original:
        raise InputError(
            f"{place}: a mask of {mask.shape[0]}x{mask.shape[1]} px for an image of {original[0]}x{original[1]}; "
            "save it at the image's size"
        )
    return cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST_EXACT)  # the other takes upper left corners


def bordered(mask: np.ndarray, box: Letterbox) -> np.ndarray:
    """A mask as its image is fitted: uint8 [*box.size], its border ignored."""
    out = np.full(box.size, IGNORED, np.uint8)
    (top, left), (height, width) = box.pad, box.scaled
    scaled = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
    out[top : top + height, left : left + width] = scaled
    return out


def warped(mask: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask moved as ``transforms.warp`` moves its image; what comes in at the border is ignored."""
    by_index = matrix.copy()  # OpenCV counts from the middle of a pixel
    by_index[:, 2] += matrix[:, :2].sum(1) / 2 - 0.5
    return cv2.warpAffine(mask, by_index, size[::-1], flags=cv2.INTER_NEAREST, borderValue=(IGNORED,))
