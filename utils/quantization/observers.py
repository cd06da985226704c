"""Scales that follow a training run, or learn; one for a group of edges, one or many for a layer's weights.

The largest value of a batch is a poor range at few bits, and a whole search for the best one costs more than a training
step. So a scale starts at the searched optimum and then only asks, on a sample of every few batches, whether a somewhat
smaller or larger one has less squared error, and moves a little that way: a moving average of the best scale.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from utils.quantization.ste import fake_quantise, learn_quantise, next_power

FACTORS = (1 / 1.1, 1.0, 1.1)  # of the present scale, which are compared
EDGE_PACE, WEIGHT_PACE = 0.25, 0.5  # share of the winning factor that is taken, in logarithms
SAMPLED = 4096  # values of a map that are looked at
MOST_MOVED = 1.1  # times, or its inverse: what a learned scale moves in a step, as far as one that follows
LEAST = 2.0**-30  # a learned scale stays above: no image, and no weight that matters, is so small


class Scale(nn.Module):
    """One or more scales: given, followed or learned.

    Args:
        start: [S], > 0.
        power: only powers of two are used, the next one up.
        learn: a parameter that gradients move, instead of a buffer that observation moves.
        fixed: neither.
    """

    def __init__(self, start: Tensor, *, power: bool = False, learn: bool = False, fixed: bool = False) -> None:
        super().__init__()
        self.power, self.learn, self.fixed = power, learn and not fixed, fixed
        self.scale: Tensor
        if self.learn:
            self.scale = nn.Parameter(start.float().clone())
        else:
            self.register_buffer("scale", start.float().clone())
        self._errors: Tensor | None = None

    def step(self) -> Tensor:
        """The scales that are used, [S], without gradient."""
        scale = self.scale.detach().clamp_min(LEAST)
        return next_power(scale) if self.power else scale

    @property
    def follows(self) -> bool:
        """Whether observation moves it."""
        return not (self.learn or self.fixed)

    @torch.no_grad()
    def look(self, rows: Tensor, qmin: int, qmax: int) -> None:
        """Compare the factors on values [S,K]; what several edges of a group show adds up until ``move``."""
        errors = []
        for factor in FACTORS:
            scale = (self.scale * factor)[:, None]
            errors.append(((rows / scale + 0.5).floor_().clamp_(qmin, qmax).mul_(scale) - rows).square_().sum(1))
        found = torch.stack(errors)  # [F,S]
        self._errors = found if self._errors is None else self._errors + found

    @torch.no_grad()
    def move(self, pace: float) -> None:
        """Go some way to the best factor seen; on a tie, as in a dead channel, stay."""
        if self._errors is None:
            return
        stay = len(FACTORS) // 2
        best = self._errors.argmin(0)
        best = torch.where(self._errors.amin(0) < self._errors[stay], best, torch.full_like(best, stay))
        self.scale.mul_(torch.tensor(FACTORS, device=self.scale.device)[best].pow(pace))
        self._errors = None


class EdgeScale(Scale):
    """The scale of a group of edges."""

    def forward(self, x: Tensor, qmin: int, qmax: int, *, observe: bool) -> Tensor:
        """A map [N,C,H,W] on its grid."""
        if observe and self.follows:
            self.look(sample(x)[None], qmin, qmax)
        if self.learn:
            return learn_quantise(x, self.scale, self.step(), qmin, qmax)
        return fake_quantise(x, self.step(), qmin, qmax)


def hold_scales(model: nn.Module, optimizer: Optimizer) -> None:
    """Let no step of an optimizer move a learned scale farther than by `MOST_MOVED`.

    A scale has the size of one level, and its gradient grows where it shrinks and more is clipped: momentum carried the
    first layer's, which has 8 bits, through zero in four steps (docs/decisions/139).
    """
    learned = [scale.scale for scale in model.modules() if isinstance(scale, Scale) and scale.learn]
    before: list[Tensor] = []

    def remember(*_: object) -> None:
        before[:] = [scale.detach().clone() for scale in learned]

    @torch.no_grad()
    def hold(*_: object) -> None:
        for scale, was in zip(learned, before, strict=True):
            scale.clamp_(was / MOST_MOVED, was * MOST_MOVED)

    if learned:
        optimizer.register_step_pre_hook(remember)
        optimizer.register_step_post_hook(hold)


def sample(x: Tensor) -> Tensor:
    """About ``SAMPLED`` values of a map [N,C,H,W], float32 [K]: all channels of some pixels.

    The stride over the pixels is odd, so that it meets every column of a map whose width is a power of two.
    """
    pixels = x.detach().permute(0, 2, 3, 1).flatten(0, 2)
    stride = max(1, len(pixels) * pixels.shape[1] // SAMPLED) | 1
    return pixels[::stride].float().flatten()
