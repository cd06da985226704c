"""How good a network of sequences is: top-1 of classes, squared error of values; at the end, and at each step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from utils.darknet.spec import SequenceOutput
from utils.task import Predictor, Timing, clock, eval_mode

KEPT = 8  # sequences, the first ones, whose answers at every step are kept for pictures


@dataclass(frozen=True)
class SequenceAnswers:
    """What was answered, sequence by sequence.

    ``truth`` is int64 [N] or float32 [N], ``last`` float32 [N, C] of the last step. ``course`` float64 [T]: at each
    step the number of right answers, or the sum of squared errors. ``steps``: of the first sequences, [T, C] by number.
    """

    indices: tuple[int, ...]
    truth: Tensor
    last: Tensor
    course: Tensor
    steps: dict[int, Tensor]


@dataclass(frozen=True, kw_only=True)
class SequenceMetrics:
    """The worth of a network on a set of sequences: ``numbers`` by name, and what they were made from."""

    numbers: dict[str, float]
    answers: SequenceAnswers
    timing: Timing

    def record(self) -> dict[str, float]:
        """The numbers of a run's record, by their names there."""
        return dict(self.numbers)

    @property
    def course(self) -> list[float]:
        """Of each step: share that is right there, or the mean squared error."""
        return (self.answers.course / max(1, len(self.answers.indices))).tolist()


def readings(raw: Sequence[Tensor]) -> Tensor:
    """The output's map [N, T, C, 1, 1] -> [N, T, C]."""
    return raw[-1].float().flatten(2)


def evaluate(
    predictor: Predictor,
    loader: Iterable[Any],
    output: SequenceOutput,
    *,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> SequenceMetrics:
    """Run a predictor over sequences whose truth is known and measure it."""
    device, seconds = torch.device(device), np.zeros(2)
    parts = []
    with eval_mode(predictor), torch.no_grad():
        for batch in tqdm(loader, desc="evaluate", disable=None if progress else True, leave=False, delay=2):
            began = clock(device)
            with torch.inference_mode():
                raw = predictor(batch.images.to(device))
            between = clock(device)
            parts.append(_answers(readings(raw).cpu(), batch, output))
            seconds += between - began, clock(device) - between
    if not parts:  # a process of several may have no sequence
        nothing = SequenceAnswers((), torch.empty(0), torch.empty(0, 0), torch.empty(0), {})
        return SequenceMetrics(numbers={}, answers=nothing, timing=Timing.of(seconds.tolist(), 0))
    answers = joined(parts)
    return measure(answers, output, timing=Timing.of(seconds.tolist(), len(answers.indices)))


def _answers(found: Tensor, batch: Any, output: SequenceOutput) -> SequenceAnswers:
    truth = batch.truth.cpu()
    if output.predicts == "value":
        course = (found[..., 0] - truth[:, None]).double().square().sum(0)
    else:
        course = (found.argmax(2) == truth[:, None]).double().sum(0)
    steps = {index: found[n].clone() for n, index in enumerate(batch.indices) if index < KEPT}
    return SequenceAnswers(tuple(batch.indices), truth, found[:, -1].clone(), course.clone(), steps)


def measure(answers: SequenceAnswers, output: SequenceOutput, *, timing: Timing) -> SequenceMetrics:
    """The metrics of answers that have been made already.

    R2 = 1 - MSE / variance of the truth: more is better, 0 is who always says the mean (Wright, 1921).
    """
    if output.predicts == "value":
        error = float((answers.last[:, 0] - answers.truth).double().square().mean())
        spread = float(answers.truth.double().var(correction=0))
        numbers = {"r2": 1 - error / spread if spread else 0.0, "mse": error}
    else:
        right = answers.last.argmax(1) == answers.truth
        numbers = {"top1": float(right.double().mean()), "balanced": _balanced(right, answers.truth)}
    return SequenceMetrics(numbers=numbers, answers=answers, timing=timing)


def _balanced(right: Tensor, truth: Tensor) -> float:
    """The mean of the classes' shares that are right."""
    return float(torch.stack([right[truth == label].double().mean() for label in truth.unique()]).mean())


def joined(parts: Sequence[SequenceAnswers]) -> SequenceAnswers:
    """Parts of the answers, of batches or processes, as one, in the order of the data set."""
    parts = [part for part in parts if part.indices]
    indices = [index for part in parts for index in part.indices]
    order = sorted(range(len(indices)), key=indices.__getitem__)
    return SequenceAnswers(
        tuple(indices[n] for n in order),
        torch.cat([part.truth for part in parts])[order],
        torch.cat([part.last for part in parts])[order],
        torch.stack([part.course for part in parts]).sum(0),
        {index: value for part in parts for index, value in part.steps.items()},
    )
