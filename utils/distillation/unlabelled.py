"""Images without labels beside labelled ones: the teacher alone judges them."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import cast

import torch
from torch import nn

from utils.data.dataset import Cache, Jpeg
from utils.data.loader import Loader, make_loader
from utils.data.manifest import Manifest, read_list
from utils.data.transforms import Resize
from utils.detection.dataset import BoxBatch, DetectionDataset

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class MixedBatch(BoxBatch):
    """A batch whose first ``labelled`` images have targets; the others are for the teacher alone."""

    labelled: int


class JoinedBatches:
    """Labelled batches, each followed by as many unlabelled images; every epoch has others of them.

    Which they are depends on (seed, epoch) alone, as it does for the labelled.
    """

    def __init__(self, train: Loader[BoxBatch], extra: Loader[BoxBatch], epoch: int, *, mosaic: bool) -> None:
        self._train, self._extra, self._epoch, self._mosaic = train, extra, epoch, mosaic

    def __len__(self) -> int:
        return len(self._train)

    def __iter__(self) -> Iterator[MixedBatch]:
        extra = self._endless()
        for batch in self._train:
            images = next(extra).images
            if images.shape[2:] != batch.images.shape[2:]:  # --multi-scale
                pixels = nn.functional.interpolate(images.float(), batch.images.shape[2:], mode="bilinear")
                images = pixels.round().to(torch.uint8)
            yield MixedBatch(
                images=torch.cat((batch.images, images.to(memory_format=torch.channels_last))),
                targets=batch.targets,
                indices=batch.indices,
                letterboxes=batch.letterboxes,
                labelled=len(batch.images),
                gaps=batch.gaps,
            )

    def _endless(self) -> Iterator[BoxBatch]:
        rounds = -(-len(self._train) // len(self._extra))  # an epoch of the labelled takes so many of the others
        for number in count(self._epoch * rounds):
            self._extra.set_epoch(number, mosaic=self._mosaic)
            yield from self._extra


def unlabelled_batches(
    place: Path,
    manifest: Manifest,
    size: tuple[int, int],
    batch_size: int,
    *,
    cache: str = "auto",
    seed: int = 0,
    channels: int = 3,
    grey: bool = False,
    how: Resize = "letterbox",
    jpeg: Jpeg = "full",
    workers: int | None = None,
    share: tuple[int, int] = (0, 1),
) -> Loader[BoxBatch]:
    """Batches of images without labels, augmented as the labelled are, in an order of their own.

    ``place`` is a list file or a folder; ``manifest`` and ``seed`` are the labelled images'. There are no more images a
    batch than images. The rest is as for ``DetectionDataset`` and ``make_loader``.

    Raises:
        InputError: there is no such list or folder, or no image in it.
    """
    images = read_list(place)
    with tempfile.TemporaryDirectory() as folder:  # of labels: none but an empty file, so that none are looked for
        (Path(folder) / f"{images[0].stem}.txt").touch()
        dataset = DetectionDataset(
            place,
            replace(manifest, labels=Path(folder)),
            size,
            augment=True,
            cache=cast(Cache, cache),
            seed=seed + 1,
            channels=channels,
            grey=grey,
            how=how,
            jpeg=jpeg,
            unreadable="replace",
        )
    log.info("%s: %d unlabelled images, the teacher's alone", place, len(images))
    least = min(batch_size, len(images))
    return make_loader(dataset, least, workers=workers, shuffle=True, seed=seed + 1, share=share)
