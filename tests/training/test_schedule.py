"""Schedule, groups and average against their closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from tests.training.toy import ToyLoader, toy_model, train
from utils.quantization.observers import Scale
from utils.training.build_optimizer import make_optimizer
from utils.training.ema import Ema
from utils.training.schedule import Schedule


def test_cosine_runs_from_one_to_final():
    schedule = Schedule(steps=101, final=0.1)
    assert (
        schedule.cosine(0) == 1
        and schedule.cosine(100) == pytest.approx(0.1)
        and schedule.cosine(500) == pytest.approx(0.1)
    )
    assert schedule.cosine(50) == pytest.approx(0.55)
    for step in range(100):
        assert schedule.cosine(step) + schedule.cosine(100 - step) == pytest.approx(1.1)


def test_cosine_is_that_of_torch():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.2)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=30, eta_min=0.2 * 0.05)
    schedule = Schedule(steps=31)
    for step in range(31):
        assert schedule.rate(step, 0.2) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-6)
        optimizer.step()
        reference.step()


def test_warm_up_rises_evenly_and_meets_the_cosine():
    schedule = Schedule(steps=100, warmup=9, bias_lr=0.1)
    assert schedule.rate(0, 1.0) == pytest.approx(0.1)
    assert schedule.rate(4, 1.0) == pytest.approx(0.5 * schedule.cosine(4))
    assert schedule.rate(9, 1.0) == pytest.approx(schedule.cosine(9))
    assert schedule.rate(0, 0.01, bias=True) == pytest.approx(0.1 * 0.01 + 0.9 * 0.1)
    assert schedule.rate(9, 0.01, bias=True) == schedule.rate(9, 0.01)
    assert schedule.momentum_at(0) == pytest.approx(0.8 + 0.1 * 0.137) and schedule.momentum_at(9) == 0.937


@pytest.mark.parametrize("adam", [False, True])
def test_schedule_reaches_every_group(adam):
    optimizer = make_optimizer(toy_model(), lr=0.01, adam=adam)
    schedule = Schedule(steps=100, warmup=9, bias_lr=0.1)
    schedule.apply(optimizer, 3)
    assert {group["name"]: group["lr"] for group in optimizer.param_groups} == {
        "weight": schedule.rate(3, 0.01),
        "scale": schedule.rate(3, 0.01),
        "bias": schedule.rate(3, 0.01, bias=True),
    }
    first = [group["betas"][0] if adam else group["momentum"] for group in optimizer.param_groups]
    assert first == [schedule.momentum_at(3)] * 3


def test_only_kernels_decay_and_every_parameter_is_in_one_group():
    model = toy_model()
    optimizer = make_optimizer(model, lr=0.01, decay=0.3)
    decay = {group["name"]: group["weight_decay"] for group in optimizer.param_groups}
    assert decay == {"weight": 0.3, "scale": 0.0, "bias": 0.0}
    held = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(held) == sorted(id(p) for p in model.parameters())
    kernels = {id(m.weight) for m in model if isinstance(m, nn.Conv2d | nn.Linear)}
    assert {id(p) for p in optimizer.param_groups[0]["params"]} == kernels


def test_learned_grids_move_by_hundredths_of_adams_steps_and_freely_by_gradients():
    grid = Scale(torch.full((4,), 0.02), learn=True)
    optimizer = make_optimizer(grid, lr=0.01, adam=True)
    for _ in range(20):  # always the same way, which Adam takes for a reason to go on
        grid.scale.grad = torch.ones(4)
        optimizer.step()
    assert bool((grid.scale > 0.0175).all()) and bool((grid.scale < 0.0185).all())
    (free,) = make_optimizer(Scale(torch.ones(4), learn=True), lr=0.01).param_groups
    assert (free["name"], free["initial_lr"], free["weight_decay"]) == ("step", 0.01, 0.0)


def test_average_of_a_constant_state_is_that_state_and_ramp_is_closed_form():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    ema = Ema(model, decay=0.9, ramp=2)
    nn.init.ones_(model.weight)
    left = 1.0
    for update in range(1, 6):
        ema.update(model)
        left *= 0.9 * (1 - math.exp(-update / 2))
        assert ema.model.weight.item() == pytest.approx(1 - left, rel=1e-5)


def test_average_holds_buffers_and_counters_and_does_not_train():
    model = toy_model()
    ema = Ema(model, decay=0.5, ramp=1e-9)
    before = model[1].running_mean.clone()
    train(model, ToyLoader(batch=12), ema=ema)
    torch.testing.assert_close(ema.model[1].running_mean, (before + model[1].running_mean) / 2)
    assert ema.model[1].num_batches_tracked == model[1].num_batches_tracked == 1
    assert not ema.model.training and not any(parameter.requires_grad for parameter in ema.model.parameters())
