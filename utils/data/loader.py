"""Batches, in an order that depends on (seed, epoch) alone, made in worker processes while the network computes."""

from __future__ import annotations

import gc
import logging
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from utils.data.batch_sizes import rect_batches
from utils.data.dataset import SampleRequest, Unreadable
from utils.data.images import UnreadableImageError
from utils.errors import InputError
from utils.jobs import cores

log = logging.getLogger(__name__)

MOST_GAPS = 0.01  # of the images may be unreadable; with more of them it is another set

Gap = tuple[int, str]  # an image that could not be read: its number in the dataset, what is wrong


class ImageSample(Protocol):
    """One image of a data set, as far as all tasks have it."""

    @property
    def image(self) -> Tensor:
        """uint8 [C, H, W]."""

    @property
    def gaps(self) -> tuple[Gap, ...]:
        """The images that could not be read and were replaced."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """What one step takes; a task adds what is to be learned.

    ``images`` uint8 [N, C, H, W], channels last in memory. ``indices`` of the images in the dataset. ``gaps``: images
    that were to be here and could not be read.
    """

    images: Tensor
    indices: tuple[int, ...]
    gaps: tuple[Gap, ...] = ()


B = TypeVar("B", bound=Batch)
B_co = TypeVar("B_co", bound=Batch, covariant=True)


class BatchSource(Protocol[B_co]):
    """A task's data set, as far as the loader knows it."""

    size: tuple[int, int]
    gaps: dict[int, str]
    unreadable: Unreadable

    def __len__(self) -> int: ...

    def __getitem__(self, request: int | SampleRequest, /) -> ImageSample: ...

    def shapes(self) -> Sequence[tuple[int, int]]:
        """(height, width) of every original image."""

    def collate(self, samples: Sequence[Any], /) -> B_co:
        """One batch of its samples, at least one."""


class RequestSampler(Sampler[list[SampleRequest]]):
    """The batches of an epoch as lists of requests.

    Shuffled, or in the list's order, or (``rect``) images of similar aspect together. ``sizes`` are those of
    multi-scale training: each batch has one of them, chosen by (seed, epoch, batch). ``share`` (k, n) takes the images
    k, k + n, … of every batch: n such loaders see what one sees that does not share. Shuffled they keep step with each
    other, and a last batch of fewer than n is left out.
    """

    def __init__(
        self,
        dataset: BatchSource[Batch],
        batch_size: int,
        *,
        shuffle: bool,
        seed: int,
        rect: int = 0,
        sizes: Sequence[tuple[int, int]] = (),
        share: tuple[int, int] = (0, 1),
    ) -> None:
        self.share = share
        self.count, self.batch_size, self.shuffle, self.seed, self.sizes = (
            len(dataset),
            batch_size,
            shuffle,
            seed,
            sizes,
        )
        self.epoch, self.mosaic = 0, True
        self.rects = rect_batches(dataset.shapes(), dataset.size, batch_size, rect) if rect else None

    def __len__(self) -> int:
        last = (len(self.rects[-1][0]) if self.rects else self.count % self.batch_size) or self.batch_size
        least = self.share[1] if self.shuffle else self.share[0] + 1
        return math.ceil(self.count / self.batch_size) - (last < least)

    def __iter__(self) -> Iterator[list[SampleRequest]]:
        k, n = self.share
        for batch in self._batches():
            if len(batch) >= (n if self.shuffle else k + 1):
                yield batch[k::n]

    def _batches(self) -> Iterator[list[SampleRequest]]:
        rng = np.random.Generator(np.random.PCG64((self.seed, self.epoch)))
        if self.rects is not None:
            order = rng.permutation(len(self.rects)) if self.shuffle else range(len(self.rects))
            for b in order:
                indices, needed = self.rects[int(b)]
                yield [SampleRequest(i, self.epoch, needed, False) for i in indices]
            return
        images = rng.permutation(self.count) if self.shuffle else np.arange(self.count)
        for b in range(math.ceil(self.count / self.batch_size)):
            size = self.sizes[int(rng.integers(len(self.sizes)))] if self.sizes else None
            chosen = images[b * self.batch_size : (b + 1) * self.batch_size]
            yield [SampleRequest(int(i), self.epoch, size, self.mosaic) for i in chosen]


class Loader(Generic[B]):
    """Iterate over it for the batches of the epoch last set.

    ``dataset`` and ``batch_size`` are what it was made with; ``len`` is the number of batches an epoch. ``gaps`` are
    the images that could not be read so far: each is named in the log when it is met first, and more than 1 % of the
    images are an error. Where the dataset drops them, a batch is smaller, and one of which nothing is left not there.
    """

    def __init__(self, dataset: BatchSource[B], requests: RequestSampler, workers: int) -> None:
        self.dataset, self.batch_size, self.workers = dataset, requests.batch_size, workers
        self._requests = requests
        self.gaps: dict[int, str] = {}
        self._inner: DataLoader[Batch | str] = DataLoader(
            _Guarded(dataset),  # type: ignore[arg-type]
            batch_sampler=requests,
            num_workers=workers,
            collate_fn=_Collated(dataset),
            persistent_workers=workers > 0,
            prefetch_factor=4 if workers else None,
            worker_init_fn=_begin,
            # Of its own: workers would be seeded by a draw from the one that dropout uses, once a sitting of a run
            generator=torch.Generator(),
        )
        self._note(dataset.gaps.items())

    def set_epoch(self, epoch: int, *, mosaic: bool = True) -> None:
        """Choose the epoch's order and changes; ``mosaic=False`` for the last ones, which see whole images again."""
        self._requests.epoch, self._requests.mosaic = epoch, mosaic

    def close(self) -> None:
        """End the workers, which else wait for another epoch; iterating again starts new ones."""
        self._inner._iterator = None  # its deletion ends them, here and not by chance in a process forked later

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[B]:
        gc.freeze()  # a forked worker must not collect this process's garbage: its destructors join threads not there
        batches = iter(self._inner)
        gc.unfreeze()
        for batch in batches:
            if isinstance(batch, str):
                raise InputError(batch)
            self._note(batch.gaps)
            if len(batch.images):
                yield batch

    def skip(self, index: int, message: str) -> None:
        """Name an image that could not be read when it was asked for by its number.

        Raises:
            InputError: it is too much by now.
        """
        self._note([(index, message)])

    def _note(self, gaps: Iterable[Gap]) -> None:
        """Name what could not be read.

        Raises:
            InputError: it is too much by now.
        """
        for index, message in gaps:
            if index in self.gaps:
                continue
            self.gaps[index] = message
            count, images = len(self.gaps), len(self.dataset)
            if count > MOST_GAPS * images:
                raise InputError(f"{message}; {count} of {images} images can not be read, more than {MOST_GAPS:.0%}")
            log.warning("%s; skipped, as %d of %d images so far", message, count, images)


def make_loader(
    dataset: BatchSource[B],
    batch_size: int,
    *,
    workers: int | None = None,
    shuffle: bool = False,
    seed: int = 0,
    rect: int = 0,
    sizes: Sequence[tuple[int, int]] = (),
    share: tuple[int, int] = (0, 1),
    kind: Callable[[BatchSource[B], RequestSampler], Loader[B]] | None = None,
) -> Loader[B]:
    """Batches of a dataset.

    Args:
        dataset: where samples come from.
        batch_size: images a batch; the last one may be smaller.
        workers: processes that prepare batches; None: by the number of cores. 0: this process.
        shuffle: a new order each epoch.
        seed: of the order.
        rect: the network's largest stride: batches of similar aspect, no larger than they need be. 0: off.
        sizes: (height, width) of multi-scale training, see ``scales``; empty: the dataset's size.
        share: (k, n): this is loader k of n that share every batch.
        kind: what makes the loader of these batches; None: torch's workers.
    """
    requests = RequestSampler(dataset, batch_size, shuffle=shuffle, seed=seed, rect=rect, sizes=sizes, share=share)
    if kind is not None:
        return kind(dataset, requests)
    return Loader(dataset, requests, default_workers() if workers is None else workers)


def default_workers() -> int:
    """One worker feeds two cores (a cached sample takes 0.2 ms, one that is decoded some); 16 at most.

    The cores are those that this process may use, in equal parts for all of its training on this machine.
    """
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(16, max(1, cores() // max(1, beside) // 2))


class _Collated(Generic[B]):
    """One batch of samples, those that could not be read left out; or the first error among them."""

    def __init__(self, dataset: BatchSource[B]) -> None:
        self.dataset = dataset

    def __call__(self, samples: Sequence[ImageSample | Gap | str]) -> Batch | str:
        for sample in samples:
            if isinstance(sample, str):
                return sample
        dropped = tuple(gap for gap in samples if isinstance(gap, tuple))
        good = [sample for sample in samples if not isinstance(sample, tuple)]
        if not good:
            return Batch(images=torch.empty(0), indices=(), gaps=dropped)
        batch = self.dataset.collate(good)
        return replace(batch, gaps=batch.gaps + dropped)


class _Guarded(Dataset[ImageSample | Gap | str]):
    """The dataset, its errors as strings: torch would wrap an exception of a worker into a page of traceback."""

    def __init__(self, dataset: BatchSource[Batch]) -> None:
        self.dataset = dataset

    def __getitem__(self, request: SampleRequest) -> ImageSample | Gap | str:
        try:
            return self.dataset[request]
        except UnreadableImageError as error:
            return (request.index, str(error)) if self.dataset.unreadable == "drop" else str(error)
        except InputError as error:
            return str(error)


def _begin(_: int) -> None:
    cv2.setNumThreads(0)  # else each worker starts a thread on every core, beside the network's own
    sys.excepthook = _unless_it_left


def _unless_it_left(kind: type[BaseException], *rest: Any) -> None:
    if not issubclass(kind, EOFError | ConnectionError):  # the run ended while it asked: nobody is there to be told
        sys.__excepthook__(kind, *rest)
