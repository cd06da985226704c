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
from utils.data.loader import Batch
from utils.data.manifest import Manifest
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
        self._kept: dict[int, np.ndarray] = {}
        self.keep(cache)

    def __getitem__(self, request: int | SampleRequest) -> MaskSample:
        """The sample of an index, or of the loader's request."""
        request, size, rng = self.asked(request)
        strength = self.augment
        gaps: dict[int, str] = {}
        index, image, original = self.fetch(request.index, gaps)
        box = transforms.fit(original, size, self.how)
        image, mask = transforms.letterbox(image, box), fitted(self._mask(index), original, box, self.masks[index])
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

    def _mask(self, index: int) -> np.ndarray:
        """The mask as it is in its file; kept where the images are."""
        if index in self._kept:
            return self._kept[index]
        mask = read_mask(self.masks[index])
        if self.cached:
            self._kept[index] = mask
        return mask


def fitted(mask: np.ndarray, original: tuple[int, int], box: Letterbox, place: Path) -> np.ndarray:
    """A mask as its image is fitted: uint8 [*box.size], its border ignored.

    Raises:
        InputError: it has another size than its image.
    """
    if mask.shape != original:
        raise InputError(
            f"{place}: a mask of {mask.shape[0]}x{mask.shape[1]} px for an image of {original[0]}x{original[1]}; "
            "save it at the image's size"
        )
    inner = cv2.resize(mask, box.scaled[::-1], interpolation=cv2.INTER_NEAREST)
    out = np.full(box.size, IGNORED, np.uint8)
    (top, left), (height, width) = box.pad, box.scaled
    out[top : top + height, left : left + width] = inner
    return out


def warped(mask: np.ndarray, matrix: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A mask moved as ``transforms.warp`` moves its image; what comes in at the border is ignored."""
    by_index = matrix.copy()  # OpenCV counts from the middle of a pixel
    by_index[:, 2] += matrix[:, :2].sum(1) / 2 - 0.5
    return cv2.warpAffine(mask, by_index, size[::-1], flags=cv2.INTER_NEAREST, borderValue=(IGNORED,))
