"""Two processes of a test: they end in time, or the test says so."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack

import pytest
import torch
import torch.multiprocessing as mp

PROCESSES = 2


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, all different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for free in sockets:
            free.bind(("127.0.0.1", 0))
        return [free.getsockname()[1] for free in sockets]


def run_together(function: Callable[..., object], *arguments: object, seconds: float = 240) -> None:
    """Call function(rank, *arguments) in each of two processes, as torchrun would start them.

    Raises:
        mp.ProcessRaisedException: one of them failed.
    """
    jobs = mp.spawn(_ranked, args=(function, arguments), nprocs=PROCESSES, join=False, daemon=True)
    end = time.monotonic() + seconds
    try:
        while not jobs.join(timeout=1):
            if time.monotonic() > end:
                pytest.fail(f"two processes hang: {function.__name__} took over {seconds} seconds")
    finally:
        for process in jobs.processes:
            process.kill()


def _ranked(rank: int, function: Callable[..., object], arguments: tuple[object, ...]) -> None:
    torch.set_num_threads(1)
    named = {"RANK": rank, "WORLD_SIZE": PROCESSES, "LOCAL_RANK": rank}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in named.items()}}
    function(rank, *arguments)
