"""Sequences for the loader: sums that are made when they are asked for, and pictures that are read out bit by bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from utils.data.dataset import SampleRequest, Unreadable
from utils.data.loader import Batch
from utils.data.manifest import Manifest
from utils.errors import InputError
from utils.sequences.open_data import TRAIN, is_adding, listed, pictures_of, steps_of

MEASURED = 2**32 + 1  # the stream of the sums that are measured; numpy reads it as two words of 32 bits, 1 and 1
PERMUTATION = 0  # seed of the one order of order=permuted
MARKS = 2  # features of a step of the adding task: its value, and whether it counts
BYTE = 255


@dataclass(frozen=True, slots=True)
class SequenceSample:
    """``values`` float32 [T, C] in 0..1, and what is to be said: a class, or a value."""

    values: Tensor
    truth: float | int
    index: int
    gaps: tuple[tuple[int, str], ...] = ()

    @property
    def image(self) -> Tensor:
        """The sequence as a picture, uint8 [1, C, T]."""
        return (self.values.T[None] * BYTE).round().to(torch.uint8)


@dataclass(frozen=True, kw_only=True)
class SequenceBatch(Batch):
    """Sequences, ``images`` float32 [N, T, C, 1, 1], and what is to be said of each; or a part of their steps.

    ``truth``: classes int64 [N] or values float32 [N]. ``begin``: the first of these steps, ``whole``: all steps, T.
    """

    truth: Tensor
    begin: int = 0
    whole: int

    def between(self, begin: int, end: int) -> Self:
        """Steps begin to end - 1 of it."""
        return replace(self, images=self.images[:, begin:end], begin=self.begin + begin)


@dataclass(kw_only=True)
class SequenceDataset:
    """What the loader asks of a set; ``size`` is that of a step, px."""

    images: list[Path]
    seed: int = 0
    epoch: int = 0
    size: tuple[int, int] = (1, 1)
    unreadable: Unreadable = "stop"
    gaps: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    def set_epoch(self, epoch: int) -> None:
        """Which epoch's random choices plain ``dataset[i]`` shows."""
        self.epoch = epoch

    def shapes(self) -> list[tuple[int, int]]:
        """(height, width) of every sequence's steps."""
        return [self.size] * len(self)

    def __getitem__(self, request: int | SampleRequest) -> SequenceSample:
        """The sample of an index, or of the loader's request."""
        asked = request if isinstance(request, SampleRequest) else SampleRequest(int(request), self.epoch)
        values, truth = self.sequence(asked.index, asked.epoch)
        return SequenceSample(values, truth, asked.index)

    def sequence(self, index: int, epoch: int) -> tuple[Tensor, float | int]:
        """Values [T, C] and what is to be said of them."""
        raise NotImplementedError

    def collate(self, samples: Sequence[SequenceSample]) -> SequenceBatch:
        """One batch of samples, at least one."""
        values = torch.stack([sample.values for sample in samples])
        return SequenceBatch(
            images=values[..., None, None],
            truth=torch.tensor([sample.truth for sample in samples]),
            indices=tuple(sample.index for sample in samples),
            whole=values.shape[1],
        )


@dataclass(kw_only=True)
class AddingDataset(SequenceDataset):
    """T values of 0..1, two of them marked, one in each half; their sum is to be said.

    Those to train on are others each epoch, by (seed, epoch, index); those to measure on are always the same.
    """

    steps: int
    trains: bool

    def sequence(self, index: int, epoch: int) -> tuple[Tensor, float]:
        """See the class."""
        # an even first word: as (1, 1, index) training would see what is measured
        stream = (2 * self.seed, epoch, index) if self.trains else (MEASURED, index)
        rng = np.random.Generator(np.random.PCG64(stream))
        values, marks = rng.random(self.steps, np.float32), np.zeros(self.steps, np.float32)
        middle = self.steps // 2
        chosen = [rng.integers(middle), rng.integers(middle, self.steps)]
        marks[chosen] = 1
        return torch.from_numpy(np.stack((values, marks), 1)), float(values[chosen].sum())


@dataclass(kw_only=True)
class PictureSequences(SequenceDataset):
    """Pictures a px or a row a step; their class is to be said.

    ``pixels`` uint8 [N, T, C], in the order of the steps.
    """

    pixels: Tensor
    labels: list[int]

    def sequence(self, index: int, epoch: int) -> tuple[Tensor, int]:
        """The picture as it is."""
        return self.pixels[index].float() / BYTE, self.labels[index]


def make_dataset(
    manifest: Manifest, split: Path, order: str, *, steps: int, channels: int, seed: int, unreadable: Unreadable
) -> SequenceDataset:
    """The sequences of a split, for a network of so many steps and channels.

    Raises:
        InputError: the network takes others.
    """
    if is_adding(manifest.path):
        _check(split, (steps, MARKS), (steps, channels))
        length, trains = steps_of(manifest.path.name) or steps, split.name == TRAIN
        if trains and length != steps:
            raise InputError(
                f"--data {manifest.path}: a network is trained on as many steps as its cfg says, {steps}; leave "
                f":{length} away, or set timesteps={length} in [net]"
            )
        return AddingDataset(images=listed(split), seed=seed, steps=length, trains=trains)
    found = pictures_of(split)
    count, high, wide = found.images.shape
    shown = found.images if order == "rows" else found.images.reshape(count, high * wide, 1)
    if order == "permuted":
        shown = shown[:, np.random.Generator(np.random.PCG64(PERMUTATION)).permutation(high * wide)]
    _check(split, (shown.shape[1], shown.shape[2]), (steps, channels), f", {high}x{wide} px as order={order}")
    return PictureSequences(
        images=listed(split),
        seed=seed,
        pixels=torch.from_numpy(np.array(shown)),
        labels=found.labels.tolist(),
        unreadable=unreadable,
    )


def _check(split: Path, own: tuple[int, int], network: tuple[int, int], how: str = "") -> None:
    """Refuse sequences that are not as long and wide as the network is made for."""
    if own != network:
        raise InputError(
            f"{split.parent}: sequences of {own[0]} steps of {own[1]} values{how}, the network takes {network[0]} of "
            f"{network[1]}; set timesteps={own[0]} and channels={own[1]} in [net]"
        )
