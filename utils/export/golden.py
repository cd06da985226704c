"""Golden vectors: what every layer gives for some images, by the torch executor."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from utils.export.formats import ACCUMULATOR, word_of, write_tensor
from utils.quantization.executor import IntegerExecutor
from utils.quantization.integer import IntegerNetwork
from utils.quantization.support import readouts


def write_golden(folder: Path, network: IntegerNetwork, images: Tensor, forms: Sequence[str]) -> dict[str, Any]:
    """Write golden/<k>/: the image, the output of every layer, the accumulators of every read-out.

    The input of a layer is the output of the layers it reads, so it is not written again.

    Returns:
        The manifest's entry: per image, layer number as text -> tensor; "-1" is the image.
    """
    executor, ends = IntegerExecutor(network), sorted(set(readouts(network.spec)))
    tensors = []
    for k in tqdm(range(len(images)), desc="golden vectors", leave=False, delay=2, disable=None):
        trace = executor.trace(images[k : k + 1])
        entry = {}
        for i, levels in sorted(trace.levels.items()):
            grid = network.grids[i]
            stem = f"golden/{k}/image" if i < 0 else f"golden/{k}/{i:03d}_out"
            entry[str(i)] = write_tensor(folder, stem, levels[0].numpy(), word_of(grid.lo, grid.hi), forms)
        for i in ends:
            stem = f"golden/{k}/{i:03d}_acc"
            entry[str(i)] = write_tensor(folder, stem, trace.accumulators[i][0].numpy(), ACCUMULATOR, forms)
        tensors.append(entry)
    return {"images": len(images), "tensors": tensors}
