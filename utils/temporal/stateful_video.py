"""A network trained as spikes on video: one step a frame, its membranes handed on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from utils.temporal.early_exit import Steps
from utils.temporal.execution import FRAMES, Memories
from utils.temporal.spike_record import SpikeRecord


class CarriedSteps(nn.Module):
    """A predictor for video: each frame is one step, from the state that the frame before left.

    Args:
        network: whose neurons keep the state.
        every: frames after which the state is forgotten; 0: never within a film.
        record: told what the neurons send at each step.
    """

    def __init__(self, network: Steps, every: int = 0, record: SpikeRecord | None = None) -> None:
        super().__init__()
        self.network, self.every, self.record = network, every, record
        self.taken: list[int] = []  # steps of each frame, as a converted network has them
        self._memory: Memories = {}
        self._since, self._shape = 0, torch.Size()
        self.eval()

    def reset(self) -> None:
        """Forget: the next frame is of another film."""
        self._memory, self._since = {}, 0
        if self.record:
            self.record.clear()

    @torch.no_grad()
    def forward(self, x: Tensor) -> list[Tensor]:
        """The next frame [1, C, H, W] in 0..1, or the next steps [1, T, C, H, W] -> raw head maps of what was new."""
        if x.shape != self._shape or (self.every and self._since == self.every):
            self.reset()
        heads, self._memory, sent = self.network.watch(x, self._memory, 1)
        if self.record:
            self.record.add(sent)
        self._shape, self._since = x.shape, self._since + 1
        self.taken.append(x.shape[1] if x.dim() == FRAMES else 1)
        return heads
