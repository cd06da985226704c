"""Stream mode on video: the state of a frame is where the next one starts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from utils.spiking.stream import State, StreamExecutor


class CarriedStream(nn.Module):
    """A predictor for video: every frame goes on from the state that the frame before left, and only changes arrive.

    It is as exact as starting anew, since the settled state depends on the charge alone, and the less changes the
    sooner it is settled. ``taken`` lists the steps of each frame.
    """

    def __init__(self, stream: StreamExecutor) -> None:
        super().__init__()
        self.stream = stream
        self.taken: list[int] = []
        self._state: State | None = None
        self._shape: torch.Size | None = None
        self.eval()

    def reset(self) -> None:
        """Forget: the next frame is of another film."""
        self._state = None

    @torch.no_grad()
    def forward(self, x: Tensor) -> list[Tensor]:
        """The next frame [1,C,H,W] of n / 255 -> raw head maps."""
        state = self.stream.run(x, previous=self._state if x.shape == self._shape else None)
        self._state, self._shape = state, x.shape
        self.taken.append(state.t)
        return self.stream.read(state)
