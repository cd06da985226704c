"""Surrogates: each is the slope of the function that it is published as, and the multi-gaussian of its formula."""

from __future__ import annotations

import math

import pytest
import torch

from utils.temporal.surrogates import SURROGATE, Spike


def bell_integral(x, mean, deviation):
    return 0.5 * (1 + torch.erf((x - mean) / (deviation * math.sqrt(2))))


INTEGRALS = {
    "rectangle": lambda x: (x + 0.5).clamp(0, 1),
    "triangle": lambda x: torch.where(x < 0, 0.5 * (1 + x).clamp_min(0) ** 2, 1 - 0.5 * (1 - x).clamp_min(0) ** 2),
    "atan": lambda x: torch.atan(math.pi * x) / math.pi + 0.5,
    "sigmoid": lambda x: torch.sigmoid(4 * x),
    "multi-gaussian": lambda x: (
        0.5 * (1.15 * bell_integral(x, 0, 0.3) - 0.15 * (bell_integral(x, 0.3, 1.8) + bell_integral(x, -0.3, 1.8)))
    ),
}
GRID = torch.linspace(-3.001, 3.003, 501, dtype=torch.float64)  # none on a kink


@pytest.mark.parametrize("name", SURROGATE)
def test_a_surrogate_is_the_slope_of_its_integral(name):
    h = 1e-6
    slope = (INTEGRALS[name](GRID + h) - INTEGRALS[name](GRID - h)) / (2 * h)
    torch.testing.assert_close(SURROGATE[name](GRID), slope, atol=1e-7, rtol=1e-6)


def test_known_values():
    zero = torch.zeros(1, dtype=torch.float64)
    assert SURROGATE["rectangle"](torch.tensor([-0.5, -0.49, 0.49, 0.5])).tolist() == [0, 1, 1, 0]  # on (0, 1) of u
    assert float(SURROGATE["atan"](zero)) == 1
    assert float(SURROGATE["sigmoid"](zero)) == 1
    assert float(SURROGATE["multi-gaussian"](zero)) == pytest.approx(0.732, abs=1e-3)
    assert float(SURROGATE["multi-gaussian"](zero + 1)) < 0, "its troughs are below 0"


def test_a_spike_is_strictly_above_and_its_gradient_the_surrogate():
    x = torch.tensor([-0.2, 0.0, 0.2], requires_grad=True)
    out = Spike.apply(x, SURROGATE["triangle"])
    assert out.tolist() == [0, 0, 1]
    out.sum().backward()
    torch.testing.assert_close(x.grad, torch.tensor([0.8, 1.0, 0.8]))
