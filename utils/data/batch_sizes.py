"""The sizes of batches: of several scales, and of images of similar aspect."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

from utils.errors import InputError

log = logging.getLogger(__name__)


def scales(size: tuple[int, int], stride: int, *, low: float = 0.67, high: float = 1.5) -> list[tuple[int, int]]:
    """The sizes of multi-scale training: from ``low`` to ``high`` times ``size`` in steps of ``stride`` px."""
    short = min(size)
    sides = range(max(stride, math.ceil(short * low / stride) * stride), int(short * high) + 1, stride)
    return [tuple(round(n * side / short / stride) * stride for n in size) for side in sides]  # type: ignore[misc]


def sides_between(low: int, high: int, stride: int) -> list[tuple[int, int]]:
    """The square sizes of multi-scale training between two sides, both included, that are multiples of ``stride``."""
    return [(side, side) for side in range(max(1, -(-low // stride)) * stride, high + 1, stride)]


def rect_batches(
    shapes: Sequence[tuple[int, int]], size: tuple[int, int], batch_size: int, stride: int
) -> list[tuple[list[int], tuple[int, int]]]:
    """Group images by aspect.

    Args:
        shapes: (height, width) of each image.
        size: the largest (height, width) of a batch.
        batch_size: images a batch.
        stride: sizes are multiples of it.

    Returns:
        The indices of each batch and its (height, width): the least that holds each image scaled to fit ``size``.
    """
    factors = [min(size[0] / h, size[1] / w) for h, w in shapes]
    order = sorted(range(len(shapes)), key=lambda i: (shapes[i][0] / shapes[i][1], i))
    batches = []
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        needed = (max(round(shapes[i][axis] * factors[i]) for i in chosen) for axis in (0, 1))
        batches.append((chosen, tuple(math.ceil(n / stride) * stride for n in needed)))
    return batches  # type: ignore[return-value]


def several_sizes(sides: tuple[int, int] | None, size: tuple[int, int], stride: int) -> list[tuple[int, int]]:
    """The sizes of batches with ``--multi-scale``: between two sides, or around a size.

    Raises:
        InputError: no multiple of the network's stride lies between them.
    """
    sizes = sides_between(*sides, stride) if sides else scales(size, stride)
    if not sizes:
        raise InputError(f"--img-size {sides}: no multiple of {stride}, the network's largest stride, is between")
    told = (*sizes[0], *sizes[-1], stride, *size)
    log.info("--multi-scale: %dx%d to %dx%d px in steps of %d, measured at %dx%d", *told)
    return sizes
