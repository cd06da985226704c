"""Weights whose scale is a power of two: the one of least squared error, and an average that does not mix two."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from utils.quantization.fake import is_observer
from utils.quantization.observers import Scale
from utils.quantization.weights import CLEARLY, best_power, weight_scales
from utils.training.ema import Ema


def error(weight: torch.Tensor, scale: float, top: int) -> float:
    return float(((weight / scale + 0.5).floor().clamp(-top, top) * scale - weight).square().sum())


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("spread", [0.03, 0.041, 0.055, 1.0])
def test_weights_get_the_power_of_two_of_least_squared_error(bits, spread):
    weight = torch.randn(6, 4, 3, 3, generator=torch.Generator().manual_seed(bits)) * spread
    found = float(weight_scales(weight, torch.zeros(6), 1.0, bits, "pow2")[0])
    top = 2 ** (bits - 1) - 1
    best = min((2.0**k for k in range(-20, 5)), key=lambda scale: error(weight.double(), scale, top))
    assert found == best


def test_a_power_in_use_stays_until_another_is_clearly_better():
    weight = torch.randn(2000, generator=torch.Generator().manual_seed(0))
    scales = [2.0 ** (k / 20) * 0.2 for k in range(40)]
    free = [best_power(weight * scale, 0.4 * scale, 4) for scale in scales]
    kept, present = [], free[0]
    for scale in scales:
        present = best_power(weight * scale, present, 4, stay=present)
        kept.append(present)
    assert len(set(free)) > 1 and free != kept and set(kept) <= set(free) | {2 * max(free)}
    late = next(i for i, (a, b) in enumerate(zip(free, kept, strict=True)) if a != b)
    assert error(weight * scales[late], free[late], 7) > CLEARLY * error(weight * scales[late], kept[late], 7)


def test_the_average_of_a_run_copies_scales_because_the_mean_of_two_powers_is_none():
    model = nn.ModuleDict({"steps": Scale(torch.tensor([2.0**-4]), power=True), "conv": nn.Conv2d(1, 1, 1)})
    holder = nn.ModuleDict({"layers": model})
    ema = Ema(holder, decay=0.9, ramp=1.0, copied=is_observer)
    with torch.no_grad():
        model["steps"].scale.fill_(2.0**-5)
        model["conv"].weight.add_(1.0)
    before = ema.model.state_dict()["layers.conv.weight"].clone()
    ema.update(holder)
    assert float(ema.model["layers"]["steps"].step()) == 2.0**-5
    moved = ema.model.state_dict()["layers.conv.weight"]
    assert not torch.equal(moved, before) and not torch.equal(moved, model["conv"].weight)
