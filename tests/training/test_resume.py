"""A run that was cut and continued is the run that was not."""

from __future__ import annotations

import io
import random

import numpy
import pytest
import torch

from tests.training.toy import ToyLoader, captured, restored, toy_model, train
from utils.errors import InputError
from utils.training.build_optimizer import make_optimizer
from utils.training.ema import Ema
from utils.training.random_state import random_state, seed_all, set_random_state
from utils.training.resume import Progress


def through_a_file(state: dict) -> dict:
    """As save and ``torch.load(weights_only=True)`` leave it."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("adam", [False, True])
def test_resumed_run_equals_the_unbroken_one_bit_for_bit(adam):
    def parts():
        model = toy_model(dropout=0.3)
        return {"model": model, "optimizer": make_optimizer(model, lr=0.05, adam=adam), "ema": Ema(model)}

    unbroken, cut, again = parts(), parts(), parts()
    seed_all(5)
    train(loader=ToyLoader(batch=2), epochs=4, accumulate=2, **unbroken)

    seed_all(5)
    settings = {"loader": ToyLoader(batch=2), "epochs": 4, "accumulate": 2}
    with pytest.raises(KeyboardInterrupt):
        train(**settings, **cut, loss=stop_at_epoch(2, keep := {}, cut))
    seed_all(99)  # a new process knows nothing of the old one
    progress = restored(through_a_file(keep), **again)
    assert progress == Progress(epochs=2, best=0.25, seconds=7.0)
    train(**settings, start=progress.epochs, **again)

    for part in ("model", "ema"):
        expected, found = unbroken[part], again[part]
        expected, found = (getattr(item, "model", item) for item in (expected, found))
        for name, value in expected.state_dict().items():
            assert torch.equal(found.state_dict()[name], value), f"{part} {name}"
    assert any(
        not torch.equal(a, b) for a, b in zip(cut["model"].parameters(), again["model"].parameters(), strict=True)
    )


def test_what_a_scaler_learned_is_kept():
    def parts():
        model = toy_model()
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**20, growth_interval=3)
        return {"model": model, "optimizer": make_optimizer(model, lr=0.05), "scaler": scaler}

    first, again, other = parts(), parts(), parts()
    train(loader=ToyLoader(batch=3), epochs=1, **first)  # four steps: it has grown once, and counts to the next time
    assert first["scaler"].get_scale() == 2.0**21
    restored(through_a_file(captured(Progress(epochs=1), **first)), **again)
    assert again["scaler"].state_dict() == first["scaler"].state_dict() != other["scaler"].state_dict()
    del other["scaler"]
    with pytest.raises(InputError, match="choice of --ema or precision"):
        restored(through_a_file(captured(Progress(epochs=1), **first)), **other)


def stop_at_epoch(epoch: int, keep: dict, parts: dict):
    """A loss that captures the run when ``epoch`` epochs (of 6 batches) are done and then is killed within the next."""
    from tests.training.toy import toy_loss

    calls = []

    def loss(outputs, batch):
        calls.append(1)
        if len(calls) == 6 * epoch + 4:
            raise KeyboardInterrupt
        return toy_loss(outputs, batch)

    original = Ema.update

    def update(self, model):
        original(self, model)
        if len(calls) == 6 * epoch and self is parts["ema"]:
            state = captured(Progress(epochs=epoch, best=0.25, seconds=7.0), **parts)
            keep.update(through_a_file(state))  # a copy: the run goes on

    parts["ema"].update = update.__get__(parts["ema"])
    return loss


def test_random_state_restored_repeats_every_generator():
    def draw():
        return random.random(), random.gauss(0, 1), numpy.random.rand(), numpy.random.randn(), torch.rand(()).item()

    random.gauss(0, 1), numpy.random.randn()  # leave half a pair behind
    state = through_a_file(random_state())
    first = draw()
    assert draw() != first
    set_random_state(state)
    assert draw() == first


def test_seed_makes_runs_equal():
    draws = []
    for _ in range(2):
        seed_all(2**40 + 3)
        draws.append((random.random(), numpy.random.rand(), torch.rand(()).item()))
    assert draws[0] == draws[1]


def test_state_of_another_network_is_refused():
    small, other = toy_model(), toy_model(bn=False)
    state = captured(Progress(), model=small, optimizer=make_optimizer(small, lr=0.1))
    with pytest.raises(InputError, match="resume: the checkpoint is not of this run"):
        restored(state, model=other, optimizer=make_optimizer(other, lr=0.1))
    with pytest.raises(InputError, match="choice of --ema"):
        restored(state, model=small, optimizer=make_optimizer(small, lr=0.1), ema=Ema(small))
    with pytest.raises(InputError, match="not of this run"):
        restored({}, model=small, optimizer=make_optimizer(small, lr=0.1))
