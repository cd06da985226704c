"""Optimizers: decay for what multiplies features, none for what scales or shifts them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

STEP_SHARE = 0.01  # of the rate, for scales under Adam, whose steps are as large as the rate; scales are hundredths


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


def add_group(optimizer: Optimizer, name: str, parameters: Sequence[nn.Parameter], *, lr: float) -> None:
    """Give the optimizer parameters that stand outside of the network, without decay."""
    group = {"name": name, "params": list(parameters), "weight_decay": 0.0}
    optimizer.add_param_group({**group, "lr": lr, "initial_lr": lr})
