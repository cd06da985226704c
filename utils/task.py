"""What a network is for: its data, its loss, its metric and its pictures, as one object that is handed in.

A cfg's last sections say which task a network has (``task_name``); pipeline/tasks.py knows the object of each name. No
room but the task's own assumes boxes, classes or masks: pruning, quantisation, spiking and reporting ask the task for
its numbers and for the words beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from utils.darknet.network import State
from utils.darknet.spec import Detect, ModelSpec, Output
from utils.errors import InputError

Predictor = Callable[[Tensor], Sequence[Tensor]]  # [N, C, H, W] -> the raw map of every output layer, in cfg order
Loss = Callable[[Any, Any], Mapping[str, Tensor]]  # (raw maps in fp32, batch) -> terms; "total" is what is minimised
Unreadable = Literal["stop", "replace", "drop"]


@dataclass(frozen=True)
class Column:
    """A number of a task as tables, curves and reports show it.

    ``heading`` heads a column (mAP@.5), ``title`` is a sentence's words for it, ``digits`` follow the point. A
    ``share`` is told in points (hundredths) where two networks are compared.
    """

    name: str
    heading: str
    title: str
    digits: int = 4
    share: bool = True


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """What counts as an answer: scores above ``confidence``; answers that overlap more than ``overlap`` are one."""

    confidence: float = 0.001
    overlap: float = 0.6
    agnostic: bool = False
    classes: tuple[int, ...] | None = None


class Metrics(Protocol):
    """How good a network is on a data set."""

    def record(self) -> dict[str, float]:
        """The numbers of a run's record and of results.csv, by the names of the task's columns."""


class Task(Protocol):
    """One kind of problem.

    ``primary`` names the number that decides best.pt; ``headline`` the one that ``--max-drop``, ``--percent auto``,
    ``--bits auto``, searches and curves go by. Both are names of ``columns``, and more is better.
    """

    name: str
    primary: str
    headline: str
    columns: tuple[Column, ...]

    def dataset(
        self,
        manifest: Any,
        images: Path,
        size: tuple[int, int],
        *,
        augment: Any = False,
        cache: str = "auto",
        seed: int = 0,
        channels: int = 3,
        grey: bool = False,
        unreadable: Unreadable = "stop",
    ) -> Any:
        """The images of a list with what is to be learned of them, for the loader."""

    def inputs(self, batch: Any, device: torch.device) -> Tensor:
        """What the network takes of a batch: float32 [N, C, H, W], channels last, on the device."""

    def loss(self, spec: ModelSpec, mean: Callable[[Tensor], Tensor] | None = None) -> Loss:
        """The loss of a network; ``mean`` averages a number over the processes that share each batch."""

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
    ) -> Metrics:
        """Run a predictor over labelled images and measure it."""

    def adapt(self, spec: ModelSpec, classes: int) -> ModelSpec:
        """The same network with fresh outputs for another number of classes (-pt)."""

    def initial_state(self, spec: ModelSpec) -> State:
        """Tensors of fresh outputs that do not start as torch would start them."""


def task_name(spec: ModelSpec, place: str = "cfg") -> str:
    """Which task a network has, by its output layers.

    Raises:
        InputError: it has none.
    """
    outputs = [layer for layer in spec.layers if isinstance(layer, Output)]
    if not outputs:
        raise InputError(f"{place}: no [yolo] or [region] layer, so nothing says what it is for; add its heads")
    if all(isinstance(layer, Detect) for layer in outputs):
        return "detection"
    raise InputError(f"{place}: [{type(outputs[-1]).__name__.lower()}] is not an output that a task knows")
