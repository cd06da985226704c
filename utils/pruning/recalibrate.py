"""Batch-norm statistics, measured anew after a cut."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from utils.darknet.network import Network
from utils.errors import InputError


class _Statistics:
    """Mean and variance over all batches, collected behind a batch norm that normalises by the batch at hand.

    Batches are merged as populations (Chan et al. 1979), the spread between their means included; averaging their
    variances, as torch's cumulative ``momentum=None`` does, would leave it out.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.count = 0
        self.mean = torch.zeros((), dtype=torch.float64)
        self.square = torch.zeros((), dtype=torch.float64)  # sum of squared deviations from the mean

    def before(self, norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """A variance needs two values."""
        if inputs[0].numel() < 2 * inputs[0].shape[1]:
            raise InputError(f"{self.name}: one value a channel has no variance; recalibrate on batches of 2 images")

    def after(self, norm: nn.BatchNorm2d, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """Merge the batch; with momentum 1 the module's running statistics are this batch's own."""
        assert norm.running_mean is not None and norm.running_var is not None
        count = inputs[0].numel() // inputs[0].shape[1]
        mean = norm.running_mean.double()
        square = norm.running_var.double() * (count - 1)
        gap, total = mean - self.mean, self.count + count
        self.square = self.square + square + gap**2 * (self.count * count / total)
        self.mean = self.mean + gap * (count / total)
        self.count = total

    def result(self) -> tuple[Tensor, Tensor]:
        """Mean and unbiased variance, as `torch.nn.BatchNorm2d` keeps them, float64 [C]."""
        if not self.count:
            raise InputError("batch norm cannot be recalibrated: there were no images; check the training list")
        return self.mean, self.square / (self.count - 1)


@torch.no_grad()
def recalibrate(
    net: Network, build: Callable[[Network], nn.Module], batches: Iterable[Tensor], device: Any = "cpu"
) -> Network:
    """Measure running mean and variance of every batch norm again on some images.

    The network runs in eval mode (dropout is off) while each batch norm normalises by the batch that passes.

    Args:
        net: the network; it is not changed.
        build: makes a module in eval mode of a network; its batch norms are named ``layers.{i}.bn``.
        batches: float images [N, C, H, W] in 0..1; a dozen batches of training images are enough.
        device: where to run.

    Raises:
        InputError: there were no images.

    Source: Li et al., EagleEye, ECCV 2020, section 3.3 (adaptive batch norm; arXiv 2007.02491).
    """
    model = build(net).to(device).eval()
    measured: dict[str, _Statistics] = {}
    for name, norm in model.named_modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.train()
            norm.momentum = 1.0
            measured[name] = _Statistics(name)
            norm.register_forward_pre_hook(measured[name].before)
            norm.register_forward_hook(measured[name].after)
    for images in batches:
        model(images.to(device))
    new = dict(net.state)
    for name, statistics in measured.items():
        for key, value in zip(("running_mean", "running_var"), statistics.result(), strict=True):
            old = net.state[f"{name}.{key}"]
            new[f"{name}.{key}"] = value.to(old)
    return Network(net.spec, new)
