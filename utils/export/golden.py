"""Golden vectors: what every layer gives for some images, by the torch executor; and its spikes, by the neuron."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from utils.export.formats import ACCUMULATOR, word_of, write_bits, write_tensor
from utils.quantization.executor import IntegerExecutor, Trace
from utils.quantization.integer import IntConv, IntegerNetwork, IntGate, charge
from utils.quantization.validate import readouts
from utils.spiking.neurons import Neuron
from utils.spiking.spike_schedule import SpikingNetwork, spiking_layers

log = logging.getLogger(__name__)

LARGEST_TRAINS = 2**25  # bytes of packed spikes in an export; what is more is said, and not written


def write_golden(
    folder: Path, network: IntegerNetwork, images: Tensor, forms: Sequence[str], spiking: SpikingNetwork | None = None
) -> dict[str, Any]:
    """Write golden/<k>/: the image, the output of every layer, the accumulators of every read-out, spike trains.

    The input of a layer is the output of the layers it reads, so it is not written again.

    Returns:
        The manifest's entry. ``tensors``: per image, layer number as text -> tensor; "-1" is the image. ``spikes``: per
        image, of as many as there is room for, layer number -> its ``train`` and, where signed, ``sign``.
    """
    plain = [form for form in ("npy", "mem") if form in forms]
    executor, ends = IntegerExecutor(network), sorted(set(readouts(network.spec)))
    tensors, spikes, room = [], [], LARGEST_TRAINS
    for k in tqdm(range(len(images)), desc="golden vectors", leave=False, delay=2, disable=None):
        trace = executor.trace(images[k : k + 1])
        entry = {}
        for i, levels in sorted(trace.levels.items()):
            grid = network.grids[i]
            stem = f"golden/{k}/image" if i < 0 else f"golden/{k}/{i:03d}_out"
            entry[str(i)] = write_tensor(folder, stem, levels[0].numpy(), word_of(grid.qmin, grid.qmax), plain)
        for i in ends:
            stem = f"golden/{k}/{i:03d}_acc"
            entry[str(i)] = write_tensor(folder, stem, trace.accumulators[i][0].numpy(), ACCUMULATOR, plain)
        tensors.append(entry)
        if spiking is not None and room >= 0:
            room -= train_bytes(spiking, trace)
            if room >= 0:
                spikes.append(_write_trains(folder, k, spiking, trace, forms))
    if spiking is not None and room < 0:
        message = "spike trains of %d of %d golden images: more would pass %d bytes, and follow from the levels"
        log.info(message, len(spikes), len(images), LARGEST_TRAINS)
    return {"images": len(images), "tensors": tensors, "spikes": spikes}


def train_bytes(spiking: SpikingNetwork, trace: Trace) -> int:
    """The packed spikes of an image."""
    return spiking.window * sum(trace.levels[i].numel() for i in spiking_layers(spiking.integer)) // 8


def _write_trains(
    folder: Path, k: int, spiking: SpikingNetwork, trace: Trace, forms: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """golden/<k>/NNN_spikes.* of every layer of neurons, and NNN_sign.* where spikes have one."""
    forms, entry = [form for form in forms if form != "coe"], {}
    for i in spiking_layers(spiking.integer):
        train = fire_train(spiking, i, trace)
        planes = {"train": write_bits(folder, f"golden/{k}/{i:03d}_spikes", train != 0, forms)}
        if spiking.integer.grids[i].qmin < 0:
            planes["sign"] = write_bits(folder, f"golden/{k}/{i:03d}_sign", train.min(0) < 0, forms)
        entry[str(i)] = planes
    return entry


def fire_train(spiking: SpikingNetwork, i: int, trace: Trace) -> np.ndarray:
    """What the neurons of layer ``i`` fire in their window, step by step, int8 [T,C,H,W] of {-1, 0, 1}.

    By the neuron's own rule and not from the level, so that the one is evidence for the other.
    """
    op = spiking.integer.ops[i]
    assert not isinstance(op, IntGate) and op.requantiser is not None
    if isinstance(op, IntConv):
        total = trace.accumulators[i]
    else:
        total = charge([trace.levels[j] for j in spiking.spec.layers[i].sources], op, spiking.integer.place(i))
    neuron = Neuron.of(op.requantiser, total.device)
    potential = neuron.charge(total)
    fired = torch.zeros_like(potential)
    steps = [neuron.step(potential, fired)[0].to(torch.int8) for _ in range(spiking.window)]
    return torch.stack(steps).numpy()
