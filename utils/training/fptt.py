"""Forward propagation through time: a batch is K segments, each with its own step; memory does not grow with T.

Of each parameter w there is a running average m and a correction c, and a segment's objective is

    loss + (alpha / 2) |w - m|^2 - <w, c>

After its step: c <- c - alpha (w - m), then m <- (1 - beta) m + beta w - (beta / alpha) c. Where the objective is at
its minimum c is the loss's gradient, so that no second pass is needed to find it. An epoch begins from m.

Source: Kag and Saligrama, Training Recurrent Neural Networks via Forward Propagation Through Time, ICML 2021,
algorithm 1; in the form of Yin, Corradi and Bohte, 2022 (arXiv 2112.11231). With beta = 1/2 the two agree.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from utils.errors import InputError
from utils.training.device import as_float
from utils.training.update import Backprop, Loss

FRAMES = 5  # axes of a batch that has steps of its own: [N, T, C, H, W]


@runtime_checkable
class HasSteps(Protocol):
    """A batch whose loss is of its steps, and not of all of it."""

    def between(self, begin: int, end: int) -> Any:
        """The batch of steps begin to end - 1."""


@dataclass(frozen=True, kw_only=True)
class FpttOptions:
    """How far weights may go from their average, and how often there is a step.

    Args:
        timesteps: T, of a batch.
        segments: K, steps of the optimizer a batch; 1 to T.
        alpha: pull towards the average, above 0.
        beta: share of the new weights in it, above 0 and up to 1.
    """

    timesteps: int
    segments: int
    alpha: float = 0.1
    beta: float = 0.5

    def __post_init__(self) -> None:
        most = self.timesteps
        if not 1 <= self.segments <= most:
            raise InputError(f"--fptt-k: {self.segments} segments of {most} steps; give 1 to {most}")
        if self.alpha <= 0 or not 0 < self.beta <= 1:
            given = f"alpha {self.alpha:g}, beta {self.beta:g}"
            raise InputError(f"fptt: {given}; alpha is above 0, beta above 0 and up to 1")

    def parts(self) -> list[tuple[int, int]]:
        """First step of each segment, and the one behind its last."""
        ends = [n * self.timesteps // self.segments for n in range(self.segments + 1)]
        return list(pairwise(ends))


@dataclass(kw_only=True)
class Fptt(Backprop):
    """An update whose averaged weights are m; there is no other average, and no accumulation over batches.

    The model is called as ``model(images, memory, steps)`` and returns outputs and the state behind them.
    """

    fptt: FpttOptions
    mean: nn.Module = field(init=False)
    correction: list[Tensor] = field(init=False)
    number: int = 0  # of the step that comes next; a batch's segments share it

    def __post_init__(self) -> None:
        if self.ema or self.options.accumulate != 1:
            raise ValueError("fptt has an average of its own, and a step at every segment")
        self.mean = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.correction = [torch.zeros_like(parameter) for parameter in self.model.parameters()]

    @property
    def averaged(self) -> nn.Module:
        """m, with the buffers of the model."""
        for own, other in zip(self.mean.buffers(), self.model.buffers(), strict=True):
            own.copy_(other)
        return self.mean

    @torch.no_grad()
    def begin(self) -> None:
        """An epoch begins: from the average."""
        super().begin()
        for own, mean in self._pairs():
            own.copy_(mean)

    def learn(self, batch: Any, loss: Loss, place: str) -> Mapping[str, Tensor]:
        """All segments but the last, each with its step; returns the terms of the last."""
        images = self.inputs(batch, self.precision.device)
        parts, memory = self.fptt.parts(), dict[int, tuple[Tensor, ...]]()
        for begin, end in parts:
            terms, memory = self._segment(images, memory, begin, end, loss, batch)
            if end == parts[-1][1]:
                break
            if not torch.isfinite(terms["total"].detach()):
                raise InputError(f"{place}: the loss is not finite in steps {begin} to {end}; lower --lr")
            self.backward(terms, len(images))
            super().step(self.number, len(images), place)
        return terms

    def step(self, step: int, seen: int, place: str) -> None:
        """The last segment's step; as `Backprop.step`."""
        super().step(step, seen, place)
        self.number = step + 1

    def _segment(
        self, images: Tensor, memory: Any, begin: int, end: int, loss: Loss, batch: Any
    ) -> tuple[Mapping[str, Tensor], Any]:
        """Terms of the loss over some steps, and the state behind them without its graph."""
        model, teacher = self.options.shared or self.model, self.options.teacher
        shown = images[:, begin:end] if images.dim() == FRAMES else images
        with self.precision.autocast(), teacher.watching(self.model) if teacher else nullcontext():
            outputs, memory = model(shown, memory, end - begin)
        outputs = as_float(outputs)
        terms = dict(loss(outputs, batch.between(begin, end) if isinstance(batch, HasSteps) else batch))
        if teacher:
            taught = teacher(images, outputs, batch)
            terms |= {**taught, "total": terms["total"] + sum(taught.values())}
        return terms, {i: tuple(value.detach() for value in values) for i, values in memory.items()}

    @torch.no_grad()
    def _regularise(self) -> None:
        """Add alpha (w - m) - c to the gradients."""
        for (own, mean), correction in zip(self._pairs(), self.correction, strict=True):
            if own.grad is not None:
                own.grad.add_(own - mean, alpha=self.fptt.alpha).sub_(correction)

    @torch.no_grad()
    def _took(self) -> None:
        """Move c, then m by the new c."""
        alpha, beta = self.fptt.alpha, self.fptt.beta
        for (own, mean), correction in zip(self._pairs(), self.correction, strict=True):
            correction.sub_(own - mean, alpha=alpha)
            mean.lerp_(own, beta).sub_(correction, alpha=beta / alpha)

    def _pairs(self) -> list[tuple[nn.Parameter, nn.Parameter]]:
        return list(zip(self.model.parameters(), self.mean.parameters(), strict=True))

    def state_dict(self) -> dict[str, Any]:
        """What `Backprop` has, and m, c and the number of the step."""
        own = {"mean": self.mean.state_dict(), "correction": self.correction, "number": self.number}
        return {**super().state_dict(), "fptt": own}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there.

        Raises:
            ValueError: the state is of a run with another trainer.
        """
        super().load_state_dict(state)
        if "fptt" not in state:
            raise ValueError("saved with --trainer bptt")
        own = state["fptt"]
        self.mean.load_state_dict(own["mean"])
        self.number = int(own["number"])
        for mine, saved in zip(self.correction, own["correction"], strict=True):
            mine.copy_(saved)
