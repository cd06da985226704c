"""Terms that compare the features two heads are made from: attention maps, channels, masked generation.

Each takes the student's and the teacher's map at one stride, [N, C, H, W] float32, and gives a scalar that depends
neither on the batch nor on how large the features are.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from utils.distillation.outputs import SMALLEST, Mean, alone, softened_kl

MASKED = 0.65  # share of the cells that masked generation hides, that of one-stage detectors in the paper


def attention(features: Tensor) -> Tensor:
    """Mean |F| over the channels, cell by cell, in units of its own mean over the map: [N, C, H, W] -> [N, H, W].

    The mean in place of the customary sum, and the unit, make maps of other widths and scales comparable; so attention
    needs no adapter. A pruned layer with a quarter of the channels is not a quarter as attentive.

    Source: Zagoruyko and Komodakis, Paying More Attention to Attention, ICLR 2017, section 3.1 (arXiv 1612.03928).
    """
    magnitude = features.abs().mean(1)
    return magnitude / magnitude.mean((1, 2), keepdim=True).clamp(min=SMALLEST)


def attention_term(student: Tensor, teacher: Tensor, mask: Tensor | None = None, *, mean: Mean = alone) -> Tensor:
    """Softened KL of two attention maps over their cells, mean over the images.

    Args:
        student: features.
        teacher: features; the channels may differ, the grid may not.
        mask: bool [N, H, W], from `masks.object_mask`: attention outside counts as 0 in both, and images without
            any object do not count.
        mean: see `outputs`.
    """
    s, t = attention(student), attention(teacher)
    if mask is None:
        return softened_kl(s.flatten(1), t.flatten(1)).mean()
    values = softened_kl((s * mask).flatten(1), (t * mask).flatten(1))
    found = mean(mask.flatten(1).any(1).sum().float())
    return values.sum() / torch.where(found > 0, found, torch.ones_like(found))


def channel_term(student: Tensor, teacher: Tensor) -> Tensor:
    """KL of each channel's distribution over the cells, mean over channels and images; widths are equal here.

    Source: Shu et al., Channel-wise Knowledge Distillation for Dense Prediction, ICCV 2021, equation 5 (arXiv
    2011.13256), with a temperature of 1.
    """
    return softened_kl(student.flatten(2), teacher.flatten(2), 1.0).mean()


def generation_term(generated: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared error as a share of the teacher's mean square: 0 where all was found again, 1 for nothing at all."""
    return (generated - teacher).square().mean() / teacher.square().mean().clamp(min=SMALLEST)


def adapter(student: int, teacher: int) -> nn.Module:
    """A 1x1 convolution from the student's channels to the teacher's; nothing where they are as many."""
    return nn.Identity() if student == teacher else nn.Conv2d(student, teacher, 1)


class Generator(nn.Module):
    """Makes the teacher's features from the student's with a part of the cells hidden.

    Source: Yang et al., Masked Generative Distillation, ECCV 2022, section 3 (arXiv 2205.01529).
    """

    def __init__(self, student: int, teacher: int, masked: float = MASKED) -> None:
        super().__init__()
        self.masked = masked
        self.align = adapter(student, teacher)
        self.generate = nn.Sequential(
            nn.Conv2d(teacher, teacher, 3, padding=1), nn.ReLU(), nn.Conv2d(teacher, teacher, 3, padding=1)
        )

    def forward(self, features: Tensor) -> Tensor:
        """[N, student, H, W] -> [N, teacher, H, W]; which cells are hidden is drawn anew each time."""
        aligned = self.align(features)
        n, _, height, width = aligned.shape
        shown = torch.rand(n, 1, height, width, device=aligned.device) >= self.masked
        return self.generate(aligned * shown)
