"""How a gradient becomes a step: the update that an epoch is handed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from utils.errors import InputError
from utils.training.device import Precision, as_float
from utils.training.distributed import Group
from utils.training.ema import Ema
from utils.training.schedule import Schedule

# (outputs of the model in fp32, batch) -> terms, each a mean per image; "total" is what is minimised
Loss = Callable[[Any, Any], Mapping[str, Tensor]]
Inputs = Callable[[Any, torch.device], Tensor]  # of a batch, on the device: what the model takes


class Teacher(Protocol):
    """Further terms of the loss, from what another network makes of the same images."""

    def watching(self, model: nn.Module) -> AbstractContextManager[None]:
        """The context of the model's forward pass, in which the teacher may look at its features."""

    def __call__(self, images: Tensor, outputs: Any, batch: Any) -> Mapping[str, Tensor]:
        """Terms by name, each a mean per image; images in 0..1, outputs of the model in fp32."""

    def parameters(self) -> Sequence[nn.Parameter]:
        """What is trained along; the optimizer has them too."""


class Update(Protocol):
    """What an epoch does with each batch.

    It owns its state (``state_dict``, which is in the checkpoint) and names the weights that are measured and saved
    (``averaged``).
    """

    schedule: Schedule
    optimizer: Optimizer

    @property
    def averaged(self) -> nn.Module:
        """The weights that are measured and saved."""

    @property
    def accumulate(self) -> int:
        """Batches that an optimizer step sees."""

    @property
    def group(self) -> Group:
        """The processes that share each batch."""

    def begin(self) -> None:
        """An epoch begins."""

    def learn(self, batch: Any, loss: Loss, place: str) -> Mapping[str, Tensor]:
        """Take a batch in; returns the terms of its loss, of which ``backward`` has not been called yet."""

    def backward(self, terms: Mapping[str, Tensor], images: int) -> None:
        """The gradient of a batch of so many images."""

    def step(self, step: int, seen: int, place: str) -> None:
        """Make the gradients of the ``seen`` images since the last one a step, the run's number ``step``."""

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs of it."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""


@dataclass(frozen=True, kw_only=True)
class UpdateOptions:
    """How steps are made, beside the model and the data.

    Args:
        accumulate: batches an optimizer step sees; the gradient is the mean over all images of the step.
        penalty: called with the number of the step, once an optimizer step, when the gradients are final (unscaled,
            averaged, clipped): adds what it wants to them. Neither autocast nor accumulation scales it.
        clip: largest norm of the gradient; None leaves it alone.
        teacher: its terms are added to the loss, and told with it.
        group: the processes that share each batch; the loss that is told is the mean over all their images.
        shared: the model as `Group.wrap` made it, where there are several.
    """

    accumulate: int = 1
    penalty: Callable[[int], None] | None = None
    clip: float | None = None
    teacher: Teacher | None = None
    group: Group = field(default_factory=Group)
    shared: nn.Module | None = None


@dataclass(kw_only=True)
class Backprop:
    """One forward and one backward pass a batch, one optimizer step for ``options.accumulate`` batches.

    ``inputs`` makes of a batch what the model takes; ``scaler`` keeps small gradients of half precision alive.
    """

    model: nn.Module
    inputs: Inputs
    optimizer: Optimizer
    schedule: Schedule
    precision: Precision
    options: UpdateOptions = field(default_factory=UpdateOptions)
    ema: Ema | None = None
    scaler: torch.amp.GradScaler | None = None

    @property
    def averaged(self) -> nn.Module:
        """The average of the weights where there is one."""
        return self.ema.model if self.ema else self.model

    @property
    def accumulate(self) -> int:
        """Batches that an optimizer step sees."""
        return self.options.accumulate

    @property
    def group(self) -> Group:
        """The processes that share each batch."""
        return self.options.group

    def begin(self) -> None:
        """Forget gradients of before."""
        self.model.train()
        self.optimizer.zero_grad(set_to_none=True)

    def learn(self, batch: Any, loss: Loss, place: str) -> Mapping[str, Tensor]:
        """The forward pass and the loss."""
        model, teacher = self.options.shared or self.model, self.options.teacher
        images = self.inputs(batch, self.precision.device)
        inner = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
        with self.precision.autocast(), teacher.watching(inner) if teacher else nullcontext():
            outputs = as_float(model(images))
        terms = loss(outputs, batch)
        if teacher is None:
            return terms
        taught = teacher(images, outputs, batch)
        return {**terms, **taught, "total": terms["total"] + sum(taught.values())}

    def backward(self, terms: Mapping[str, Tensor], images: int) -> None:
        """Add the gradient of the batch, summed over its images."""
        total = terms["total"] * images
        (self.scaler.scale(total) if self.scaler else total).backward()

    def step(self, step: int, seen: int, place: str) -> None:
        """Make the summed gradient a mean over the ``seen`` images, add the penalty, step, average.

        Raises:
            InputError: the gradient is not finite; ``place`` names epoch, batch and images.
        """
        self.schedule.apply(self.optimizer, step)
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        teacher, group = self.options.teacher, self.options.group
        parameters = [*self.model.parameters(), *(teacher.parameters() if teacher else ())]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        group.add_gradients(teacher.parameters() if teacher else ())  # DDP has left the mean in the network's own
        torch._foreach_div_(gradients, group.total(seen) / group.size)
        self._regularise()
        norm = nn.utils.get_total_norm(gradients)
        if not self.scaler and not torch.isfinite(norm):  # a scaler expects this now and then, and skips the step
            raise InputError(
                f"{place}: the gradient is {norm.item()}; lower --lr, or look at these images and their labels"
            )
        if self.options.clip is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.options.clip, norm)
        if self.options.penalty:
            self.options.penalty(step)
        self._take()
        self._took()
        if self.ema:
            self.ema.update(self.model)

    def _regularise(self) -> None:
        """What an update adds to the mean gradient before it is clipped."""

    def _took(self) -> None:
        """What an update does behind a step of the optimizer."""

    def _take(self) -> None:
        meet_newcomers(self.optimizer)
        if self.scaler:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def state_dict(self) -> dict[str, Any]:
        """The optimizer's, the average's and the scaler's state."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.state_dict() if self.ema else None,
            "scaler": self.scaler.state_dict() if self.scaler else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there.

        Raises:
            ValueError: the state is of a run with another choice of --ema or precision.
        """
        if "fptt" in state and not hasattr(self, "fptt"):
            raise ValueError("saved with --trainer fptt")
        self.optimizer.load_state_dict(state["optimizer"])
        for part, saved in ((self.ema, state["ema"]), (self.scaler, state["scaler"])):
            if (part is None) != (saved is None):
                raise ValueError("saved with another choice of --ema or precision")
            if part is not None:
                part.load_state_dict(saved)


def meet_newcomers(optimizer: Optimizer) -> None:
    """Give parameters that begin to learn among others that do already a momentum of 0; call it before a step.

    Torch's fused SGD takes the parameters of a group as new together, or none of them.
    """
    for group in optimizer.param_groups:
        if not group.get("momentum"):
            continue
        learning = [parameter for parameter in group["params"] if parameter.grad is not None]
        new = [each for each in learning if optimizer.state.get(each, {}).get("momentum_buffer") is None]
        if len(new) < len(learning):
            for parameter in new:
                optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
