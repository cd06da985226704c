"""What the library's functions return."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models import Loaded, load_model
from utils.data.images import save_picture
from utils.quantization.integer import IntegerNetwork
from utils.reporting.record import Record
from utils.reporting.results import read_rows
from utils.task import Result


@dataclass(frozen=True)
class Made:
    """A network that was made: its file, and the record of the run that made it."""

    path: Path
    record: Record

    @cached_property
    def network(self) -> Loaded:
        """The network, ready to run and to be gone on with."""
        return load_model(self.path)

    @property
    def metrics(self) -> Mapping[str, Any]:
        """The record's numbers by name; where networks are compared, by moment and name."""
        return self.record.metrics


@dataclass(frozen=True)
class Trained(Made):
    """A training run: the network of the last epoch."""

    best: Path | None  # the file of the epoch that scored highest, where it was kept

    @property
    def epochs(self) -> list[dict[str, Any]]:
        """results.csv, an epoch a row."""
        return read_rows(self.record.folder / "results.csv")


@dataclass(frozen=True)
class Pruned(Made):
    """A smaller network; ``metrics`` holds the moments before, after, recalibrated and finetuned."""


@dataclass(frozen=True)
class Quantised(Made):
    """A network of integers; ``metrics`` holds float and quantised."""

    integer: IntegerNetwork


@dataclass(frozen=True)
class Converted(Made):
    """A spiking network; ``metrics`` holds a row for each network that was measured."""


@dataclass(frozen=True)
class Exported:
    """A folder for whoever builds with it; it verified before it got its name."""

    folder: Path
    record: Record


@dataclass(frozen=True)
class Detections:
    """What a network answers about a picture uint8 [H, W, C]; ``answer`` is its task's own."""

    image: NDArray[np.uint8]
    answer: Result
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def labels(self) -> list[int]:
        """The class of each, the surest first."""
        return self.answer.labels()

    @property
    def boxes(self) -> Tensor:
        """[n, 6] x1, y1, x2, y2 (px of the picture), score, class.

        Raises:
            TypeError: the network answers with something else than boxes.
        """
        boxes = getattr(self.answer, "boxes", None)
        if not isinstance(boxes, Tensor):
            raise TypeError(f"{type(self.answer).__name__}: has no boxes; see answer")
        return boxes

    def rows(self) -> list[dict[str, Any]]:
        """Each as in the file of --save-json: class, name, place, score."""
        return self.answer.rows(self.names)

    def draw(self) -> NDArray[np.uint8]:
        """The picture uint8 [H, W, 3] with the answer on it."""
        drawn: NDArray[np.uint8] = self.answer.draw(self.image, self.names)
        return drawn

    def save(self, path: str | Path) -> Path:
        """Write what `draw` gives."""
        save_picture(Path(path), self.draw())
        return Path(path)
