"""What a model learns with: optimizer, schedule, average of the weights, and the options of its epochs."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

from pipeline.training.quantised import Model, timed
from pipeline.training.sparsity import bound, penalty_of
from pipeline.training.stages import BitStage
from pipeline.training.teacher import DistillationContext, add_helpers
from utils.data.loader import Loader
from utils.quantization.fake import is_observer
from utils.training.device import Precision
from utils.training.distributed import Group, synchronised
from utils.training.ema import Ema
from utils.training.loop import EpochOptions
from utils.training.optim import make_optimizer
from utils.training.schedule import Schedule, step_ends

NOMINAL_BATCH = 64  # images an optimizer step, when the cfg does not say
STEPS = 10  # an epoch of a small set has at least so many: batches made for COCO would leave it two
WARMUP = 0.1  # of the steps
CLIP = 20.0  # ten times a usual gradient's norm: against a single batch that explodes


def learner_of(
    args: argparse.Namespace, made: Model, stage: BitStage, train: Loader, precision: Precision, group: Group
) -> dict[str, Any]:
    """The parts of a `Run` that belong to its model: optimizer, schedule, average."""
    made = synchronised(made) if args.sync_bn and group.size > 1 else made  # type: ignore[assignment]
    model: Model = precision.place(made)  # type: ignore[assignment]
    nominal = model.spec.batch if model.spec.batch > 1 else NOMINAL_BATCH
    accumulate = max(1, min(round(nominal / train.batch_size), len(train) // STEPS))
    steps = (stage.end - stage.begin) * len(step_ends(len(train), accumulate))
    schedule = Schedule(steps=steps, warmup=round(WARMUP * steps))
    penalty = bound(penalty_of(args, model.spec, schedule, args.lr), model, schedule)
    return {
        "model": model,
        "ema": average(model, steps) if args.ema else None,
        "optimizer": make_optimizer(model, lr=args.lr, adam=args.adam),
        "scaler": precision.scaler(),
        "schedule": schedule,
        "options": EpochOptions(
            accumulate=accumulate,
            penalty=timed(model, penalty, steps),
            clip=CLIP,
            group=group,
            shared=group.wrap(model),
            begin=stage.begin,
        ),
    }


def with_teacher(learner: dict[str, Any], teaching: DistillationContext | None, lr: float) -> dict[str, Any]:
    """The same with what a teacher trains along."""
    add_helpers(learner["optimizer"], teaching, lr)
    return learner | {"options": replace(learner["options"], teacher=teaching)}


def average(model: Model, steps: int) -> Ema:
    """The weights' average over about the last tenth of the run, or the customary 10,000 steps of a long one."""
    decay, ramp = max(0.0, min(0.9999, 1 - 10 / steps)), min(2000.0, steps / 10)
    return Ema(model, decay=decay, ramp=ramp, copied=is_observer)
