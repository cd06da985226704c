"""Rounding in training: the definition's forward, and the gradients that pass it."""

from __future__ import annotations

import math

import pytest
import torch

from utils.quantization.ranges import power_of_two
from utils.quantization.ste import fake_quantise, learn_quantise, next_power, round_straight


def definition(x: torch.Tensor, scale: float, qmin: int, qmax: int) -> torch.Tensor:
    """In Python floats, a value at a time."""
    levels = [min(max(math.floor(value / scale + 0.5), qmin), qmax) for value in x.flatten().tolist()]
    return (torch.tensor(levels, dtype=torch.float32) * scale).view_as(x)


def test_ties_go_up_and_what_is_outside_goes_to_the_ends():
    x = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 99.0, -99.0]).view(1, 1, 2, 4)
    found = fake_quantise(x, torch.tensor([1.0]), -2, 3).flatten().tolist()
    assert found == [-2, -1, 0, 1, 2, 3, 3, -2]


@pytest.mark.parametrize("qmin, qmax", [(0, 255), (-128, 127), (0, 15), (-2, 1)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_forward_is_the_definition(qmin, qmax, layout):
    x = (torch.randn(3, 5, 7, 6) * 20).to(memory_format=layout)
    scale = 2.0**-2  # divides exactly, so that the two agree to the bit
    wanted = definition(x, scale, qmin, qmax)
    assert torch.equal(fake_quantise(x, torch.tensor([scale]), qmin, qmax), wanted)
    assert torch.equal(learn_quantise(x, torch.tensor([scale]), torch.tensor([scale]), qmin, qmax), wanted)
    if qmin == -qmax:
        assert torch.equal(round_straight(x, torch.tensor([scale]), qmax), wanted)


def test_weights_round_as_the_definition():
    w = torch.randn(4, 3, 3, 3)
    scale = torch.tensor([0.25, 0.125, 0.5, 2.0]).view(-1, 1, 1, 1)
    for row, step, found in zip(w, scale.flatten().tolist(), round_straight(w, scale, 7), strict=True):
        assert torch.equal(found, definition(row, step, -7, 7))


def test_gradient_passes_inside_the_grid_and_not_outside():
    x = torch.tensor([-3.0, -0.4, 0.3, 2.9, 3.4, 9.0]).view(1, 1, 1, 6).requires_grad_()
    slope = torch.arange(1.0, 7.0).view_as(x)
    (fake_quantise(x, torch.tensor([1.0]), 0, 3) * slope).sum().backward()
    assert x.grad.flatten().tolist() == [0, 2, 3, 4, 5, 0]
    w = x.detach().clone().requires_grad_()
    (round_straight(w, torch.tensor([1.0]), 3) * slope).sum().backward()
    assert w.grad.flatten().tolist() == [1, 2, 3, 4, 5, 0]


def test_learned_step_has_the_gradient_of_the_paper():
    x = torch.tensor([-3.0, -0.4, 0.3, 2.9, 9.0]).view(1, 1, 1, 5).requires_grad_()
    scale = torch.tensor([1.0], requires_grad=True)
    learn_quantise(x, scale, scale, 0, 3).sum().backward()
    # below: lo = 0; -0.4 -> 0 gives 0.4; 0.3 -> 0 gives -0.3; 2.9 -> 3 gives 0.1; above: hi = 3
    assert scale.grad.item() == pytest.approx((0 + 0.4 - 0.3 + 0.1 + 3) / math.sqrt(5 * 3))
    assert x.grad.flatten().tolist() == [0, 1, 1, 1, 0]


def test_learned_steps_of_channels_do_not_mix():
    w = torch.randn(2, 3, 1, 1, requires_grad=True)
    scale = torch.tensor([0.3, 0.7]).view(2, 1, 1, 1).requires_grad_()
    learn_quantise(w, scale, scale, -7, 7)[0].sum().backward()
    assert scale.grad[0].abs() > 0 and scale.grad[1] == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_larger_than_the_cache_has_the_gradients_of_its_images(dtype):
    x = torch.randn(9, 8, 48, 48, dtype=dtype).contiguous(memory_format=torch.channels_last)  # 3 images at once
    slope = torch.randn(9, 8, 48, 48, dtype=dtype)

    def gradients(parts):
        given, scale = x.clone().requires_grad_(), torch.tensor([0.3]).requires_grad_()
        for each, of in zip(given.split(parts), slope.split(parts), strict=True):
            learn_quantise(each, scale, scale, -3, 3).backward(of)
        return given.grad, scale.grad * math.sqrt(parts / 9)  # the gain counts the values of a call

    (passed, moved), (alone, summed) = gradients(9), gradients(1)
    assert torch.equal(passed, alone)
    assert moved.item() == pytest.approx(summed.item(), rel=1e-4)


def test_half_precision_rounds_in_full():
    x = torch.arange(0, 256, dtype=torch.float32).view(1, 1, 16, 16)
    found = fake_quantise(x.bfloat16(), torch.tensor([1.0]), 0, 255)
    assert found.dtype == torch.bfloat16 and torch.equal(found.float(), x)  # 255 + 1/2 would round up in bfloat16


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.50001, 3.0, 1e-9, 2.0**-20, 0.1, 1.9999999])
def test_next_power_is_that_of_the_calibration(scale):
    value = torch.tensor([scale])
    assert next_power(value).item() == power_of_two(value.item())
