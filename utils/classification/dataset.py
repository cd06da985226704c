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
from utils.data.loader import Batch
from utils.data.manifest import Manifest
from utils.data.transforms import GREY, Letterbox

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
    """The image as training sees it: uint8 [*box.size, C]."""
    size, small = box.size, max(box.size) <= SMALL
    if small or strength.least >= 1:
        out = transforms.letterbox(image, box)
        out = shifted(out, strength.shift, rng) if strength.shift and small else out
    else:
        out = transforms.resize(cut_out(image, strength.least, rng), size)
    return out[:, ::-1] if strength.flip and rng.random() < strength.flip else out


def shifted(image: np.ndarray, share: float, rng: np.random.Generator) -> np.ndarray:
    """Moved by whole pixels, at most ``share`` of its sides; grey comes in at the border."""
    height, width = image.shape[:2]
    down, right = (round(share * side) for side in (height, width))
    y, x = int(rng.integers(-down, down + 1)), int(rng.integers(-right, right + 1))
    out = np.full_like(image, GREY)
    out[max(0, y) : height + min(0, y), max(0, x) : width + min(0, x)] = image[
        max(0, -y) : height + min(0, -y), max(0, -x) : width + min(0, -x)
    ]
    return out


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


def cut_out(image: np.ndarray, least: float, rng: np.random.Generator) -> np.ndarray:
    """A random part of at least ``least`` of the area, of a ratio in ``RATIO`` where it fits."""
    height, width = image.shape[:2]
    area = float(rng.uniform(least, 1)) * height * width
    ratio = math.exp(float(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1]))))
    high, wide = (max(1, round(math.sqrt(each))) for each in (area / ratio, area * ratio))
    high, wide = min(high, height), min(wide, width)
    y, x = int(rng.integers(height - high + 1)), int(rng.integers(width - wide + 1))
    return image[y : y + high, x : x + wide]
