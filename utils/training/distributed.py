"""Several processes that train one network: torchrun starts them, DistributedDataParallel adds their gradients up.

Every process takes its share of each batch, so that the batch of a step is the same whatever their number; the first
one writes. Without torchrun there is a `Group` of one, and nothing here costs anything.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar
from weakref import WeakSet

import torch
import torch.distributed as dist
from torch import Tensor, nn

from utils.errors import InputError

T = TypeVar("T")
Value = TypeVar("Value", float, Tensor)

_WRAPPED: WeakSet[_Averaged] = WeakSet()  # models that hold a part of the group, for as long as somebody holds them
PATIENCE = timedelta(seconds=60)  # for the slowest process of a step: it writes and draws between two
BEREFT = "another one ended or hangs; see what it said"
WAIT = timedelta(minutes=10)  # for the first process where the others have nothing to do: it prepares data, it finishes


@dataclass(frozen=True)
class Group:
    """This process among those that train together.

    ``rank`` counts all of them from 0, ``local`` those on this machine; ``size`` is how many there are; one that does
    not answer for as long as ``patience`` counts as hung.
    """

    rank: int = 0
    size: int = 1
    local: int = 0
    patience: timedelta = PATIENCE

    @property
    def is_main(self) -> bool:
        """Whether this process writes and tells."""
        return self.rank == 0

    @property
    def device(self) -> str:
        """The device of this process, as ``--device`` says it; nothing where there is one process or no GPU."""
        return str(self.local) if self.size > 1 and torch.cuda.is_available() else ""

    def total(self, value: Value) -> Value:
        """The sum over all processes; a tensor stays on its device, and nobody waits for it."""
        if self.size == 1:
            return value
        if isinstance(value, Tensor):
            both = value.detach().to(torch.float64, copy=True)
            dist.all_reduce(both)
            return both.to(value.dtype)
        each = torch.tensor(value, dtype=torch.float64, device=_device())
        dist.all_reduce(each)
        return float(each)

    def mean(self, value: Value) -> Value:
        """The mean over all processes."""
        return self.total(value) / self.size

    def shared(self, value: T) -> T:
        """The first process's value."""
        if self.size == 1:
            return value
        box = [value]
        _be_patient(WAIT)
        dist.broadcast_object_list(box, src=0)
        _be_patient(self.patience)
        return box[0]

    def all_gather(self, items: Sequence[T]) -> list[T]:
        """The items of all processes, in the order of their ranks."""
        if self.size == 1:
            return list(items)
        parts: list[Any] = [None] * self.size
        dist.all_gather_object(parts, list(items))
        return [item for part in parts for item in part]

    def add_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        """Average the gradients of parameters that stand outside of DistributedDataParallel."""
        if self.size == 1:
            return
        for parameter in parameters:
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= self.size

    def broadcast(self, model: nn.Module) -> None:
        """Give every process the first one's parameters and buffers: batch norms' statistics differ otherwise."""
        if self.size > 1:
            for tensor in model.state_dict().values():
                dist.broadcast(tensor, src=0)

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model as the training step calls it; its parameters are the same tensors."""
        if self.size == 1:
            return model
        devices = [self.local] if next(model.parameters()).is_cuda else None
        wrapped = _Averaged(model, device_ids=devices)
        _WRAPPED.add(wrapped)
        return wrapped


class _Averaged(nn.parallel.DistributedDataParallel):
    """DistributedDataParallel that never holds a process group's last reference.

    Its reducer would destroy the group with Python's lock held, and gloo's destructor waits for a thread that needs
    the lock to drop a tensor: a run that was finished then hung at its end, one time in a few.
    """

    logger: Any
    process_group: Any
    reducer: Any

    def release(self) -> None:
        """Let go of the group, while self.process_group still stands: its own destructor gives the lock away."""
        self.logger = self.reducer = None

    def __del__(self) -> None:
        self.release()


def from_environment(patience: timedelta = PATIENCE) -> Group:
    """What torchrun says of this process; a group of one where it says nothing."""
    if "WORLD_SIZE" not in os.environ:
        return Group()
    rank, size, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    return Group(rank, size, local, patience)


def main_first(group: Group, prepare: Callable[[], object]) -> None:
    """What writes shared files: the first process does it, then the others find it done."""
    if group.is_main:
        prepare()
    group.shared(None)
    if not group.is_main:
        prepare()


@contextmanager
def joined(group: Group, *, cuda: bool) -> Iterator[None]:
    """The time in which the processes of a group can talk: by nccl on GPUs, by gloo on CPUs.

    Raises:
        InputError: another process ended or hangs, which this one learns in the middle of whatever it is doing.
    """
    if group.size == 1:
        yield
        return
    if cuda:
        torch.cuda.set_device(group.local)
    dist.init_process_group("nccl" if cuda else "gloo", timeout=WAIT)
    _be_patient(group.patience)
    try:
        yield
    except (dist.DistError, RuntimeError) as error:
        if not _lost(error):
            raise
        message = f"process {group.rank} of {group.size}: {BEREFT}"
        raise InputError(message) from error
    finally:
        for model in list(_WRAPPED):  # somebody may hold one until the interpreter ends, when it is too late
            model.release()
        dist.destroy_process_group()
        for model in list(_WRAPPED):
            model.process_group = None  # the last reference goes now, while threads can still be joined


def _lost(error: Exception) -> bool:
    message = str(error).lower()
    return isinstance(error, dist.DistError) or any(
        word in message for word in ("connection closed", "connection reset", "timed out", "peer", "broken pipe")
    )


def _be_patient(limit: timedelta) -> None:
    """Count another process as hung after so long, in what follows."""
    dist.distributed_c10d._set_pg_timeout(limit)


def _device() -> torch.device:
    cuda = dist.get_backend() == "nccl"
    return torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")
