"""Images and the class of each; a sample depends on (seed, epoch, index) and nothing else."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import torch
from torch import Tensor

from utils.classification.open_data import labels_of
from utils.data import transforms
from utils.data.dataset import Cache, ImageFiles, Reading, SampleRequest
from utils.data.images import Size
from utils.data.loader import Batch
from utils.data.manifest import Manifest
from utils.data.transforms import Letterbox, Placement

SMALL = 64  # px; images up to this side are shifted by some pixels, larger ones cut out and scaled
RATIO = (3 / 4, 4 / 3)  # width to height of what is cut out (Szegedy et al., CVPR 2015)


@dataclass(frozen=True)
class ClassAugment:
    """How strongly training images are changed.

    ``flip``: share mirrored left to right. ``shift``: of small images, at most, as a share of the side (4 px of 32: He
    et al., CVPR 2016). ``least``: of larger ones, the least share of their area that is cut out (0.08 there; small
    networks, which underfit, learn better of more). ``mixup``, ``cutmix``: of Beta(a, a), by which two images share the
    result; 0: off, both: one of them, by chance.
    """

    flip: float = 0.5
    shift: float = 0.125
    least: float = 0.25
    mixup: float = 0.0
    cutmix: float = 0.0

    @property
    def mixes(self) -> bool:
        """Whether an image is made of two."""
        return bool(self.mixup or self.cutmix)

    @classmethod
    def off(cls) -> ClassAugment:
        """Nothing changes: a letterboxed image."""
        return cls(flip=0.0, shift=0.0, least=1.0)


@dataclass(frozen=True, slots=True)
class ClassSample:
    """``image`` uint8 [C, H, W], its class, its number in the dataset; where two are mixed, the other's class.

    ``share``: of the label, the rest is the other's.
    """

    image: Tensor
    label: int
    index: int
    letterbox: Letterbox
    gaps: tuple[tuple[int, str], ...] = ()
    other: int = 0
    share: float = 1.0


@dataclass(frozen=True, kw_only=True)
class ClassBatch(Batch):
    """Images with classes: ``labels`` int64 [N]."""

    labels: Tensor


@dataclass(frozen=True, kw_only=True)
class BlendedBatch(ClassBatch):
    """Images of two each: ``others`` int64 [N] are the second ones' classes, ``shares`` float32 [N] the first ones'."""

    others: Tensor
    shares: Tensor


class ClassDataset(ImageFiles):
    """The images of a list or folder, with the class of each; the arguments are those of ``ImageFiles``.

    Attributes:
        labels: the class of each image.

    Raises:
        InputError: a list or (when cached) an image is missing or wrong, or an image tells no class.
    """

    def __init__(
        self,
        images: Path,
        manifest: Manifest,
        size: tuple[int, int],
        *,
        augment: bool | ClassAugment = False,
        cache: Cache = "auto",
        **reading: Unpack[Reading],
    ) -> None:
        super().__init__(images, size, **reading)
        self.labels = labels_of(self.images, manifest, images)
        if images.is_dir():  # sorted by class: the first so many must be of all
            order = in_turn(self.labels)
            self.images, self.labels = [self.images[i] for i in order], [self.labels[i] for i in order]
        if isinstance(augment, bool):
            augment = ClassAugment(flip=manifest.flip) if augment else ClassAugment.off()
        self.augment = augment
        self.keep(cache)

    def __getitem__(self, request: int | SampleRequest) -> ClassSample:
        """The sample of an index, or of the loader's request."""
        request, size, rng = self.asked(request)
        gaps: dict[int, str] = {}
        index, image, original = self.fetch(request.index, gaps)
        box = transforms.fit(original, size, self.how)
        image = changed(image, box, self.augment, rng)
        other, share = 0, 1.0
        if self.augment.mixes:
            partner, second, second_original = self.fetch(int(rng.integers(len(self))), gaps)
            second = changed(second, transforms.fit(second_original, size, self.how), self.augment, rng)
            image, share = mixed(image, second, self.augment, rng)
            other = self.labels[partner]
        pixels = self.as_tensor(image)
        return ClassSample(pixels, self.labels[index], index, box, tuple(gaps.items()), other, share)

    @property
    def whole(self) -> bool:
        """Whether samples show parts of images, or larger sizes, so that they are kept as they are decoded."""
        return super().whole or self._cuts

    def needed(self, original: Size) -> Size:
        """The least (height, width) px that an image is decoded at: the smallest part is still as large as is shown."""
        if not self._cuts:
            return super().needed(original)
        high, wide = smallest_part(original, self.augment.least)
        return (
            math.ceil(self.largest[0] * original[0] / high),
            math.ceil(self.largest[1] * original[1] / wide),
        )

    @property
    def _cuts(self) -> bool:
        """Whether a part of an image is shown at random."""
        return self.augment.least < 1 and max(self.largest) > SMALL

    def plan(self, request: SampleRequest) -> tuple[Path, Placement]:
        """The file of a request's image, and what becomes of it, for whoever decodes it elsewhere.

        Raises:
            InputError: its size cannot be read.
        """
        request, size, rng = self.asked(request)
        given = self.shapes()[request.index]
        box = transforms.fit(given, size, self.how)
        return self.images[request.index], placement(given, box, self.augment, rng)

    def sample(self, request: SampleRequest, image: Tensor) -> ClassSample:
        """The sample of an image, uint8 [C, H, W], that was made elsewhere."""
        size = (image.shape[1], image.shape[2])
        box = transforms.fit(self.shapes()[request.index], size, self.how)
        return ClassSample(image, self.labels[request.index], request.index, box)

    def collate(self, samples: Sequence[ClassSample]) -> ClassBatch:
        """One batch of samples, at least one."""
        parts: dict[str, Any] = {
            "images": transforms.stack([sample.image for sample in samples]),
            "labels": torch.tensor([sample.label for sample in samples]),
            "indices": tuple(sample.index for sample in samples),
            "gaps": tuple(gap for sample in samples for gap in sample.gaps),
        }
        if not self.augment.mixes:
            return ClassBatch(**parts)
        others = torch.tensor([sample.other for sample in samples])
        shares = torch.tensor([sample.share for sample in samples], dtype=torch.float32)
        return BlendedBatch(**parts, others=others, shares=shares)


def in_turn(labels: Sequence[int]) -> list[int]:
    """Numbers of images, one of every class, then the next of every class, and so on."""
    seen: Counter[int] = Counter()
    places = []
    for number, label in enumerate(labels):
        places.append((seen[label], label, number))
        seen[label] += 1
    return [number for *_, number in sorted(places)]


def changed(image: np.ndarray, box: Letterbox, strength: ClassAugment, rng: np.random.Generator) -> np.ndarray:
    """The image, perhaps scaled already, as training sees it: uint8 [*box.size, C]."""
    return transforms.placed(image, placement((image.shape[0], image.shape[1]), box, strength, rng))


def placement(given: tuple[int, int], box: Letterbox, strength: ClassAugment, rng: np.random.Generator) -> Placement:
    """Where an image of ``given`` (height, width) goes: shifted where it is small, else a part of it scaled."""
    start, shape, scaled, place, small = (0, 0), given, box.scaled, box.pad, max(box.size) <= SMALL
    if small and strength.shift:
        down, right = shift_of(box.size, strength.shift, rng)
        place = (place[0] + down, place[1] + right)
    elif not small and strength.least < 1:
        start, shape = part_of(given, strength.least, rng)
        scaled, place = box.size, (0, 0)
    mirror = bool(strength.flip) and bool(rng.random() < strength.flip)
    return Placement(start, shape, scaled, place, box.size, mirror)


def shift_of(size: tuple[int, int], share: float, rng: np.random.Generator) -> tuple[int, int]:
    """Whole pixels down and right, at most ``share`` of the sides."""
    down, right = (round(share * side) for side in size)
    return int(rng.integers(-down, down + 1)), int(rng.integers(-right, right + 1))


def mixed(
    first: np.ndarray, second: np.ndarray, strength: ClassAugment, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """One image of two, and the share of the first: blended (mixup), or with a part of the second in it (cutmix).

    Sources: Zhang et al., ICLR 2018; Yun et al., ICCV 2019, whose share is that of the pixels that are left.
    """
    cut = bool(strength.cutmix) and (not strength.mixup or rng.random() < 0.5)
    alpha = strength.cutmix if cut else strength.mixup
    share = float(rng.beta(alpha, alpha))
    if not cut:
        blend = share * first.astype(np.float32) + (1 - share) * second.astype(np.float32)
        return blend.round().astype(np.uint8), share
    height, width = first.shape[:2]
    side = math.sqrt(1 - share)
    y, x = int(rng.integers(height)), int(rng.integers(width))  # the middle of the part, which the border may cut
    rows = slice(max(0, y - round(height * side / 2)), min(height, y + round(height * side / 2)))
    columns = slice(max(0, x - round(width * side / 2)), min(width, x + round(width * side / 2)))
    out = first.copy()
    out[rows, columns] = second[rows, columns]
    taken = (rows.stop - rows.start) * (columns.stop - columns.start)
    return out, 1 - taken / (height * width)


def smallest_part(given: Size, least: float) -> Size:
    """The smallest height and the smallest width that ``part_of`` cuts out."""
    area = least * given[0] * given[1]
    high, wide = (max(1, math.floor(math.sqrt(each))) for each in (area / RATIO[1], area * RATIO[0]))
    return min(high, given[0]), min(wide, given[1])


def part_of(given: tuple[int, int], least: float, rng: np.random.Generator) -> tuple[tuple[int, int], tuple[int, int]]:
    """Start and shape of a random part of at least ``least`` of the area, of a ratio in ``RATIO`` where it fits."""
    height, width = given
    area = float(rng.uniform(least, 1)) * height * width
    ratio = math.exp(float(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1]))))
    high, wide = (max(1, round(math.sqrt(each))) for each in (area / ratio, area * ratio))
    high, wide = min(high, height), min(wide, width)
    y, x = int(rng.integers(height - high + 1)), int(rng.integers(width - wide + 1))
    return (y, x), (high, wide)
