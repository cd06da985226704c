"""The teacher as the training loop calls it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from utils.data.loader import Loader
from utils.detection.dataset import BoxBatch
from utils.distillation.distiller import Distiller
from utils.distillation.soft import SoftDistiller
from utils.distillation.unlabelled import JoinedBatches, MixedBatch
from utils.errors import InputError
from utils.task import Loss


@dataclass(frozen=True)
class DistillationContext:
    """The teacher as the training loop calls it, the files it came from, and batches of unlabelled images."""

    distiller: Distiller | SoftDistiller
    files: tuple[Path, ...]
    extra: Loader[BoxBatch] | None = None

    def watching(self, model: nn.Module) -> AbstractContextManager[None]:
        """The context of the student's forward pass."""
        return self.distiller.watching(model)

    def __call__(self, images: Tensor, outputs: Sequence[Tensor], batch: BoxBatch) -> Mapping[str, Tensor]:
        """The teacher's terms of a batch."""
        if isinstance(self.distiller, SoftDistiller):
            return self.distiller(images, outputs)
        labelled = batch.labelled if isinstance(batch, MixedBatch) else None
        return self.distiller(images, outputs, batch.targets, labelled)

    def parameters(self) -> list[nn.Parameter]:
        """Adapters and generators, which train along and are not part of the network."""
        return self.distiller.parameters()

    def state(self) -> dict[str, Tensor]:
        """What ``--resume`` needs of them."""
        return self.distiller.helpers.state_dict()

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on with them.

        Raises:
            InputError: they are not those of this teacher.
        """
        try:
            self.distiller.helpers.load_state_dict(state)
        except RuntimeError as error:
            raise InputError("resume: the checkpoint is of another teacher; give the one it began with") from error

    def close(self) -> None:
        """End the workers that read unlabelled images."""
        if self.extra:
            self.extra.close()

    def join(self, train: Loader[Any], loss: Loss, epoch: int, *, mosaic: bool) -> tuple[Any, Loss]:
        """The batches of an epoch with unlabelled images beside the labelled, and the loss of the labelled."""
        if self.extra is None:
            return train, loss
        return JoinedBatches(train, self.extra, epoch, mosaic=mosaic), lambda raw, batch: loss(
            [head[: batch.labelled] for head in raw], batch
        )
