"""How good masks are: the mean over classes of intersection over union, the share of pixels that are right."""

from __future__ import annotations

import functools
import logging
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from utils.darknet.spec import Segment
from utils.data.transforms import Letterbox
from utils.errors import InputError
from utils.segmentation.open_data import IGNORED
from utils.task import Predictor, Timing, clock, eval_mode

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MaskAnswer:
    """What was answered for an image: its number, the mask of the network's image, packed, and how that was fitted."""

    index: int
    packed: bytes
    letterbox: Letterbox

    @classmethod
    def of(cls, index: int, mask: NDArray[np.uint8], box: Letterbox) -> MaskAnswer:
        """A mask, packed: large parts of it are of one class."""
        return cls(index, zlib.compress(mask.tobytes(), 1), box)

    @property
    def mask(self) -> NDArray[np.uint8]:
        """uint8 [H, W] of the network's image."""
        return np.frombuffer(zlib.decompress(self.packed), np.uint8).reshape(self.letterbox.size)


@dataclass(frozen=True)
class MaskAnswers:
    """Those of some images, and their pixels counted: int64 [classes, classes], rows predicted, columns true."""

    confusion: NDArray[np.int64]
    images: tuple[MaskAnswer, ...]


@dataclass(frozen=True, kw_only=True)
class MaskMetrics:
    """The worth of masks on a data set, and what it was made from; px are those of the network's image.

    ``iou`` is each class's, nan where neither the truth nor an answer has a pixel of it.
    """

    miou: float
    accuracy: float
    balanced: float
    iou: tuple[float, ...]
    answers: MaskAnswers
    timing: Timing
    names: tuple[str, ...]

    def record(self) -> dict[str, float]:
        """The numbers of a run's record, by their names there."""
        return {"miou": self.miou, "accuracy": self.accuracy, "balanced": self.balanced}


def scores_of(raw: Sequence[Tensor], output: Segment) -> Tensor:
    """Raw map [N, classes, h, w] -> scores of every pixel, [N, classes, h * factor, w * factor], bilinear."""
    values = raw[-1].float()
    if output.factor == 1:
        return values
    return F.interpolate(values, scale_factor=output.factor, mode="bilinear", align_corners=False)


def enlarged(raw: Sequence[Tensor], output: Segment) -> Tensor:
    """What ``scores_of`` gives, but for the last bits, by two products of matrices.

    Training needs its gradient, which takes a quarter of the time of that of torch's interpolation.
    """
    values = raw[-1].float().contiguous()  # classes apart in memory, as cross entropy wants them
    down, across = (_weights(side, output.factor).to(values) for side in values.shape[2:])
    return (down.T @ values) @ across


def _weights(side: int, factor: int) -> Tensor:
    """Of ``side`` values in each of ``side * factor`` enlarged ones, [side, side * factor]."""
    return F.interpolate(torch.eye(side)[None], scale_factor=factor, mode="linear", align_corners=False)[0]


def truth_of(masks: Tensor, output: Segment) -> Tensor:
    """Masks uint8 [N, H, W] as int64, with 255 for what does not count.

    Raises:
        InputError: a number is neither a class nor what is ignored.
    """
    truth = torch.where(masks == output.ignore, IGNORED, masks)  # in bytes as long as can be
    wrong = (truth >= output.classes) & (truth != IGNORED)
    if bool(wrong.any()):
        number = int(truth[wrong][0])
        fact = f"masks: number {number} is none of {output.classes} classes"
        remedy = f"let the cfg's [segment] say ignore={number}, or correct the masks"
        if output.ignore != IGNORED:  # it has its number already
            fact, remedy = f"{fact}, nor the {output.ignore} that [segment] ignores", "make it 255, or name its class"
        raise InputError(f"{fact}; {remedy} (python3 -m utils.data check says where it is)")
    return truth.long()


def check_sizes(scores: Tensor, size: Sequence[int], output: Segment) -> None:
    """Refuse scores of another size than the image's.

    Raises:
        InputError: factor= of [segment] is not the network's stride.
    """
    if tuple(scores.shape[2:]) != tuple(size):
        raise InputError(
            f"cfg line {output.line}: [segment] with factor={output.factor} gives {scores.shape[2]}x{scores.shape[3]} "
            f"px of an image of {size[0]}x{size[1]}; set factor= to the stride of the map it reads"
        )


def evaluate(
    predictor: Predictor,
    loader: Iterable[Any],
    output: Segment,
    names: Sequence[str],
    *,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> MaskMetrics:
    """Run a predictor over images with masks and measure it; a module is put into eval mode meanwhile."""
    device, seconds, found = torch.device(device), np.zeros(2), []
    table = np.zeros((output.classes, output.classes), np.int64)
    with eval_mode(predictor), torch.no_grad():
        for batch in tqdm(loader, desc="evaluate", disable=None if progress else True, leave=False, delay=2):
            began = clock(device)
            images = batch.images.to(device, memory_format=torch.channels_last).float() / 255
            with torch.inference_mode():
                raw = predictor(images)
            between = clock(device)
            scores = scores_of(raw, output)
            check_sizes(scores, images.shape[2:], output)
            masks = scores.argmax(1).to(torch.uint8).cpu()
            seconds += between - began, clock(device) - between
            table += pixels(masks, truth_of(batch.masks.cpu(), output), output.classes)
            rows = zip(batch.indices, masks.numpy(), batch.letterboxes, strict=True)
            found += [MaskAnswer.of(int(index), mask, box) for index, mask, box in rows]
    seen = np.flatnonzero(table.sum(0)).tolist()
    if len(seen) < 2 <= output.classes:
        _warn(f"every pixel that counts is '{names[seen[0]]}'" if seen else "no pixel counts")
    return measure(MaskAnswers(table, tuple(found)), names, timing=Timing.of(seconds.tolist(), len(found)))


@functools.cache
def _warn(fact: str) -> None:
    log.warning("masks to validate on: %s, so the scores say nothing; python3 -m utils.data check looks at them", fact)


def pixels(masks: Tensor, truth: Tensor, classes: int) -> NDArray[np.int64]:
    """Pixels of every class that are taken for every class: [classes, classes], rows predicted, columns true."""
    known = truth != IGNORED
    places = masks[known].long() * classes + truth[known]
    return torch.bincount(places, minlength=classes**2).view(classes, classes).numpy()


def measure(answers: MaskAnswers, names: Sequence[str], *, timing: Timing) -> MaskMetrics:
    """The metrics of answers that have been made already.

    IoU of a class: pixels that both have over those that either has (Everingham et al., IJCV 2015, section 4.4), over
    the whole set; the mean leaves out classes that neither has.
    """
    table = answers.confusion
    right, answered, true = table.diagonal(), table.sum(1), table.sum(0)
    union = answered + true - right
    with np.errstate(invalid="ignore"):
        iou, recall = right / union, right / true
    return MaskMetrics(
        miou=float(iou[union > 0].mean()) if union.any() else 0.0,
        accuracy=float(right.sum() / max(1, table.sum())),
        balanced=float(recall[true > 0].mean()) if true.any() else 0.0,
        iou=tuple(iou.tolist()),
        answers=answers,
        timing=timing,
        names=tuple(names),
    )


def joined(parts: Sequence[MaskAnswers]) -> MaskAnswers:
    """The answers of several processes as one, in the order of the data set."""
    images = sorted((image for part in parts for image in part.images), key=lambda image: image.index)
    return MaskAnswers(np.sum([part.confusion for part in parts], axis=0), tuple(images))
