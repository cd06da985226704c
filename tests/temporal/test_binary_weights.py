"""Weights of one bit: two values a filter, a power of two, and a gradient that is the published one."""

from __future__ import annotations

import pytest
import torch

from models import network_of
from tests.temporal.nets import images, small, warmed
from utils.darknet.fold import fold_bn
from utils.errors import InputError
from utils.temporal.straight_through import BinaryWeight, binary_weight, powers, sharpness_at

WEIGHT = torch.randn(5, 3, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_a_filter_has_two_values_and_they_are_a_power_of_two():
    made = binary_weight(WEIGHT, 0.1)
    for row in made:
        low, high = row.unique().tolist()
        assert low == -high
        assert high == 2.0 ** round(torch.tensor(high).log2().item())
    centred = WEIGHT - WEIGHT.mean((1, 2, 3), keepdim=True)
    assert torch.equal(made > 0, centred >= 0)


def test_the_size_of_a_filter_does_not_matter():
    assert torch.equal(binary_weight(3 * WEIGHT + 0.5, 0.1), binary_weight(WEIGHT, 0.1))


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_the_gradient_is_that_of_the_paper(progress):
    t = sharpness_at(progress)
    b = WEIGHT.clone().requires_grad_()
    BinaryWeight.apply(b, t).sum().backward()
    k = max(1 / t, 1)
    torch.testing.assert_close(b.grad, powers(WEIGHT) * k * t * (1 - torch.tanh(t * WEIGHT) ** 2))
    assert float(b.grad.abs().sum()) > 0


def test_it_gets_sharper_along_the_training():
    assert sharpness_at(0) == pytest.approx(0.1)
    assert sharpness_at(0.5) == pytest.approx(1)
    assert sharpness_at(1) == pytest.approx(10)


def test_a_layer_computes_with_its_binary_weights():
    spec = small("lif\nweight_quant=binary")
    model = warmed(spec)
    x = images(spec)
    block = model.layers["2"]
    before = model(x)[0].detach()
    with torch.no_grad():
        block.conv.weight.copy_(binary_weight(block.conv.weight, 0.1))
    torch.testing.assert_close(model(x)[0], before)
    assert block.conv.weight.unique().numel() <= 4


def test_batch_norm_is_not_folded_into_them():
    with pytest.raises(InputError, match="weight_quant=binary trains weights of one bit"):
        fold_bn(network_of(warmed(small("lif\nweight_quant=binary"))))
