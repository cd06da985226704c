"""Whether a network and its images fit the memory there is, asked before anything of them is allocated."""

from __future__ import annotations

from collections.abc import Collection

import torch

from utils.darknet.counts import parameters
from utils.darknet.shapes import channels, sizes
from utils.darknet.spec import Kernel, ModelSpec
from utils.errors import InputError
from utils.memory import free_memory, in_words

FLOAT = 4  # bytes
TRAINED = 4  # of a weight in training: itself, its gradient, its momentum, its average


def check_memory(
    spec: ModelSpec,
    size: tuple[int, int],
    batch: int,
    device: torch.device,
    *,
    training: bool = False,
    steps: int = 1,
    timed: Collection[int] = (),
) -> None:
    """Refuse what cannot fit, whatever torch does: the least that weights and activations take is compared.

    Args:
        spec: the network.
        size: (height, width) px of its images.
        batch: images at once.
        device: where it runs.
        training: activations are kept for the gradient, and a weight has company.
        steps: in time that are kept at once.
        timed: edges that have values of their own at each of them.

    Raises:
        InputError: it does not fit; the numbers, and what to lower.
    """
    values = kept_values(spec, size, steps, timed) if training else live_values(spec, size)
    weights = parameters(spec) * FLOAT * (TRAINED if training else 1)
    images = values * FLOAT * batch
    need, free = weights + images, _free(device)
    if need <= free:
        return
    flags = f"{size[0]}x{size[1]} px, {batch} images a batch" + f", {steps} steps" * (steps > 1)
    lower = "--img-size or --batch-size" + " or the steps in time" * (steps > 1)
    remedy = "filters= or size= in the cfg" if weights > free else lower
    raise InputError(
        f"memory: {in_words(weights)} of weights and {in_words(images)} of activations ({flags}), {in_words(free)} "
        f"are free; lower {remedy}"
    )


def live_values(spec: ModelSpec, size: tuple[int, int]) -> int:
    """The most values of one image that are held at once when each layer's go after their last reader."""
    values, last = _values(spec, size), spec.last_readers
    live = most = values[-1]
    for i, layer in enumerate(spec.layers):
        live += values[i]
        most = max(most, live)
        live -= sum(values[j] for j in set(layer.sources) if last[j] == i)
    return most


def kept_values(spec: ModelSpec, size: tuple[int, int], steps: int = 1, timed: Collection[int] = ()) -> int:
    """The values of one image that a backward pass needs: every layer's, with batch norm and activation twice.

    Those of ``timed`` edges are kept for each of the ``steps``.
    """
    values = _values(spec, size)
    twice = {i for i, layer in enumerate(spec.layers) if isinstance(layer, Kernel) and layer.bn}
    return sum(value * (2 if i in twice else 1) * (steps if i in timed else 1) for i, value in values.items())


def _values(spec: ModelSpec, size: tuple[int, int]) -> dict[int, int]:
    width, maps = channels(spec), sizes(spec, *size)
    return {i: width[i] * maps[i][0] * maps[i][1] for i in width}


def _free(device: torch.device) -> int:
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else free_memory()
