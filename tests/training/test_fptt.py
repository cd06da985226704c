"""Forward propagation through time, against the formulas worked out on one parameter, and what it keeps in memory."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from tests.training.toy import CPU
from utils.errors import InputError
from utils.training.fptt import Fptt, FpttOptions
from utils.training.schedule import Schedule
from utils.training.update import Backprop, UpdateOptions

ALPHA, BETA, RATE, TARGET, CURVE = 0.5, 0.5, 0.1, 3.0, 2.0


@dataclass
class Numbers:
    images: torch.Tensor
    indices: tuple[int, ...] = (0,)


class OneWeight(nn.Module):
    """w at every step; the state counts the steps."""

    def __init__(self, start: float = 1.0) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor([start], dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x, memory, steps):
        (count,) = memory.get(0, (torch.zeros(1),))
        self.seen += steps
        return self.w.expand(len(x), 1), {0: (count + steps,)}


class Recurrent(nn.Module):
    """A leaky unit with weights, whose graph grows with every step that is not cut off."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner, self.out = nn.Linear(8, 8), nn.Linear(8, 1)

    def forward(self, x, memory, steps):
        (h,) = memory.get(0, (torch.zeros(len(x), 8),))
        for _ in range(steps):
            h = torch.tanh(self.inner(h) + x)
        return self.out(h), {0: (h,)}


def quadratic(outputs, batch):
    return {"total": 0.5 * CURVE * (outputs - TARGET).square().mean()}


def update(model, timesteps=3, segments=3, optimizer=None, **options) -> Fptt:
    constant = Schedule(steps=1, final=1.0, momentum=0.0)
    return Fptt(
        model=model,
        inputs=lambda batch, device: batch.images,
        optimizer=optimizer or torch.optim.SGD([{"params": model.parameters(), "initial_lr": RATE}], lr=RATE),
        schedule=constant,
        precision=CPU,
        options=UpdateOptions(**options),
        fptt=FpttOptions(timesteps=timesteps, segments=segments, alpha=ALPHA, beta=BETA),
    )


def learn(learner, times=1, start=0, images=None):
    batch = Numbers(torch.ones(1, 1) if images is None else images)
    for number in range(start, start + times):
        terms = learner.learn(batch, quadratic, "here")
        learner.backward(terms, len(batch.images))
        learner.step(number, len(batch.images), "here")


def by_hand(steps, w=1.0):
    """(w, m, c) behind each step of gradient descent, from the formulas."""
    m, c, rows = w, 0.0, []
    for _ in range(steps):
        w = w - RATE * (CURVE * (w - TARGET) + ALPHA * (w - m) - c)
        c = c - ALPHA * (w - m)
        m = (1 - BETA) * m + BETA * w - BETA / ALPHA * c
        rows.append((w, m, c))
    return rows


def state_of(learner):
    return learner.model.w.item(), learner.averaged.w.item(), float(learner.correction[0])


def test_one_parameter_moves_as_worked_out_by_hand():
    # w: 1 - .1 (2 (1 - 3)) = 1.4; c: -.5 * .4 = -.2; m: .5 + .7 + .2 = 1.4
    # w: 1.4 - .1 (2 (1.4 - 3) + 0 + .2) = 1.7; c: -.2 - .5 * .3 = -.35; m: .7 + .85 + .35 = 1.9
    rows = by_hand(3)
    assert rows[0] == pytest.approx((1.4, 1.4, -0.2))
    assert rows[1] == pytest.approx((1.7, 1.9, -0.35))
    one_a_step = update(OneWeight(), timesteps=1, segments=1)
    for number, row in enumerate(rows):
        learn(one_a_step, start=number)
        assert state_of(one_a_step) == pytest.approx(row)
    at_once = update(OneWeight())
    learn(at_once)
    assert state_of(at_once) == pytest.approx(rows[2])
    assert int(at_once.averaged.seen) == 3, "buffers are the model's"


def test_it_comes_to_rest_at_the_minimum():
    learner = update(OneWeight())
    learn(learner, 200)
    assert state_of(learner) == pytest.approx((TARGET, TARGET, 0.0), abs=1e-6)


def test_what_is_added_is_the_gradient_of_the_penalty():
    learner = update(Recurrent(), timesteps=2, segments=2)
    learn(learner, 2, images=torch.randn(4, 8))
    for parameter in learner.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    learner._regularise()
    pairs = [(p.detach().clone().requires_grad_(), m) for p, m in learner._pairs()]
    penalty = sum(
        0.5 * ALPHA * (w - m).square().sum() - (w * c).sum()
        for (w, m), c in zip(pairs, learner.correction, strict=True)
    )
    wanted = torch.autograd.grad(penalty, [w for w, _ in pairs])
    for expected, parameter in zip(wanted, learner.model.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, expected)


def test_an_epoch_begins_from_the_average():
    learner = update(OneWeight())
    learn(learner, 2)
    _, mean, _ = state_of(learner)
    learner.begin()
    assert learner.model.w.item() == mean


def test_a_run_that_was_cut_goes_on_to_the_bit():
    images = torch.randn(4, 8, generator=torch.Generator().manual_seed(1))
    whole, first = (update(Recurrent(), timesteps=4, segments=2) for _ in range(2))
    learn(whole, 4, images=images)
    learn(first, 2, images=images)
    saved, weights = copy.deepcopy(first.state_dict()), copy.deepcopy(first.model.state_dict())
    rest = update(Recurrent(), timesteps=4, segments=2)
    rest.model.load_state_dict(weights)
    rest.load_state_dict(saved)
    learn(rest, 2, start=2, images=images)
    assert rest.number == whole.number == 4
    for mine, other in ((rest.model, whole.model), (rest.averaged, whole.averaged)):
        assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b in zip(rest.correction, whole.correction, strict=True))


def kept_bytes(timesteps: int, segments: int) -> int:
    """The most that autograd holds at once of a batch: what is saved for one segment's backward pass."""
    model, most = Recurrent(), 0
    memory, x = {}, torch.randn(4, 8)
    for begin, end in FpttOptions(timesteps=timesteps, segments=segments).parts():
        saved: dict[int, int] = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, saved=saved: (saved.__setitem__(t.data_ptr(), t.nbytes), t)[1], lambda t: t
        ):
            _, memory = model(x, memory, end - begin)
        most = max(most, sum(saved.values()))
        memory = {i: tuple(value.detach() for value in values) for i, values in memory.items()}
    return most


def test_memory_is_constant_in_time_with_a_step_at_each_step_and_else_by_segment():
    flat = [kept_bytes(t, t) for t in (50, 100, 200)]
    assert max(flat) == min(flat) > 0
    back = [kept_bytes(t, 1) for t in (50, 200)]
    assert back[1] > 3 * back[0]
    part = [kept_bytes(t, 10) for t in (50, 200)]
    assert part[1] > 2 * part[0], "ten segments are a tenth of the memory, and grow with T as before"
    assert part[1] < back[1] / 5


@pytest.mark.parametrize("segments", [0, 4])
def test_more_segments_than_steps_are_refused(segments):
    with pytest.raises(InputError, match=f"--fptt-k: {segments} segments of 3 steps; give 1 to 3"):
        FpttOptions(timesteps=3, segments=segments)


def test_segments_are_all_of_the_steps_in_order():
    assert FpttOptions(timesteps=7, segments=3).parts() == [(0, 2), (2, 4), (4, 7)]


def test_states_of_the_two_trainers_are_not_mixed_up():
    learner = update(OneWeight())
    other = Backprop(
        model=OneWeight(),
        inputs=learner.inputs,
        optimizer=torch.optim.SGD(OneWeight().parameters(), lr=RATE),
        schedule=learner.schedule,
        precision=CPU,
    )
    with pytest.raises(ValueError, match="saved with --trainer bptt"):
        learner.load_state_dict(other.state_dict())
    with pytest.raises(ValueError, match="saved with --trainer fptt"):
        other.load_state_dict(learner.state_dict())


def test_a_loss_that_is_not_finite_names_its_steps():
    with pytest.raises(InputError, match="here: the loss is not finite in steps 0 to 1"):
        update(OneWeight()).learn(
            Numbers(torch.ones(1, 1)), lambda outputs, batch: {"total": outputs.sum() * torch.nan}, "here"
        )
