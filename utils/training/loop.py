"""One epoch of training, for any task and any update: what is learned comes in as a loss."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from utils.errors import InputError
from utils.training.schedule import step_ends
from utils.training.update import Loss, Update


@dataclass(kw_only=True)
class EpochResult:
    """Means of the loss terms over the images of an epoch, and how fast it went."""

    losses: dict[str, float] = field(default_factory=dict)
    images: int = 0
    steps: int = 0
    seconds: float = 0.0
    waiting: float = 0.0  # seconds of those that went into waiting for data

    @property
    def images_per_second(self) -> float:
        """Throughput, waiting included."""
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def wait_share(self) -> float:
        """Share of the time that was waiting for data."""
        return self.waiting / self.seconds if self.seconds else 0.0


def train_one_epoch(loader: Iterable[Any], loss: Loss, update: Update, *, epoch: int, begin: int = 0) -> EpochResult:
    """Train on every batch of the loader once.

    Args:
        loader: yields batches with ``images`` [N, ...] and ``indices``, their numbers in the data set.
        loss: of the update's model.
        update: makes steps of gradients.
        epoch: of the run, counted from 0.
        begin: epochs of the run before the first one of the update's schedule.

    Raises:
        InputError: a loss or a gradient is not finite; epoch, batch and images are named, and the weights are those
            from before that step.
    """
    ends = step_ends(len(loader), update.accumulate)  # type: ignore[arg-type]
    first = (epoch - begin) * len(ends)
    result, step, seen = EpochResult(steps=len(ends)), first, 0
    began = time.perf_counter()
    update.begin()
    for number, batch in enumerate(_timed(loader, result, f"epoch {epoch + 1}"), start=1):
        place = f"epoch {epoch + 1}, batch {number}, images {_numbers(batch.indices)}"
        count = len(batch.images)
        terms = update.learn(batch, loss, place)
        _add(result, terms, count, place)
        update.backward(terms, count)
        seen += count
        if number == ends[step - first]:
            update.step(step, seen, place)
            step, seen = step + 1, 0
    result.seconds = time.perf_counter() - began
    result.images = round(update.group.total(result.images))
    result.losses = {name: update.group.total(value) / max(1, result.images) for name, value in result.losses.items()}
    return result


def _add(result: EpochResult, terms: Mapping[str, Tensor], count: int, place: str) -> None:
    values = {name: float(value.detach()) for name, value in terms.items()}
    if not torch.isfinite(torch.tensor(values["total"])):
        message = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        raise InputError(f"{place}: the loss is not finite ({message}); lower --lr, or look at these images and labels")
    for name, value in values.items():
        result.losses[name] = result.losses.get(name, 0.0) + value * count
    result.images += count


def _numbers(indices: Any) -> str:
    return ", ".join(str(int(number)) for number in indices)


def _timed(loader: Iterable[Any], result: EpochResult, title: str) -> Iterator[Any]:
    """The loader's batches, the time spent waiting for each added to the result."""
    bar = tqdm(total=len(loader), desc=title, leave=False, disable=None, mininterval=0.5)  # type: ignore[arg-type]
    with bar:
        batches = iter(loader)
        while True:
            asked = time.perf_counter()
            batch = next(batches, None)
            result.waiting += time.perf_counter() - asked
            if batch is None:
                return
            yield batch
            bar.update()
            mean = result.losses.get("total", 0.0) / max(1, result.images)
            bar.set_postfix_str(f"loss {mean:.3f}", refresh=False)


def is_stale(rows: Sequence[Mapping[str, Any]], name: str, patience: int | None) -> bool:
    """Whether the last of these epochs was measured, and the best value of ``name`` is ``patience`` epochs old."""
    if patience is None or not rows or rows[-1][name] is None:
        return False
    best = max((row[name], row["epoch"]) for row in rows if row[name] is not None)
    return bool(rows[-1]["epoch"] - best[1] >= patience)
