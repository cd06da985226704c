"""Processes on one machine that train one network, started by train.py itself: what torchrun does there, without it.

A small network's step is many short operations, which threads wait for each other in; processes with a share of the
batch each do not. The mathematics is that of `distributed`: gradients are added up, statistics of batch norm taken over
all of them.
"""

from __future__ import annotations

import logging
import os
import socket
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO

import torch

from utils.training.distributed import BEREFT

log = logging.getLogger(__name__)

GAIN = 1.15  # what processes must bring over threads, since adding gradients up is not in the measurement
POLL = 0.2  # s
GRACE = 10.0  # s, for another process to say why it ended: the first one notices that sooner than its traceback is out
LAST = 12  # lines of a process that failed: a traceback's end
TO_MEET = 0.004  # s, until two processes that share a machine have met once: seen in benchmarks/processes.py, 2 cores


@dataclass(frozen=True)
class Choice:
    """How many processes with how many threads each, and what was measured, in words."""

    processes: int
    threads: int
    words: str


def choose(
    step: Callable[[int], object], images: int, cores: int, *, seconds: float = 1.0, meetings: int = 0
) -> Choice:
    """Threads in one process or processes with their share of the threads, by a measurement.

    Args:
        step: forward and backward of so many images, in this process.
        images: of a batch.
        cores: there are.
        seconds: to spend, about.
        meetings: how often processes wait for each other in a step, twice for each batch norm.
    """
    if cores < 2 or images < 2:
        return Choice(1, cores, f"{cores} cores and batches of {images}: nothing to share")
    shares = sorted({count for count in (cores, cores // 2) if 2 <= count <= images}, reverse=True)
    before, each = torch.get_num_threads(), seconds / (1 + len(shares))
    try:
        whole = _timed(step, images, cores, each)
        parts = {count: _timed(step, -(-images // count), cores // count, each) for count in shares}
        parts = {count: taken + meetings * TO_MEET for count, taken in parts.items()}
    finally:
        torch.set_num_threads(before)
    words = f"a step of {images} images takes {1000 * whole:.0f} ms with {cores} threads"
    words += "".join(
        f", of {-(-images // n)} with {cores // n} of them {1000 * taken:.0f} ms" for n, taken in parts.items()
    )
    words += f", {meetings} meetings in it" if meetings else ""
    best = min(parts, key=lambda count: parts[count])
    if parts[best] * GAIN > whole:
        return Choice(1, cores, words)
    return Choice(best, cores // best, words)


def _timed(step: Callable[[int], object], images: int, threads: int, seconds: float) -> float:
    """Seconds of a step, the median."""
    torch.set_num_threads(threads)
    step(images)  # builds kernels and fills caches
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 2 or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        step(images)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def run_workers(words: Sequence[str], count: int, threads: int) -> int:
    """Run a command in so many processes that find each other; the first one speaks for all.

    Returns:
        The exit code: the first that is not 0, of the first process rather than of another; 128 and its number for a
        signal. What another one said last is told where it ended otherwise than the first.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {
        "WORLD_SIZE": count,
        "LOCAL_WORLD_SIZE": count,
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": port,
        "OMP_NUM_THREADS": threads,
    }
    with ExitStack() as stack:
        outputs = [None, *(stack.enter_context(tempfile.TemporaryFile()) for _ in range(1, count))]
        processes = []
        try:
            for rank, output in enumerate(outputs):
                named = {**shared, "RANK": rank, "LOCAL_RANK": rank}
                env = os.environ | {name: str(value) for name, value in named.items()}
                processes.append(subprocess.Popen(words, env=env, stdout=output, stderr=output))
            while all(process.poll() is None for process in processes):
                time.sleep(POLL)
            codes = _ended(processes)
            _tell_others(codes, outputs)
            return next((code for code in codes if code), 0)
        finally:
            for process in processes:
                if process.poll() is None:
                    process.terminate()
            for process in processes:
                process.wait()


def _ended(processes: Sequence[subprocess.Popen[bytes]]) -> list[int | None]:
    """Wait for all when one has ended well; the exit codes, nothing of one that still runs."""
    limit = time.monotonic() + 90.0  # one that lost the others notices within --rank-timeout
    while any(process.poll() is None for process in processes) and time.monotonic() < limit:
        if any(process.poll() for process in processes) and processes[0].poll() is not None:
            limit = min(limit, time.monotonic() + GRACE)
        time.sleep(POLL)
    codes = [process.poll() for process in processes]
    return [code if code is None or code >= 0 else 128 - code for code in codes]


def _tell_others(codes: Sequence[int | None], outputs: Sequence[IO[bytes] | None]) -> None:
    """What processes said last that failed otherwise than the first one, whose words the user has read."""
    for rank, (code, output) in enumerate(zip(codes, outputs, strict=True)):
        if output is None or code in (None, 0, codes[0]):
            continue
        output.seek(0)
        said = output.read().decode(errors="replace").splitlines()[-LAST:]
        if said and said[-1].endswith(BEREFT):  # whose fault it is not
            continue
        log.error("\n".join([f"process {rank} of {len(codes)} ended with code {code}; what it said last:", *said]))
