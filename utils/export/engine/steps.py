"""What every edge carries in the steps of stream mode, by the executor that defines it."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from utils.darknet.shapes import channels, sizes
from utils.quantization.executor import image_levels
from utils.quantization.integer import IntegerNetwork
from utils.spiking.spike_schedule import encode
from utils.spiking.stream import Spikes, State, StreamExecutor

Levels = dict[int, np.ndarray]


def spikes_of(network: IntegerNetwork, image: Tensor, steps: int) -> list[Levels]:
    """int64 [C,H,W] of every edge: the spikes of each step, the first one with the image (-1), and then their sums.

    Args:
        image: [1,C,H,W] of n / 255.
    """
    executor = StreamExecutor(encode(network), schedule="preload", steps=steps)
    size, width = sizes(network.spec, *image.shape[2:]), channels(network.spec)
    silent = {i: np.zeros((width[i], *size[i]), np.int64) for i in network.grids if i >= 0}
    found: list[Levels] = []

    def watch(_state: State, spikes: Spikes) -> None:
        found.append(silent | {i: each[0].long().numpy() for i, each in spikes.items() if i >= 0 and each is not None})

    with torch.no_grad():
        executor.run(image, watch)
    found += [silent] * (steps - len(found))
    counts = {i: sum((each[i] for each in found), start=silent[i]) for i in silent}
    pixels = {-1: image_levels(image)[0].long().numpy()}
    return [*([found[0] | pixels, *found[1:]] if found else []), counts | pixels]
