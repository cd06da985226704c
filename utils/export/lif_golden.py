"""Golden vectors of a network of leaky neurons: what every layer sends in every step, and the read-outs' sums."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from utils.export.formats import ACCUMULATOR, word_of, write_tensor
from utils.quantization.integer import IntegerNetwork
from utils.spiking.lif_integers import LifExecutor, LifNetwork


def write_lif_golden(
    folder: Path, network: LifNetwork, step: IntegerNetwork, images: Tensor, forms: Sequence[str]
) -> dict[str, Any]:
    """Write golden/<k>/: the image, what every layer sends [T,C,H,W], the accumulators' sums of every read-out.

    Args:
        images: [N,C,H,W] in 0..1, or frames [N,T,C,H,W].

    Returns:
        The manifest's entry, as `write_golden` gives it. There are no trains apart: what neurons send is their train.

    Raises:
        InputError: pixels are no bytes.
    """
    plain = [form for form in ("npy", "mem") if form in forms]
    executor, frames, tensors = LifExecutor(network), network.spec.input_frames, []
    for k in tqdm(range(len(images)), desc="golden vectors", leave=False, delay=2, disable=None):
        trace, entry = executor.trace(images[k : k + 1]), {}
        for i, grid in sorted(step.grids.items()):
            stem = f"golden/{k}/image" if i < 0 else f"golden/{k}/{i:03d}_out"
            sent = trace.sent[i][:, 0]
            values = (sent if i >= 0 or frames else sent[0]).numpy()
            entry[str(i)] = write_tensor(folder, stem, values, word_of(grid.qmin, grid.qmax), plain)
        for i, total in sorted(trace.totals.items()):
            entry[str(i)] = write_tensor(folder, f"golden/{k}/{i:03d}_acc", total[0].numpy(), ACCUMULATOR, plain)
        tensors.append(entry)
    return {"images": len(images), "tensors": tensors, "spikes": []}
