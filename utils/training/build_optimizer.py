"""What a model learns with: optimizer, schedule, average of the weights, and how its steps are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from utils.training.device import Precision
from utils.training.distributed import Group, synchronised
from utils.training.ema import Ema
from utils.training.fptt import Fptt, FpttOptions
from utils.training.optim import add_group, make_optimizer
from utils.training.schedule import Schedule, step_ends
from utils.training.update import Backprop, Inputs, Teacher, UpdateOptions

NOMINAL_BATCH = 64  # images an optimizer step, when the cfg does not say
STEPS = 10  # an epoch of a small set has at least so many: batches made for COCO would leave it two
WARMUP = 0.1  # of the steps
CLIP = 20.0  # ten times a usual gradient's norm: against a single batch that explodes
HELPERS_SHARE = 0.1  # of the rate: adapters have no batch norm, and SGD at a detector's rate would drive them apart

Penalty = Callable[[int], None] | None


@dataclass(frozen=True, kw_only=True)
class Learning:
    """How a run learns.

    ``batches`` of ``batch_size`` images are an epoch, ``nominal`` images an optimizer step where the set is large
    enough; ``copied`` names tensors of which an average makes no sense. ``cycle`` is the first cosine's share of the
    steps, each further one is ``lengthen`` times as long (0: one cosine for all).
    """

    lr: float
    epochs: int
    batches: int
    batch_size: int
    nominal: int = NOMINAL_BATCH
    adam: bool = False
    ema: bool = True
    sync_bn: bool = False
    fptt: FpttOptions | None = None  # forward through time instead of back; the average of the weights is its own
    copied: Callable[[str], bool] = lambda name: False
    cycle: float = 0.0
    lengthen: int = 2

    @property
    def accumulate(self) -> int:
        """Batches that an optimizer step sees."""
        return 1 if self.fptt else max(1, min(round(self.nominal / self.batch_size), self.batches // STEPS))

    @property
    def schedule(self) -> Schedule:
        """Of all epochs."""
        steps = self.epochs * len(step_ends(self.batches, self.accumulate))
        cycle = round(self.cycle * steps)
        return Schedule(steps=steps, warmup=round(WARMUP * steps), cycle=cycle, lengthen=self.lengthen)


def nominal_batch(batch: int) -> int:
    """Images an optimizer step sees: the cfg's ``batch`` where it is that of a training, or the customary number."""
    return batch if batch > 1 else NOMINAL_BATCH


def build_update(
    made: nn.Module,
    inputs: Inputs,
    how: Learning,
    *,
    precision: Precision,
    group: Group,
    penalty_of: Callable[[nn.Module, Schedule], Penalty],
) -> Backprop:
    """The update of a fresh run of a model.

    Args:
        made: the model, wherever it is; the update's own is on the device.
        inputs: what it takes of a batch.
        how: rate, length, and what else a run decides.
        precision: device and type.
        group: the processes that share each batch.
        penalty_of: what is called once a step, with its number.
    """
    made = synchronised(made) if how.sync_bn and group.size > 1 else made
    model = precision.place(made)
    schedule = how.schedule
    penalty = penalty_of(model, schedule)
    parts: dict[str, Any] = {
        "model": model,
        "inputs": inputs,
        "schedule": schedule,
        "precision": precision,
        "optimizer": make_optimizer(model, lr=how.lr, adam=how.adam),
        "options": UpdateOptions(
            accumulate=how.accumulate, penalty=penalty, clip=CLIP, group=group, shared=group.wrap(model)
        ),
        "scaler": precision.scaler(),
    }
    if how.fptt:
        return Fptt(**parts, fptt=how.fptt)
    return Backprop(**parts, ema=average(model, schedule.steps, how.copied) if how.ema else None)


def average(model: nn.Module, steps: int, copied: Callable[[str], bool]) -> Ema:
    """The weights' average over about the last tenth of the run, or the customary 10,000 steps of a long one."""
    decay, ramp = max(0.0, min(0.9999, 1 - 10 / steps)), min(2000.0, steps / 10)
    return Ema(model, decay=decay, ramp=ramp, copied=copied)


def add_teacher(update: Backprop, teacher: Teacher | None, lr: float | None) -> None:
    """Let a teacher's terms, and what trains along with it at a share of the rate, take part in the steps."""
    update.options = replace(update.options, teacher=teacher)
    if teacher and lr and teacher.parameters():
        rate = lr * HELPERS_SHARE if isinstance(update.optimizer, torch.optim.SGD) else lr
        add_group(update.optimizer, "teacher", teacher.parameters(), lr=rate)
