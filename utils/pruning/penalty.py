"""Sparse training: the L1 subgradient on exactly those gammas that pruning can cut."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum

import torch
from torch import Tensor, nn

from utils.darknet.channel_groups import ChannelGroups, trace
from utils.darknet.network import Network
from utils.darknet.spec import ModelSpec
from utils.errors import InputError
from utils.pruning.plan import ShortcutRule
from utils.pruning.scores import strengths

GAMMA = re.compile(r"(?:^|\.)layers\.(\d+)\.bn\.weight$")  # also behind DDP's and compile's prefixes


class StrengthSchedule(Enum):
    """How the strength s goes over a run."""

    CONSTANT = "constant"
    DECAY = "decay"  # s / 100 after half of the run: tanluren/yolov3-channel-and-layer-pruning, "global s decay"


def prunable_gammas(spec: ModelSpec, tie: ShortcutRule) -> dict[int, Tensor]:
    """Which gammas a strategy with this ``tie`` can cut: bool [C] by layer with batch norm.

    Of a depthwise convolution only those count that alone make their wire worthless.
    """
    wires = trace(spec)
    frozen = wires.locked | wires.tied if tie is ShortcutRule.KEEP else wires.locked
    masks = {i: weigh & ~frozen[wires.outputs[i]] for i, weigh in decisive(spec, wires).items()}
    return {i: mask for i, mask in masks.items() if mask.any()}


def decisive(spec: ModelSpec, wires: ChannelGroups) -> dict[int, Tensor]:
    """Channels whose gamma alone, at zero, makes their wire worthless: bool [C] by layer with batch norm."""
    whole = {i: torch.ones(layer.filters) for i, layer in spec.normed.items()}
    found = {i: torch.ones(len(wires.outputs[i]), dtype=torch.bool) for i in wires.voters}
    for j in sorted(wires.depthwise & whole.keys()):
        without = strengths(spec, wires, {**whole, j: torch.zeros_like(whole[j])})
        dead = torch.zeros(wires.count, dtype=torch.bool)
        for i, strength in without.items():
            dead[wires.outputs[i][strength == 0]] = True
        found[j] = dead[wires.outputs[j]]
    return dict(sorted(found.items()))


class SparsityPenalty:
    """Adds s·sign(gamma) to the gradients of the prunable gammas; call it once an optimizer step.

    What is prunable says ``tie``: that of a channel strategy, or masks as `prunable_gammas` and `blocks.layer_gammas`
    return them.

    Call it after gradients were unscaled and clipped and before ``optimizer.step()``, so that neither autocast nor
    accumulation changes its strength. With plain SGD the gammas end within lr·s/(1 - momentum) of 0.

    Source: Liu et al., Network Slimming, ICCV 2017, equation 1 (arXiv 1708.06519).
    """

    def __init__(
        self,
        spec: ModelSpec,
        tie: ShortcutRule | Mapping[int, Tensor],
        s: float,
        schedule: StrengthSchedule = StrengthSchedule.CONSTANT,
    ) -> None:
        if s < 0:
            raise InputError(f"the sparsity penalty s must not be negative, got {s}")
        self.masks = prunable_gammas(spec, tie) if isinstance(tie, ShortcutRule) else dict(tie)
        self.s = s
        self.schedule = schedule

    def strength(self, progress: float) -> float:
        """The value of s at this share of the run, 0..1."""
        late = self.schedule is StrengthSchedule.DECAY and progress >= 0.5
        return self.s * 0.01 if late else self.s

    @torch.no_grad()
    def __call__(self, parameters: Iterable[tuple[str, nn.Parameter]], progress: float = 0.0) -> None:
        """Add to ``.grad`` of the gammas among ``model.named_parameters()``; those without a gradient are left out."""
        strength = self.strength(progress)
        for name, gamma in parameters:
            match = GAMMA.search(name)
            if match is None or gamma.grad is None or int(match[1]) not in self.masks:
                continue
            mask = self.masks[int(match[1])] = self.masks[int(match[1])].to(gamma.device)
            gamma.grad.add_(gamma.sign() * mask, alpha=strength)


def reach(s: float, learning_rates: Sequence[float], momentum: float = 0.0) -> float:
    """How far the penalty alone moves a gamma over a run with these learning rates, one an optimizer step.

    A run whose reach is under the gammas' start cannot make any of them zero: s is too small for its length.
    """
    return s * sum(learning_rates) / (1 - momentum)


def initial_gammas(net: Network, value: float = 0.5) -> Network:
    """Every gamma set to ``value``, as Network Slimming starts its sparse training from scratch.

    Source: Liu et al., ICCV 2017, section 4.2 (0.5 instead of 1).
    """
    state = {k: torch.full_like(v, value) if GAMMA.search(k) else v for k, v in net.state.items()}
    return Network(net.spec, state)
