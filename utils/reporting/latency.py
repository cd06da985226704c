"""How long a network takes for one image on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


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


def measure_latency(
    predictor: Callable[[Tensor], Any],
    size: tuple[int, int],
    *,
    batch: int = 1,
    channels: int = 3,
    repeats: int = 50,
    seconds: float = 5.0,
    device: str | torch.device = "cpu",
) -> Latency:
    """Time a predictor on random images, in eval mode and channels_last, after a warm-up.

    On the CPU both with all threads and with one, and the faster is told: waking threads up costs a small network more
    than they bring.

    Args:
        predictor: a module or any function of images [N, C, H, W] in 0..1.
        size: (height, width) in px.
        batch: images a pass.
        channels: of the image.
        repeats: at most so many passes are timed, at least three.
        seconds: no further pass starts after so long.
        device: where the predictor lives; a GPU is waited for before the clock is read.
    """
    device = torch.device(device)
    image = torch.rand(batch, channels, *size, device=device).to(memory_format=torch.channels_last)
    training = predictor.training if isinstance(predictor, nn.Module) else None
    if isinstance(predictor, nn.Module):
        predictor.eval()
    threads = torch.get_num_threads()
    with torch.inference_mode():
        tried = {1, threads} if device.type == "cpu" else {threads}
        found = [_timed(predictor, image, n, repeats=repeats, seconds=seconds / len(tried)) for n in sorted(tried)]
    torch.set_num_threads(threads)
    if isinstance(predictor, nn.Module) and training is not None:
        predictor.train(training)
    return min(found, key=lambda latency: latency.median)


def _timed(predictor: Callable[[Tensor], Any], image: Tensor, threads: int, *, repeats: int, seconds: float) -> Latency:
    torch.set_num_threads(threads)
    times: list[float] = []
    began = _now(image.device)
    while len(times) < 3 + 3 or (len(times) < repeats + 3 and _now(image.device) - began < seconds):
        start = _now(image.device)
        predictor(image)
        times.append(1000 * (_now(image.device) - start))
    timed = times[3:]  # the first passes build kernels and fill caches
    low, _, high = statistics.quantiles(timed, n=4, method="inclusive")
    return Latency(statistics.median(timed), low, high, len(timed), len(image), threads)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
