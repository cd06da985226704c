"""Training images decoded, cut, scaled and mirrored by NVIDIA DALI, behind the same loader.

Which images, and what becomes of each, is decided here as ever, by (seed, epoch, index); DALI is told, and does it. Its
filters round otherwise than OpenCV's, so pixels agree to a few levels only. The pipeline is made when the first batch
is asked for: a loader that nobody iterates over takes neither memory nor a stream of the GPU.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from utils.data.dataset import SampleRequest
from utils.data.loader import Batch, BatchSource, ImageSample, Loader, RequestSampler, default_workers
from utils.data.text import read_bytes
from utils.data.transforms import GREY, Placement
from utils.errors import InputError

DEPTH = 1  # batches that are begun; of a deeper queue DALI runs all at the first call, fed or not
NO_PACKAGE = "--loader dali: no NVIDIA DALI ({}); pip install nvidia-dali-cuda120, or use --loader torch"
PLANNED = ("start", "shape", "scaled", "offset", "frame", "mirror")  # of each image, beside its file

B = TypeVar("B", bound=Batch)
B_co = TypeVar("B_co", bound=Batch, covariant=True)


@runtime_checkable
class PlannedSource(BatchSource[B_co], Protocol[B_co]):
    """A data set that can say what becomes of an image without doing it."""

    read_channels: int
    channels: int

    def plan(self, request: SampleRequest) -> tuple[Path, Placement]:
        """The image's file, and what is cut out of it and where that goes."""

    def sample(self, request: SampleRequest, image: Tensor) -> ImageSample:
        """The sample of that image, uint8 [C, H, W], with its label."""


def dali_package() -> Any:
    """The package nvidia.dali, which is no requirement.

    Raises:
        InputError: it is not installed.
    """
    try:
        for part in ("fn", "types", "pipeline", "plugin.pytorch"):
            importlib.import_module(f"nvidia.dali.{part}")
        return importlib.import_module("nvidia.dali")
    except ImportError as error:
        raise InputError(NO_PACKAGE.format(error)) from error


class DaliLoader(Loader[B]):
    """The batches of a loader, their images made by DALI on ``device``.

    Raises:
        InputError: the package is missing, or the data set's images are changed in ways that it is not told.
    """

    def __init__(self, dataset: BatchSource[B], requests: RequestSampler, device: torch.device) -> None:
        self._dali = dali_package()
        if not isinstance(dataset, PlannedSource):
            raise InputError(
                "--loader dali: makes the images of classes alone; here labels move with the image: use --loader torch"
            )
        super().__init__(dataset, requests, workers=0)
        self._planned, self._device = dataset, device
        self._pipeline: Any = None

    def __iter__(self) -> Iterator[B]:
        begun: Sequence[SampleRequest] | None = None  # what DALI works on while the network has the batch before
        try:
            for following in chain(self._requests, [None]):
                ready = None if begun is None else self._taken(begun)
                begun = following
                if following is not None:
                    self._feed(following)
                if ready is not None:
                    yield ready
        finally:  # whoever stops early must not leave images to the next epoch
            if begun is not None and self._pipeline is not None:
                self._taken(begun)

    def close(self) -> None:
        """Give the pipeline's memory back; iterating again makes another."""
        super().close()
        self._pipeline = None

    def _feed(self, requests: Sequence[SampleRequest]) -> None:
        """Start on a batch."""
        if self._pipeline is None:
            self._pipeline = self._build()
        plans = [self._planned.plan(request) for request in requests]
        self._pipeline.feed_input("coded", [np.frombuffer(read_bytes(path), np.uint8) for path, _ in plans])
        for name in PLANNED:
            self._pipeline.feed_input(name, [_told(name, placement) for _, placement in plans])
        self._pipeline.schedule_run()

    def _taken(self, requests: Sequence[SampleRequest]) -> B:
        """The batch that was started first.

        Raises:
            InputError: one of its images cannot be decoded.
        """
        assert self._pipeline is not None
        try:
            (made,) = self._pipeline.share_outputs()
        except RuntimeError as error:
            self._pipeline = None
            files = ", ".join(str(self._planned.plan(request)[0]) for request in requests)
            why = str(error).strip().splitlines()[-1]
            raise InputError(f"--loader dali: cannot decode one of {files} ({why}); use --loader torch") from error
        dense = made.as_tensor()
        images = torch.empty(tuple(dense.shape()), dtype=torch.uint8, device=self._device)
        self._dali.plugin.pytorch.feed_ndarray(dense, images)
        self._pipeline.release_outputs()
        channels = self._planned.channels
        pictures = (image.permute(2, 0, 1).expand(channels, -1, -1) for image in images)
        return self._planned.collate([self._planned.sample(*pair) for pair in zip(requests, pictures, strict=True)])

    def _build(self) -> Any:
        """Bytes of files and what is planned for each in, pictures [H, W, C] out."""
        dali, gpu = self._dali, self._device.type == "cuda"
        fn, types = dali.fn, dali.types
        pipeline = dali.pipeline.Pipeline(
            batch_size=self.batch_size,
            num_threads=default_workers(),
            device_id=(self._device.index or 0) if gpu else None,
            prefetch_queue_depth=DEPTH,
        )
        with pipeline:
            coded = fn.external_source(name="coded", dtype=types.UINT8, ndim=1)
            told = {name: fn.external_source(name=name, dtype=types.INT32, ndim=1) for name in PLANNED[:-1]}
            mirror = fn.external_source(name="mirror", dtype=types.INT32, ndim=0)
            kind = types.GRAY if self._planned.read_channels == 1 else types.RGB
            image = fn.decoders.image(coded, device="mixed" if gpu else "cpu", output_type=kind)
            image = fn.slice(image, start=told["start"], shape=told["shape"], axes=[0, 1])
            image = fn.resize(image, size=fn.cast(told["scaled"], dtype=types.FLOAT))
            image = fn.slice(
                image,
                start=told["offset"],
                shape=told["frame"],
                axes=[0, 1],
                out_of_bounds_policy="pad",
                fill_values=[GREY],
            )
            pipeline.set_outputs(fn.flip(image, horizontal=mirror))
        pipeline.build()
        return pipeline


def _told(name: str, placement: Placement) -> np.ndarray:
    """What DALI is told of an image under one of the names of ``PLANNED``, int32."""
    if name == "offset":
        return -np.asarray(placement.place, np.int32)
    return np.asarray(getattr(placement, name), np.int32)
