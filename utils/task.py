"""What a network is for: its data, its loss, its metric and its pictures, as one object that is handed in.

A cfg's last sections say which task a network has (``task_name``); utils/tasks.py knows the object of each name. No
room but the task's own assumes boxes, classes or masks: pruning, quantisation, spiking and reporting ask the task for
its numbers and for the words beside them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Unpack

import torch
from torch import Tensor, nn

from utils.darknet.network import State
from utils.darknet.spec import Classify, Detect, ModelSpec, Output, Segment, SequenceOutput
from utils.data.dataset import Reading
from utils.data.event_frames import FrameRule
from utils.data.manifest import Manifest
from utils.data.transforms import Letterbox
from utils.errors import InputError
from utils.reporting.facts import Column, TaskChart, TaskFacts
from utils.thresholds import Thresholds

Predictor = Callable[[Tensor], Sequence[Tensor]]  # [N, C, H, W] -> the raw map of every output layer, in cfg order
Loss = Callable[[Any, Any], Mapping[str, Tensor]]  # (raw maps in fp32, batch) -> terms; "total" is what is minimised


@dataclass(frozen=True)
class Timing:
    """Milliseconds per image, without loading: the network; what is made of its maps; all of it."""

    forward: float
    nms: float
    total: float

    @classmethod
    def of(cls, seconds: Sequence[float], images: int) -> Timing:
        """From the seconds that all images took: the network, what is made of its maps."""
        forward, after = (float(each) * 1000 / max(1, images) for each in seconds)
        return cls(forward, after, forward + after)


@contextmanager
def eval_mode(predictor: Predictor) -> Iterator[None]:
    """A module that is being trained must not evaluate with the batch's own statistics."""
    training = isinstance(predictor, nn.Module) and predictor.training
    if isinstance(predictor, nn.Module):
        predictor.eval()
    try:
        yield
    finally:
        if isinstance(predictor, nn.Module):
            predictor.train(training)


def clock(device: torch.device) -> float:
    """Seconds, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@dataclass(frozen=True)
class GoldenFile:
    """The answers beside golden vectors: the file's name, and its content for each image, for JSON."""

    name: str
    contents: tuple[dict[str, Any], ...]


class Metrics(Protocol):
    """How good a network is on a data set; what it was made from is the task's own affair."""

    def record(self) -> dict[str, float]:
        """The numbers of a run's record and of results.csv, by the names of the task's columns."""

    @property
    def timing(self) -> Timing:
        """Milliseconds an image."""


class Result(Protocol):
    """What a network answers about one picture, in the picture's own pixels."""

    def draw(self, image: Any, names: Sequence[str]) -> Any:
        """The picture uint8 [H, W, 3] with the answer on it."""

    def text(self, height: int, width: int) -> str:
        """The lines of a text file (--save-txt)."""

    def rows(self, names: Sequence[str]) -> list[dict[str, Any]]:
        """The entries of a results file (--save-json), without the picture's name."""

    def labels(self) -> list[int]:
        """The class of each answer, for counting."""

    def beside(self, stem: Path) -> list[Path]:
        """Files that hold the answer itself, written beside the drawing; ``stem`` has no suffix."""


class Task(Protocol):
    """One kind of problem.

    ``sample`` is the ``--data`` where nobody says one: the task's embedded sample set.
    ``primary`` names the number that decides best.pt; ``headline`` the one that ``--max-drop``, ``--percent auto``,
    ``--bits auto``, searches and curves go by. Both are names of ``columns``, and more is better. ``losses``
    are the terms of its loss, "total" first; ``charts`` draw what ``tables`` writes. ``pictures`` is what
    ``comparison`` and ``separate`` write to: a file and a folder of that name. ``answers`` and ``postprocessing`` are
    words: for what is counted in a picture, and for what follows the network. ``idle`` are fields of a script's config
    that cannot act for this task, and why. ``net_keys`` are keys of a cfg's [net] that its loss reads. ``confined``
    says why train.py and test.py alone have a use for its networks, "" where all scripts have. ``made`` names the sets
    that are no files.
    """

    name: str
    sample: str
    primary: str
    headline: str
    columns: tuple[Column, ...]
    losses: tuple[str, ...]
    charts: tuple[TaskChart, ...]
    pictures: str
    answers: str
    postprocessing: str
    idle: Mapping[str, str]
    net_keys: frozenset[str]
    confined: str
    made: frozenset[str]

    # data

    def open_data(self, place: str | Path) -> Manifest:
        """What ``--data`` names: a .data file, or a folder that is laid out as a set; the sample set is composed first.

        Raises:
            InputError: it is missing or contradicts itself.
        """

    def listed(self, place: Path) -> list[Path]:
        """What there is to train or to measure on, by name; ``place`` is a manifest's ``train`` or ``valid``.

        Raises:
            InputError: there is no such list, or nothing in it.
        """

    def label_file(self, image: Path, manifest: Manifest) -> Path:
        """The file, or folder, that says what is to be learned of an image, whether it is there or not."""

    def classes(self, spec: ModelSpec) -> int:
        """How many classes its outputs tell apart."""

    def check_classes(self, spec: ModelSpec, manifest: Manifest, place: str, names: Sequence[str] = ()) -> Manifest:
        """The data with its classes in the order of ``names``, those of the network's outputs; () where none are known.

        Raises:
            InputError: the data has other classes than the network's outputs (``place``: the network's file).
        """

    def dataset(
        self,
        manifest: Manifest,
        images: Path,
        size: tuple[int, int],
        *,
        augment: Any = False,
        cache: str = "auto",
        frames: FrameRule | None = None,
        **reading: Unpack[Reading],
    ) -> Any:
        """The images of a list with what is to be learned of them, for the loader.

        ``frames``: how a network that takes frames (input=frames) is shown a recording; None where it takes images.
        """

    def augmentation(self, manifest: Manifest, mosaic: float | None, *, mixup: float = 0.0, cutmix: float = 0.0) -> Any:
        """What ``dataset(augment=)`` takes for a training run: the manifest's strengths, and what flags say."""

    def inputs(self, batch: Any, device: torch.device) -> Tensor:
        """What the network takes of a batch: float32 [N, C, H, W], channels last, on the device."""

    # learning

    def loss(self, spec: ModelSpec, mean: Callable[[float], float] | None = None) -> Loss:
        """The loss of a network; ``mean`` averages a number over the processes that share each batch."""

    def adapt(self, spec: ModelSpec, manifest: Manifest, place: str, *, fresh: bool) -> ModelSpec:
        """The network for these classes: as it is, or (``fresh``, -pt) with new outputs.

        Raises:
            InputError: its outputs are for other classes, and ``fresh`` does not allow new ones.
        """

    def initial_state(self, spec: ModelSpec) -> State:
        """Tensors of fresh outputs that do not start as torch would start them."""

    # measuring

    def evaluate(
        self,
        predictor: Predictor,
        loader: Iterable[Any],
        spec: ModelSpec,
        names: Sequence[str],
        *,
        thresholds: Thresholds | None = None,
        device: str | torch.device = "cpu",
        progress: bool = True,
    ) -> Any:
        """Run a predictor over labelled images and measure it; returns the task's `Metrics`."""

    def merged(self, found: Any, names: Sequence[str], gather: Callable[[Sequence[Any]], list[Any]]) -> Any:
        """Metrics over the images of all processes, of this one's; ``gather`` lists what all have."""

    def distance(
        self, spec: ModelSpec, size: tuple[int, int], base: Sequence[Tensor]
    ) -> Callable[[Sequence[Tensor]], float]:
        """How far a network's raw maps are from ``base``, those of another on the same images."""

    # answering

    def postprocess(
        self, raw: Sequence[Tensor], spec: ModelSpec, letterboxes: Sequence[Letterbox], thresholds: Thresholds
    ) -> list[Result]:
        """Raw maps -> the answer about each picture of the batch."""

    def golden(self, raw: Sequence[Tensor], spec: ModelSpec, size: tuple[int, int], names: Sequence[str]) -> GoldenFile:
        """What a hand-off says the raw maps of its golden images mean: a file's name, its content for each image."""

    # showing

    def training_picture(self, path: Path, dataset: Any, names: Sequence[str]) -> Path:
        """The first training images as the first epoch changes them, with their labels."""

    def validation_picture(self, path: Path, dataset: Any, found: Any, names: Sequence[str], title: str) -> Path:
        """The first validation images: what is there beside what was found."""

    def comparison(self, path: Path, dataset: Any, measured: Mapping[str, Any], names: Sequence[str]) -> Path:
        """A sheet of validation images: the truth, then the answers of each network by its title."""

    def separate(self, folder: Path, dataset: Any, measured: Mapping[str, Any], names: Sequence[str]) -> list[Path]:
        """What ``comparison`` shows, each picture in a file of its own: ``<image>-<column>-<title>.jpg``."""

    def class_table(self, found: Any) -> str:
        """A row a class, all of them first."""

    def plots(self, folder: Path, measured: Mapping[str, Any], names: Sequence[str]) -> list[Path]:
        """The task's own curves and tables of a test, in files."""

    def tables(self, measured: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
        """The task's own tables for a report: file name -> rows, a column a network."""

    def results_json(self, path: Path, found: Any, images: Sequence[Path], manifest: Manifest | None = None) -> Path:
        """Answers in the field's results format, with the ids of the data's source where the manifest knows them."""


def task_name(spec: ModelSpec, place: str = "cfg") -> str:
    """Which task a network has, by its output layers.

    Raises:
        InputError: it has none.
    """
    outputs = [layer for layer in spec.layers if isinstance(layer, Output)]
    if not outputs:
        raise InputError(
            f"{place}: no output section, so nothing says what it is for; end it in [yolo] or [region] (boxes), "
            "[softmax] (classes), [segment] (masks) or [sequence]"
        )
    for kind, name in TASK_OF.items():
        if all(isinstance(layer, kind) for layer in outputs):
            return name
    kinds = sorted({f"[{type(layer).__name__.lower()}]" for layer in outputs})
    raise InputError(f"{place}: {' and '.join(kinds)} are no outputs of one task that is known; keep those of one")


def main_columns(task: Task) -> tuple[Column, ...]:
    """The columns that a table has where there is room for two: the headline's and the primary's."""
    return TaskFacts.of(task).main


TASK_OF: dict[type[Output], str] = {
    Detect: "detection",
    Classify: "classification",
    Segment: "segmentation",
    SequenceOutput: "sequences",
}
