"""How sure a network is of its answer, and running it only until it is sure enough."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from utils.darknet import spec as s
from utils.darknet.walk import rule
from utils.temporal.execution import FRAMES, Memories
from utils.temporal.spike_record import SpikeRecord

Sure = tuple[Tensor, Tensor]  # [N, places] each: how much a place counts, and how sure its answer is, 0 to 1


class Steps(Protocol):
    """A network with neurons that tells what they send."""

    spec: s.ModelSpec
    timesteps: int

    def watch(
        self, x: Tensor, memory: Memories, steps: int, still: dict[int, Tensor] | None = None
    ) -> tuple[list[Tensor], Memories, Mapping[int, Tensor]]:
        """So many steps on: raw head maps, the state behind them, what every neuron sends.

        ``still`` keeps what is the same at every step from one call to the next.
        """


def margin(spec: s.ModelSpec, raw: list[Tensor]) -> Tensor:
    """How sure an answer is, 0 to 1, [N]: how far the best is before the second best.

    Of a class: the difference of the two largest probabilities. Of boxes: p - (1 - p) = abs(2p - 1) for objectness p,
    the mean over all places, each weighted by its p. Of a mask: a class's, the mean over its pixels.

    Args:
        spec: whose outputs these are.
        raw: map of every output, [N, C, h, w].
    """
    parts = [
        rule(SURE, spec.layers[i], "margin of its answers")(spec.layers[i], x.float())
        for i, x in zip(spec.heads, raw, strict=True)
    ]
    weight, sure = (torch.cat(part, 1) for part in zip(*parts, strict=True))
    return (weight * sure).sum(1) / weight.sum(1).clamp_min(1e-12)


def _of_boxes(layer: s.Detect, raw: Tensor) -> Sure:
    at = layer.each - layer.classes - 1
    p = raw.unflatten(1, (-1, layer.each))[:, :, at].flatten(1)
    p = p.clamp(0, 1) if getattr(layer, "new_coords", False) else p.sigmoid()
    return p, (2 * p - 1).abs()


def _of_class(layer: s.Softmax, raw: Tensor) -> Sure:
    scores = raw.mean((2, 3)) / layer.temperature
    sure = _before_second(scores.unflatten(1, (layer.groups, -1)).softmax(-1))
    return torch.ones_like(sure), sure


def _of_mask(layer: s.Segment, raw: Tensor) -> Sure:
    sure = _before_second(raw.flatten(2).transpose(1, 2).softmax(-1))
    return torch.ones_like(sure), sure


def _before_second(p: Tensor) -> Tensor:
    best = p.topk(min(2, p.shape[-1]), -1).values
    return best[..., 0] - (best[..., 1] if best.shape[-1] > 1 else 0)


SURE: Mapping[type[s.Layer], Callable[[Any, Tensor], Sure]] = {
    s.Detect: _of_boxes,
    s.Softmax: _of_class,
    s.Segment: _of_mask,
}


class StepByStep(nn.Module):
    """A predictor that takes one step after the other and answers with the mean over those that it took, or the last.

    Args:
        network: with neurons.
        least: the margin that ends an image's steps; None: it takes all of them.
        record: told what the neurons of the first image send, from its first step on.
    """

    def __init__(self, network: Steps, least: float | None, record: SpikeRecord | None = None) -> None:
        super().__init__()
        self.network, self.least, self.record = network, least, record
        self.taken: list[int] = []  # steps of each image
        self.eval()

    @torch.no_grad()
    def forward(self, x: Tensor) -> list[Tensor]:
        """[N, C, H, W] in 0..1, or frames [N, T, C, H, W] -> raw head maps of the step at which each image ended."""
        if self.record:
            self.record.clear()
        own = x.dim() == FRAMES
        steps, going = x.shape[1] if own else self.network.timesteps, torch.arange(len(x))
        taken, answer = torch.zeros(len(x), dtype=torch.long), list[Tensor]()
        total, memory, still = list[Tensor](), dict[int, tuple[Tensor, ...]](), dict[int, Tensor]()
        for t in range(steps):
            heads, memory, sent = self._step(x[:, t] if own else x, memory, None if own else still)
            total = [a + b for a, b in zip(total, heads, strict=True)] if total else heads
            mean = heads if self.network.spec.reads_last else [each / (t + 1) for each in total]
            answer = answer or [torch.empty_like(each) for each in mean]
            ends = self._ends(mean, last=t + 1 == steps).cpu()
            for whole, each in zip(answer, mean, strict=True):
                whole[going[ends]] = each[ends]
            taken[going[ends]] = t + 1
            if self.record and going[0] == 0:
                self.record.add(sent)
            if ends.all():
                break
            x, going, total = x[~ends], going[~ends], [each[~ends] for each in total]
            memory = {i: tuple(value[~ends] for value in values) for i, values in memory.items()}
            still = {i: value[~ends] for i, value in still.items()}
        self.taken += taken.tolist()
        return answer

    def _step(
        self, x: Tensor, memory: Memories, still: dict[int, Tensor] | None
    ) -> tuple[list[Tensor], dict[int, tuple[Tensor, ...]], Any]:
        heads, after, sent = self.network.watch(x, memory, 1, still)
        return heads, dict(after), sent

    def _ends(self, mean: list[Tensor], *, last: bool) -> Tensor:
        """Which images have their answer, bool [N]."""
        if last or self.least is None:
            return torch.full((len(mean[0]),), last)
        return margin(self.network.spec, mean) >= self.least
