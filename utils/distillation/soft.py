"""A teacher of classes: its scores, softened, are what the student's scores are to be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from utils.darknet.heads import class_count
from utils.darknet.spec import ModelSpec
from utils.distillation.outputs import softened_kl
from utils.errors import InputError

STRATEGIES = ("soft", "1")  # the one that compares scores of classes, and no boxes or features
GAIN = 1.0  # the teacher counts as much as the labels do


class SoftDistiller:
    """Teaches a student whose outputs are scores of classes: of a picture, or of every pixel.

    Args:
        student: structure of the network that learns.
        teacher: a network with as many raw maps as the student.
        structure: the teacher's.
        strategy: of ``--KDstr``, by name or number.
        weight: of what the teacher says.
        autocast: the context both networks' forward passes run in.

    Raises:
        InputError: the strategy needs boxes or features, or the teacher tells other classes apart.
    """

    def __init__(
        self,
        student: ModelSpec,
        teacher: nn.Module,
        structure: ModelSpec,
        strategy: str,
        *,
        weight: float = 1.0,
        autocast: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        if strategy not in STRATEGIES:
            raise InputError(
                f"--KDstr {strategy}: is for networks that find boxes; a teacher of classes has --KDstr soft"
            )
        known, other = class_count(student), class_count(structure)
        if known != other:
            raise InputError(f"teacher: tells {other} classes apart, the student {known}; choose one for the same")
        self.terms = ("soft",)
        self.message = "scores of the classes, softened"
        self.helpers = nn.ModuleDict()
        self.weight, self._autocast = weight, autocast
        self._teacher = teacher.eval().requires_grad_(False)

    def watching(self, student: nn.Module) -> AbstractContextManager[None]:
        """Nothing but the outputs is compared."""
        return nullcontext()

    def __call__(self, images: Tensor, outputs: Sequence[Tensor], *_: Any) -> dict[str, Tensor]:
        """The term of a batch: images [N, C, H, W] in 0..1, the student's raw maps [N, classes, h, w], float32.

        Maps of different size (a global average that one of the two leaves to the output) are compared by their means.
        """
        with torch.no_grad(), self._autocast():
            answers = self._teacher(images)
        parts = []
        for own, answer in zip(outputs, answers, strict=True):
            other = answer.float()
            if own.shape != other.shape:
                own, other = own.mean((2, 3), keepdim=True), other.mean((2, 3), keepdim=True)
            parts.append(softened_kl(own.movedim(1, -1), other.movedim(1, -1)).mean())
        return {"kd_soft": self.weight * GAIN * torch.stack(parts).mean()}

    def parameters(self) -> list[nn.Parameter]:
        """Nothing is trained along."""
        return []
