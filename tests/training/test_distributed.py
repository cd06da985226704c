"""Two processes that share each batch learn what one learns that has it to itself."""

from __future__ import annotations

import copy
import os
import time
import weakref
from collections.abc import Callable
from datetime import timedelta
from itertools import zip_longest

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

from tests.training.shares import tickets
from tests.training.together import PROCESSES, free_ports, run_together
from tests.training.toy import ToyBatch, ToyLoader, toy_model, train
from utils.config.train import TrainConfig
from utils.training.distributed import PATIENCE, Group, from_environment, joined
from utils.training.sync_norm import SyncBatchNorm, synchronised


def run_in_two(function: Callable[[Group], object], folder) -> list[object]:
    """What the function returns in each of two processes of a gloo group."""
    run_together(_one, function, str(folder), free_ports(1)[0])  # raises where one of them fails
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(PROCESSES)]


def _one(rank: int, function: Callable[[Group], object], folder: str, port: int) -> None:
    os.environ["MASTER_PORT"] = str(port)
    group = from_environment(timedelta(seconds=float(os.environ.get("PATIENCE", PATIENCE.total_seconds()))))
    with joined(group, cuda=False):
        torch.save(function(group), f"{folder}/{rank}.pt")


class Shared(ToyLoader):
    """A process's part of every batch."""

    def __init__(self, group: Group, **arguments: int) -> None:
        super().__init__(**arguments)
        self.group = group

    def __iter__(self):
        for batch in super().__iter__():
            part = slice(self.group.rank, None, self.group.size)
            yield ToyBatch(batch.images[part], batch.labels[part], batch.indices[part])


def learn(group: Group, bn: bool):
    model = toy_model(bn=bn)
    model = synchronised(model) if bn and group.size > 1 else model
    results = train(
        model, Shared(group, batch=5), epochs=3, accumulate=2, clip=1.0, group=group, shared=group.wrap(model)
    )
    return [result.losses["total"] for result in results], [r.images for r in results], model.state_dict()


def learn_unsynchronised(group: Group):
    model = toy_model()
    return train(model, Shared(group, batch=6), epochs=2, group=group, shared=group.wrap(model))[-1].losses["total"]


def talk(group: Group):
    helper = nn.Parameter(torch.zeros(2))
    helper.grad = torch.full((2,), float(group.rank))
    group.add_gradients([helper])
    items = [f"{group.rank}{k}" for k in range(group.rank + 1)]
    norm = nn.BatchNorm2d(2)
    for tensor in norm.state_dict().values():
        tensor += 1 + group.rank
    group.broadcast(norm)
    message = group.total(group.rank + 1), group.shared(f"of {group.rank}"), group.all_gather(items), helper.grad
    return *message, norm.state_dict()


def everything(group: Group):
    return {
        "plain": learn(group, bn=False),
        "synchronised": learn(group, bn=True),
        "alone": learn_unsynchronised(group),
        "said": talk(group),
    }


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    return run_in_two(everything, tmp_path_factory.mktemp("two"))


@pytest.mark.parametrize("norm", ["plain", "synchronised"])
def test_two_processes_have_the_losses_and_weights_of_one_to_1e5(two, norm):
    alone, images, state = learn(Group(), bn=norm == "synchronised")
    first, second = (each[norm] for each in two)
    assert first[0] == second[0] and first[1] == second[1] == images  # told alike by all
    np.testing.assert_allclose(first[0], alone, rtol=1e-5)
    for name, value in state.items():
        torch.testing.assert_close(first[2][name], value, rtol=1e-4, atol=1e-6, msg=name)
        assert torch.equal(first[2][name], second[2][name]), name


def test_without_synchronised_batch_norm_the_losses_differ(two):
    assert two[0]["alone"] != pytest.approx(learn_unsynchronised(Group()), rel=1e-5)


def test_what_processes_tell_each_other(two):
    for total, shared, all_gather, gradient, norm in (each["said"] for each in two):
        assert (total, shared, all_gather) == (3, "of 0", ["00", "10", "11"])
        assert torch.equal(gradient, torch.full((2,), 0.5))
        assert [value.float().mean() for value in norm.values()] == [2, 1, 1, 2, 1]  # the first one's, counter and all


def test_what_adds_up_gradients_ends_with_the_model_and_before_its_group():
    freed = []
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    wrapped = Group(0, 2).wrap(nn.Linear(2, 2))  # as in two processes: one is never wrapped
    weakref.finalize(wrapped.reducer, freed.append, "reducer")
    dist.destroy_process_group()
    assert freed == []
    rest = vars(wrapped)
    del wrapped
    assert freed == ["reducer"] and rest["process_group"] is not None


def outlive(rank: int, ports: list[int]) -> None:
    """The wrapped model outlives its group every time, as it does in a function that trains."""
    for port in ports:
        os.environ["MASTER_PORT"] = str(port)
        group = from_environment()
        with joined(group, cuda=False):
            shared = group.wrap(toy_model())
            shared(torch.ones(2, 3, 8, 8)).sum().backward()
            group.broadcast(shared)
            group.shared(None)


def test_a_model_that_outlives_its_group_does_not_hang_the_end():
    run_together(outlive, free_ports(8), seconds=60)


def meet_nobody(group: Group):
    """The second process ends while the first waits for it."""
    if group.rank == 1:
        return None
    time.sleep(1.0)
    return group.total(1.0)


def test_a_process_whose_partner_ended_says_so(tmp_path):
    with pytest.raises(mp.ProcessRaisedException, match="InputError: process 0 of 2: another one ended or hangs"):
        run_in_two(meet_nobody, tmp_path)


def test_synchronised_batch_norm_in_one_process_is_batch_norm():
    plain = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5))
    twin = synchronised(copy.deepcopy(plain))
    assert type(twin[1]) is SyncBatchNorm and list(twin.state_dict()) == list(plain.state_dict())
    x = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(twin.eval()(x), plain.eval()(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_synchronised_batch_norm_of_one_process_has_the_gradients_of_batch_norm_far_from_zero_too(dtype):
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    x = (torch.randn(8, 6, 12, 12) + 20 * torch.randn(6, 1, 1)).to(dtype).contiguous(memory_format=torch.channels_last)
    weights = torch.randn(8, 6, 12, 12).to(dtype)

    def gradients(norm: nn.Module, of: torch.Tensor) -> list[torch.Tensor]:
        of = of.clone().requires_grad_()
        (norm(of) * weights.to(of.dtype)).sum().backward()
        return [of.grad, *(each.grad for each in norm.parameters())]

    plain = nn.BatchNorm2d(6)
    try:
        ours = gradients(synchronised(nn.Sequential(copy.deepcopy(plain))), x)
    finally:
        dist.destroy_process_group()
    exact, theirs = gradients(copy.deepcopy(plain).double(), x.double()), gradients(plain, x)
    for mine, other, right in zip(ours, theirs, exact, strict=True):
        assert (mine - right).abs().max() <= 2 * (other - right).abs().max() + 1e-5 * right.abs().max()
    bias = ours[0].float().mean((0, 2, 3)).abs().max()  # what batch norm leaves of a mean
    assert bias < 1e-3 * ours[0].float().abs().mean()


def test_without_torchrun_there_is_a_group_of_one_that_changes_nothing(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    group, model = from_environment(), nn.Linear(2, 2)
    assert group == Group() and group.is_main and group.wrap(model) is model
    assert (group.total(2.5), group.shared("x"), group.all_gather([1, 2])) == (2.5, "x", [1, 2])


@pytest.mark.parametrize("count", [16, 17, 18, 19, 23])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_shares_of_a_batch_make_up_the_batch(count, processes):
    whole = [batch for batch in tickets(count, (0, 1)) if len(batch) >= processes]
    shares = [list(tickets(count, (k, processes))) for k in range(processes)]
    assert all(len(share) == len(whole) == len(tickets(count, (k, processes))) for k, share in enumerate(shares))
    for batch, *parts in zip(whole, *shares, strict=True):
        together = [ticket for row in zip_longest(*parts) for ticket in row if ticket is not None]
        assert together == batch and min(map(len, parts)) > 0


@pytest.mark.parametrize("count", [16, 17, 18, 19, 3])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_shares_of_what_is_only_looked_at_lose_no_image(count, processes):
    shares = [tickets(count, (k, processes), shuffle=False) for k in range(processes)]
    assert all(len(list(share)) == len(share) for share in shares)
    seen = sorted(ticket.index for share in shares for batch in share for ticket in batch)
    assert seen == list(range(count))


def late_where_the_first_prepares(group: Group):
    """The first process takes longer than patience lasts, where the others have nothing to do but wait."""
    if group.is_main:
        time.sleep(2.5)
    return group.shared("ready" if group.is_main else "")


def hang_in_a_step(group: Group):
    if group.rank == 1:
        time.sleep(50)
    return group.total(1.0)


def test_a_process_that_hangs_is_noticed_in_time_and_one_that_prepares_is_waited_for(tmp_path, monkeypatch):
    assert Group().patience.total_seconds() == TrainConfig().rank_timeout == 60
    monkeypatch.setenv("PATIENCE", "1")
    assert run_in_two(late_where_the_first_prepares, tmp_path) == ["ready", "ready"]
    began = time.monotonic()
    with pytest.raises(mp.ProcessRaisedException, match="InputError: process 0 of 2: another one ended or hangs"):
        run_in_two(hang_in_a_step, tmp_path)
    assert time.monotonic() - began < 40
