"""How good a classifier is: top-1, top-5, the mean of the classes' accuracies, which class is taken for which."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from utils.darknet.spec import Softmax
from utils.data.transforms import as_inputs
from utils.task import Predictor, Timing, clock, eval_mode

TOP = 5


@dataclass(frozen=True)
class ClassAnswers:
    """What was answered: the images' numbers, their classes int64 [N], the probabilities float32 [N, classes]."""

    indices: tuple[int, ...]
    labels: Tensor
    probabilities: Tensor


@dataclass(frozen=True, kw_only=True)
class ClassificationMetrics:
    """The worth of a classifier on a data set, and what it was made from.

    ``confusion`` int64 [classes, classes], rows predicted, columns true.
    """

    top1: float
    top5: float
    balanced: float
    confusion: NDArray[np.int64]
    answers: ClassAnswers
    timing: Timing
    names: tuple[str, ...]

    def record(self) -> dict[str, float]:
        """The numbers of a run's record, by their names there."""
        return {"top1": self.top1, "top5": self.top5, "balanced": self.balanced}


def scores_of(raw: Sequence[Tensor], output: Softmax) -> Tensor:
    """Raw map [N, classes, h, w] -> scores [N, classes]: the mean over the map, over the temperature."""
    return raw[-1].float().mean((2, 3)) / output.temperature


def probabilities(raw: Sequence[Tensor], output: Softmax) -> Tensor:
    """Raw map -> [N, classes]; the sum is 1 in each of the output's groups."""
    return scores_of(raw, output).unflatten(1, (output.groups, -1)).softmax(-1).flatten(1)


def evaluate(
    predictor: Predictor,
    loader: Iterable[Any],
    output: Softmax,
    names: Sequence[str],
    *,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> ClassificationMetrics:
    """Run a predictor over labelled images and measure it; a module is put into eval mode meanwhile."""
    device, seconds = torch.device(device), np.zeros(2)
    indices: list[int] = []
    labels, found = [torch.empty(0, dtype=torch.long)], [torch.empty(0, len(names))]  # a process may have no image
    with eval_mode(predictor), torch.no_grad():
        for batch in tqdm(loader, desc="evaluate", disable=None if progress else True, leave=False, delay=2):
            began = clock(device)
            images = as_inputs(batch.images, device)
            with torch.inference_mode():
                raw = predictor(images)
            between = clock(device)
            found.append(probabilities(raw, output).cpu())
            seconds += between - began, clock(device) - between
            indices += batch.indices
            labels.append(batch.labels.cpu())
    answers = ClassAnswers(tuple(indices), torch.cat(labels), torch.cat(found).clone())
    return measure(answers, names, timing=Timing.of(seconds.tolist(), len(indices)))


def measure(answers: ClassAnswers, names: Sequence[str], *, timing: Timing) -> ClassificationMetrics:
    """The metrics of answers that have been made already.

    Of equal probabilities the lower class comes first, so a network that knows nothing has no luck.
    """
    order = answers.probabilities.argsort(dim=1, descending=True, stable=True)[:, :TOP]
    right = order == answers.labels[:, None]
    table = np.zeros((len(names), len(names)), np.int64)
    np.add.at(table, (order[:, 0].numpy(), answers.labels.numpy()), 1)
    truth = table.sum(0)
    known = truth > 0
    images = max(1, len(answers.labels))
    return ClassificationMetrics(
        top1=int(right[:, 0].sum()) / images,
        top5=int(right.any(1).sum()) / images,
        balanced=float((table.diagonal()[known] / truth[known]).mean()) if known.any() else 0.0,
        confusion=table,
        answers=answers,
        timing=timing,
        names=tuple(names),
    )


def joined(parts: Sequence[ClassAnswers]) -> ClassAnswers:
    """The answers of several processes as one, in the order of the data set."""
    indices = [index for part in parts for index in part.indices]
    order = sorted(range(len(indices)), key=indices.__getitem__)
    labels, found = (torch.cat(each)[order] for each in zip(*((p.labels, p.probabilities) for p in parts), strict=True))
    return ClassAnswers(tuple(indices[i] for i in order), labels, found)
