"""What a model learns with: optimizer, schedule, average of the weights, and how its steps are made.

Decay is for what multiplies features; what scales or shifts them has none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from utils.training.device import Precision
from utils.training.distributed import Group
from utils.training.ema import Ema
from utils.training.fptt import Fptt, FpttOptions
from utils.training.schedule import STEPS, Schedule, step_ends
from utils.training.sync_norm import synchronised
from utils.training.update import Backprop, Inputs, Teacher, UpdateOptions

NOMINAL_BATCH = 64  # images an optimizer step, when the cfg does not say
WARMUP = 0.1  # of the steps
CLIP = 20.0  # ten times a usual gradient's norm: against a single batch that explodes
STEP_SHARE = 0.01  # of the rate, for scales under Adam, whose steps are as large as the rate; scales are hundredths
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


def parameter_groups(model: nn.Module, *, decay: float) -> list[dict[str, Any]]:
    """Groups: ``weight`` (kernels, with decay), ``scale`` (BN gammas), ``bias``, and ``step`` (learned grids), without.

    Gammas carry no decay: next to an L1 penalty it would only blur which of them are wanted. Frozen parameters and
    empty groups are left out.
    """
    groups: dict[str, list[nn.Parameter]] = {"weight": [], "scale": [], "bias": [], "step": []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            kind = {"bias": "bias", "scale": "step"}.get(name.rpartition(".")[2])
            groups[kind or ("weight" if parameter.ndim > 1 else "scale")].append(parameter)
    return [
        {"name": kind, "params": found, "weight_decay": decay if kind == "weight" else 0.0}
        for kind, found in groups.items()
        if found
    ]


def make_optimizer(
    model: nn.Module, *, lr: float, adam: bool = False, momentum: float = 0.937, decay: float = 5e-4
) -> Optimizer:
    """SGD with Nesterov momentum, or AdamW; ``initial_lr`` of every group is the full rate the schedule scales."""
    groups = parameter_groups(model, decay=decay)
    optimizer: Optimizer = (
        torch.optim.AdamW(groups, lr=lr, betas=(momentum, 0.999), fused=True)
        if adam
        else torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=True, fused=True)
    )
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] = lr * STEP_SHARE if adam and group["name"] == "step" else lr
    return optimizer


def add_group(optimizer: Optimizer, name: str, parameters: Sequence[nn.Parameter], *, lr: float) -> None:
    """Give the optimizer parameters that stand outside of the network, without decay."""
    group = {"name": name, "params": list(parameters), "weight_decay": 0.0}
    optimizer.add_param_group({**group, "lr": lr, "initial_lr": lr})
