"""How long networks take for the same images on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

WARM_UP, LEAST = 3, 3  # passes of each that are not timed, at most, and that are, at least
TURN, TURN_MS = 5, 100.0  # passes of a turn, and ms after which it ends
IMAGES = 4  # axes of a batch that has no steps of its own


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one forward pass: the median, and the middle half of the repeats as its spread."""

    median: float
    low: float
    high: float
    repeats: int
    batch: int
    threads: int

    def __str__(self) -> str:
        return f"{self.median:.3g} ms ({self.low:.3g} to {self.high:.3g}, {self.repeats} times, {self.threads} threads)"


def measure_in_turns(
    predictors: Mapping[str, Callable[[Tensor], Any]], images: Tensor, *, repeats: int = 50, seconds: float = 2.0
) -> dict[str, Latency]:
    """Time predictors on the same images, a few passes each by turns, so that what else the machine does meets all.

    In eval mode and channels_last, after a warm-up. On the CPU both with all threads and with one, and the faster is
    told: waking threads up costs a small network more than they bring. One thread is left away where every predictor
    takes over 100 ms with all of them.

    Args:
        predictors: name -> a module, or any function of images, on the device of the images.
        images: what each is given, [N, C, H, W] or [N, T, C, H, W] in 0..1.
        repeats: at most so many passes of a predictor are timed, at least three.
        seconds: no further round starts after so long a predictor.
    """
    images = images.to(memory_format=torch.channels_last) if images.dim() == IMAGES else images
    modules = [each for each in predictors.values() if isinstance(each, nn.Module)]
    modes = [each.training for each in modules]
    threads, found = torch.get_num_threads(), list[dict[str, Latency]]()
    tried = {1, threads} if images.device.type == "cpu" else {threads}
    try:
        for each in modules:
            each.eval()
        with torch.inference_mode():
            for count in sorted(tried, reverse=True):
                torch.set_num_threads(count)
                found.append(_round_robin(predictors, images, repeats, seconds * len(predictors) / len(tried)))
                if all(each.low > TURN_MS for each in found[0].values()):
                    break
    finally:
        torch.set_num_threads(threads)
        for each, training in zip(modules, modes, strict=True):
            each.train(training)
    return {name: min((run[name] for run in found), key=lambda latency: latency.median) for name in predictors}


def _round_robin(
    predictors: Mapping[str, Callable[[Tensor], Any]], images: Tensor, repeats: int, seconds: float
) -> dict[str, Latency]:
    for predictor in predictors.values():
        _turn(predictor, images, WARM_UP)  # the first passes build kernels and fill caches
    times: dict[str, list[float]] = {name: [] for name in predictors}
    began = _now(images.device)
    while (least := min(map(len, times.values()))) < LEAST or (
        least < repeats and _now(images.device) - began < seconds
    ):
        for name, predictor in predictors.items():
            times[name] += _turn(predictor, images, min(TURN, repeats - len(times[name])))
    return {name: _latency(timed, len(images)) for name, timed in times.items()}


def _turn(predictor: Callable[[Tensor], Any], images: Tensor, passes: int) -> list[float]:
    """Milliseconds of some passes, fewer where they are long: caches are warm again after the first."""
    timed: list[float] = []
    while not timed or (len(timed) < passes and sum(timed) < TURN_MS):
        start = _now(images.device)
        predictor(images)
        timed.append(1000 * (_now(images.device) - start))
    return timed


def _latency(timed: list[float], batch: int) -> Latency:
    low, median, high = statistics.quantiles(timed, n=4, method="inclusive")
    return Latency(median, low, high, len(timed), batch, torch.get_num_threads())


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
