"""The ``.snn.pt`` file: a spiking network by itself, its integers packed at their bit width."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from utils.darknet.network import load_checkpoint, save_checkpoint
from utils.quantization.intfile import integer_of, to_checkpoint
from utils.spiking.encode import SpikingNetwork, encode


def save_spiking(
    path: str | Path, network: SpikingNetwork, names: tuple[str, ...] = (), meta: dict[str, Any] | None = None
) -> Path:
    """Write a ``.snn.pt`` file, whole or not at all."""
    return save_checkpoint(path, to_checkpoint(network.integer, "spiking", names, meta))


def load_spiking(path: str | Path) -> SpikingNetwork:
    """Read what ``save_spiking`` wrote; the timetable follows from the layers.

    Raises:
        InputError: the file is missing, damaged, or holds another kind of network.
    """
    return encode(integer_of(load_checkpoint(path), str(path)))
