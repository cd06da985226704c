"""One epoch of training, for any task: what is learned comes in as a loss."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from tqdm import tqdm

from utils.errors import InputError
from utils.training.device import Precision
from utils.training.distributed import Group
from utils.training.ema import Ema
from utils.training.schedule import Schedule, step_ends


class TrainingBatch(Protocol):
    """What a loader yields: uint8 images [N, C, H, W] and their numbers in the data set; the rest is the loss's."""

    images: Tensor
    indices: Any


# (outputs of the model in fp32, batch) -> terms, each a mean per image; "total" is what is minimised
Loss = Callable[[Any, Any], Mapping[str, Tensor]]


class Teacher(Protocol):
    """Further terms of the loss, from what another network makes of the same images."""

    def watching(self, model: nn.Module) -> AbstractContextManager[None]:
        """The context of the model's forward pass, in which the teacher may look at its features."""

    def __call__(self, images: Tensor, outputs: Any, batch: Any) -> Mapping[str, Tensor]:
        """Terms by name, each a mean per image; images in 0..1, outputs of the model in fp32."""

    def parameters(self) -> Sequence[nn.Parameter]:
        """What is trained along; the optimizer has them too."""


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


@dataclass(frozen=True, kw_only=True)
class EpochOptions:
    """How an epoch is run, beside the model and the data.

    Args:
        accumulate: batches an optimizer step sees; the gradient is the mean over all images of the step.
        penalty: called with the number of the step, once an optimizer step, when the gradients are final (unscaled,
            averaged, clipped): adds what it wants to them. Neither autocast nor accumulation scales it.
        clip: largest norm of the gradient; None leaves it alone.
        teacher: its terms are added to the loss, and told with it.
        group: the processes that share each batch; the loss that is told is the mean over all their images.
        shared: the model as `Group.wrap` made it, where there are several.
        begin: epochs of the run before the first one of the schedule.
    """

    accumulate: int = 1
    penalty: Callable[[int], None] | None = None
    clip: float | None = None
    teacher: Teacher | None = None
    group: Group = field(default_factory=Group)
    shared: nn.Module | None = None
    begin: int = 0


def train_one_epoch(
    model: nn.Module,
    loader: Iterable[Any],
    loss: Loss,
    optimizer: Optimizer,
    schedule: Schedule,
    *,
    epoch: int,
    precision: Precision,
    options: EpochOptions | None = None,
    ema: Ema | None = None,
    scaler: torch.amp.GradScaler | None = None,
) -> EpochResult:
    """Train on every batch of the loader once.

    Raises:
        InputError: a loss or a gradient is not finite; epoch, batch and images are named, and the weights are those
            from before that step.
    """
    options = options or EpochOptions()
    model.train()
    ends = step_ends(len(loader), options.accumulate)  # type: ignore[arg-type]
    first = (epoch - options.begin) * len(ends)
    result, step, seen = EpochResult(steps=len(ends)), first, 0
    began = time.perf_counter()
    optimizer.zero_grad(set_to_none=True)
    for number, batch in enumerate(_timed(loader, result, f"epoch {epoch + 1}"), start=1):
        place = f"epoch {epoch + 1}, batch {number}, images {_numbers(batch.indices)}"
        count = len(batch.images)
        terms = _forward(options.shared or model, batch, loss, precision, options.teacher)
        _add(result, terms, count, place)
        total = terms["total"] * count
        (scaler.scale(total) if scaler else total).backward()
        seen += count
        if number == ends[step - first]:
            schedule.apply(optimizer, step)
            _step(model, optimizer, scaler, options, seen=seen, step=step, place=place)
            if ema:
                ema.update(model)
            step, seen = step + 1, 0
    result.seconds = time.perf_counter() - began
    result.images = round(options.group.total(result.images))
    result.losses = {name: options.group.total(value) / max(1, result.images) for name, value in result.losses.items()}
    return result


def _forward(
    model: nn.Module, batch: TrainingBatch, loss: Loss, precision: Precision, teacher: Teacher | None
) -> Mapping[str, Tensor]:
    images = batch.images.to(precision.device, non_blocking=True)
    images = images.to(torch.float32, memory_format=torch.channels_last).div_(255)
    inner = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    with precision.autocast(), teacher.watching(inner) if teacher else nullcontext():
        outputs = _float(model(images))
    terms = loss(outputs, batch)
    if teacher is None:
        return terms
    taught = teacher(images, outputs, batch)
    return {**terms, **taught, "total": terms["total"] + sum(taught.values())}


def _float(outputs: Any) -> Any:
    """Outputs in fp32: a loss summed in bf16 would lose small terms."""
    return outputs.float() if isinstance(outputs, Tensor) else [_float(item) for item in outputs]


def _step(
    model: nn.Module,
    optimizer: Optimizer,
    scaler: torch.amp.GradScaler | None,
    options: EpochOptions,
    *,
    seen: int,
    step: int,
    place: str,
) -> None:
    """Make the summed gradient a mean over the ``seen`` images, add the penalty, step."""
    if scaler:
        scaler.unscale_(optimizer)
    parameters = [*model.parameters(), *(options.teacher.parameters() if options.teacher else ())]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    group = options.group  # DistributedDataParallel has left the processes' mean in the network's gradients
    group.add_gradients(options.teacher.parameters() if options.teacher else ())
    torch._foreach_div_(gradients, group.total(seen) / group.size)
    norm = nn.utils.get_total_norm(gradients)
    if not scaler and not torch.isfinite(norm):  # a scaler expects this now and then, and skips the step itself
        raise InputError(
            f"{place}: the gradient is {norm.item()}; lower --lr, or look at these images and their labels"
        )
    if options.clip is not None:
        nn.utils.clip_grads_with_norm_(parameters, options.clip, norm)
    if options.penalty:
        options.penalty(step)
    if scaler:
        scaler.step(optimizer)
        scaler.update()
    else:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)


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
