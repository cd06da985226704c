"""What a training follows of Darknet's own words: a frozen front, epochs, restarts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import train
from models import Darknet
from tests.scenes import convolution, head, section, undrawn_runs, write_scenes
from utils.darknet.cfg import parse_cfg
from utils.darknet.training_words import epochs, restarts, stops
from utils.errors import InputError
from utils.training import update
from utils.training.build_optimizer import make_optimizer, parameter_groups
from utils.training.front import freeze, front, thawing
from utils.training.schedule import Schedule
from utils.training.update import meet_newcomers

CONV = "[convolutional]\nbatch_normalize=1\nfilters=4\nsize=3\npad=1\nactivation=leaky\n"


def three_layers(said: str) -> Darknet:
    return Darknet(parse_cfg("[net]\nwidth=8\nheight=8\n" + CONV + CONV + said + CONV))


def learn(model: Darknet, step: int, hook) -> list[bool]:
    """One step of plain SGD; which layers moved."""
    before = [p.detach().clone() for p in model.parameters()]
    model.train()
    model.zero_grad(set_to_none=True)
    model.activations(torch.rand(4, 3, 8, 8))[2].square().mean().backward()
    if hook:
        hook(step)
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p -= 0.1 * p.grad
    names = [name for name, _ in model.named_parameters()]
    moved = [not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True)]
    return [any(m for name, m in zip(names, moved, strict=True) if name.startswith(f"layers.{i}.")) for i in range(3)]


def test_stopbackward_freezes_the_layer_that_says_so_and_all_before_it():
    model = three_layers("stopbackward=1\n")
    assert front(stops(model.spec)) == 1
    statistics = [norm.running_mean.clone() for norm in model.modules() if isinstance(norm, nn.BatchNorm2d)]
    freeze(model, stops(model.spec))
    hook = thawing(model, stops(model.spec), None, 1)
    assert [learn(model, step, hook) for step in range(3)] == [[False, False, True]] * 3
    now = [norm.running_mean for norm in model.modules() if isinstance(norm, nn.BatchNorm2d)]
    assert [torch.equal(a, b) for a, b in zip(statistics, now, strict=True)] == [True, True, False]


def test_a_front_that_is_stopped_for_two_steps_learns_from_the_third():
    model = three_layers("stopbackward=2\n")
    freeze(model, stops(model.spec))
    hook = thawing(model, stops(model.spec), None, 1)
    moved = [learn(model, step, hook) for step in range(3)]
    assert moved == [[False, False, True]] * 2 + [[True, True, True]]
    statistics = model.layers["0"].bn.running_mean.clone()
    learn(model, 3, hook)
    assert not torch.equal(statistics, model.layers["0"].bn.running_mean)


def test_what_begins_to_learn_late_steps_as_torchs_plain_sgd_lets_it():
    models = [nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 1)) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    fused = make_optimizer(models[0], lr=0.1, momentum=0.9, decay=0.01)
    groups = parameter_groups(models[1], decay=0.01)
    plain = torch.optim.SGD(groups, lr=0.1, momentum=0.9, nesterov=True, fused=False, foreach=False)
    for step in range(4):
        x = torch.rand(8, 3)
        for model, optimizer in zip(models, (fused, plain), strict=True):
            optimizer.zero_grad(set_to_none=True)
            model[0].requires_grad_(step >= 2)
            model(x).square().mean().backward()
            meet_newcomers(optimizer)
            optimizer.step()
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_a_training_goes_on_where_its_front_begins_to_learn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    undrawn_runs(monkeypatch)
    write_scenes(tmp_path, train=4, valid=2, shape=(40, 40))
    front_of = convolution(4, stride=2).replace("activation=", "stopbackward=2\nactivation=")
    text = section("net", batch=2, width=32, height=32, channels=3) + front_of + convolution(4, stride=2) + head()
    Path("net.cfg").write_text(text)
    counts: list[int] = []  # of parameters with a momentum, before each step

    def counted(optimizer: torch.optim.Optimizer) -> None:
        meet_newcomers(optimizer)
        counts.append(sum("momentum_buffer" in each for each in optimizer.state.values()))

    monkeypatch.setattr(update, "meet_newcomers", counted)
    words = "--cfg net.cfg --data set.data --device cpu --workers 0 --epochs 2 --name late"
    train.run(train.parser().parse_args(words.split()))
    assert counts[:4] == [
        0,
        5,
        8,
        8,
    ]  # the second layer's gamma, beta and kernel, the head's kernel and bias; the front's


def test_a_run_that_is_resumed_after_the_front_thawed_learns_everywhere_at_once():
    model = three_layers("stopbackward=2\n")
    assert learn(model, 2, thawing(model, stops(model.spec), None, 1, 2)) == [True, True, True]


def test_a_front_without_end_and_one_that_thaws_among_processes_are_refused():
    model = three_layers("")
    with pytest.raises(InputError, match="freezes every layer with weights; take it out to train"):
        stops(parse_cfg("[net]\n" + CONV + "stopbackward=1\n"))
    with pytest.raises(InputError, match="one process only; set stopbackward=1"):
        thawing(model, ((1, 9),), None, 2)
    with pytest.raises(InputError, match="stopbackward=soon must be a whole number"):
        stops(three_layers("stopbackward=soon\n").spec)


def test_sgdr_restarts_as_darknet_does_over_a_run_of_our_own_length():
    spec = parse_cfg("[net]\npolicy=sgdr\nsgdr_cycle=1000\nsgdr_mult=3\nmax_batches=4000\nmax_epochs=12\n" + CONV)
    share, lengthen = restarts(spec)
    assert (share, lengthen, epochs(spec)) == (0.25, 3, 12)
    schedule = Schedule(steps=80, cycle=round(share * 80), lengthen=lengthen, final=0.0)
    rates = [schedule.cosine(step) for step in range(80)]
    assert [step for step, rate in enumerate(rates) if rate == 1] == [0, 20]  # the second cycle is 60 long
    assert rates[19] == pytest.approx(0) and rates[79] == pytest.approx(0)
    assert restarts(parse_cfg("[net]\npolicy=steps\nsgdr_cycle=9\nmax_batches=99\n" + CONV))[0] == 0
