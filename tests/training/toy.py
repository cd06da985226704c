"""A toy task: a classifier of 12 tiny images, small enough that a run takes milliseconds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from utils.training.build_optimizer import make_optimizer
from utils.training.device import Precision
from utils.training.loop import EpochResult, train_one_epoch
from utils.training.resume import Progress, capture, restore
from utils.training.schedule import Schedule, step_ends
from utils.training.update import Backprop, UpdateOptions

CPU = Precision(torch.device("cpu"))


@dataclass
class ToyBatch:
    images: torch.Tensor
    labels: torch.Tensor
    indices: list[int]


class ToyLoader:
    """Batches in an order that depends on (seed, epoch) only."""

    def __init__(self, images: int = 12, batch: int = 4, classes: int = 3) -> None:
        maker = torch.Generator().manual_seed(0)
        self.images = torch.randint(0, 256, (images, 3, 8, 8), generator=maker, dtype=torch.uint8)
        self.labels = torch.randint(0, classes, (images,), generator=maker)
        self.batch, self.epoch = batch, 0

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch)

    def __iter__(self):
        order = torch.randperm(len(self.images), generator=torch.Generator().manual_seed(self.epoch))
        for chosen in order.split(self.batch):
            yield ToyBatch(self.images[chosen], self.labels[chosen], chosen.tolist())


def toy_model(bn: bool = True, dropout: float = 0.0) -> nn.Sequential:
    """Convolution, batch norm, dropout and a linear head; always the same start."""
    torch.manual_seed(7)
    norm: nn.Module = nn.BatchNorm2d(4) if bn else nn.Identity()
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.Dropout(dropout), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)
    )


def toy_loss(outputs, batch) -> dict[str, torch.Tensor]:
    """Cross entropy, a mean per image."""
    total = F.cross_entropy(outputs, batch.labels)
    return {"total": total}


def toy_inputs(batch, device) -> torch.Tensor:
    """Images in 0..1."""
    return batch.images.to(device).to(torch.float32, memory_format=torch.channels_last).div_(255)


def toy_update(model, optimizer=None, *, steps: int = 3, warmup: int = 0, ema=None, scaler=None, **options) -> Backprop:
    """An update of the toy model, in fp32."""
    return Backprop(
        model=model,
        inputs=toy_inputs,
        optimizer=optimizer or make_optimizer(model, lr=0.05),
        schedule=Schedule(steps=steps, warmup=warmup),
        precision=CPU,
        options=UpdateOptions(**options),
        ema=ema,
        scaler=scaler,
    )


def train(
    model, loader, *, epochs=1, start=0, optimizer=None, ema=None, loss=toy_loss, scaler=None, **options
) -> list[EpochResult]:
    """Epochs ``start`` … ``epochs`` of a run whose schedule is that of ``epochs``, in fp32."""
    steps = epochs * len(step_ends(len(loader), options.get("accumulate", 1)))
    update = toy_update(model, optimizer, steps=steps, warmup=2, ema=ema, scaler=scaler, **options)
    results = []
    for epoch in range(start, epochs):
        loader.epoch = epoch
        results.append(train_one_epoch(loader, loss, update, epoch=epoch))
    return results


def captured(progress, *, model, optimizer, ema=None, scaler=None) -> dict:
    """The state of a toy run of these parts."""
    return capture(progress, model, toy_update(model, optimizer, ema=ema, scaler=scaler))


def restored(state, *, model, optimizer, ema=None, scaler=None) -> Progress:
    """Put it back into these."""
    return restore(state, model, toy_update(model, optimizer, ema=ema, scaler=scaler))
