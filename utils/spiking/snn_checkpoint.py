"""The ``.snn.pt`` file: a spiking network by itself, integers packed at their bit width, and the mode to run it in."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from utils.darknet.network import Checkpoint, Network, load_checkpoint, save_checkpoint
from utils.errors import InputError
from utils.files import free_path
from utils.quantization.int_checkpoint import integer_of, to_checkpoint
from utils.quantization.integer import IntegerNetwork
from utils.spiking.choices import EARLIER_WORDS, LAYERWISE, RATE, STREAM
from utils.spiking.layerwise import LayerwiseExecutor
from utils.spiking.rate import RateNetwork
from utils.spiking.rate_executor import RateExecutor
from utils.spiking.spike_schedule import SpikingNetwork, encode
from utils.spiking.stream import StreamExecutor


@dataclass(frozen=True)
class ExecutionMode:
    """How a spiking network is run.

    ``mode`` of ``MODES``. For stream: ``rule`` of the neurons, ``schedule`` of pixels and biases, and ``timesteps``
    after which it is read out (None: when it is settled). For rate ``timesteps`` is T. Layerwise needs none of them.
    """

    mode: str = LAYERWISE
    timesteps: int | None = None
    rule: str = "st-bif"
    schedule: str = "spread"


EXACT = ExecutionMode().rule  # the neurons that are their integers once they are settled


def executor_of(network: SpikingNetwork, run: ExecutionMode) -> nn.Module:
    """The predictor that runs integers as spikes in the mode that was chosen.

    Raises:
        InputError: the mode is unknown, or cannot run this network.
    """
    if run.mode == LAYERWISE:
        return LayerwiseExecutor(network)
    if run.mode == STREAM:
        return StreamExecutor(network, rule=run.rule, steps=run.timesteps, schedule=run.schedule)
    raise InputError(f"mode {run.mode!r} of a spiking network is unknown; the file is of a newer version")


def save_integers(
    path: str | Path,
    integer: IntegerNetwork,
    kind: str = "quantised",
    *,
    names: tuple[str, ...] = (),
    meta: dict[str, Any] | None = None,
    run: ExecutionMode | None = None,
    replace: bool = False,
) -> Path:
    """Write ``.int.pt`` or, of kind "spiking", ``.snn.pt``: packed integers, whole or not at all.

    Args:
        path: taken as it is when nobody has it, or with ``-2``, ``-3`` … in it.
        integer: the network.
        kind: "quantised" or "spiking".
        names: of the classes.
        meta: plain values that tell how it was made.
        run: the mode in which it spikes.
        replace: write over a file of that name.

    Returns:
        The path that was written.
    """
    meta = (meta or {}) | ({"run": asdict(run)} if run else {})
    made = to_checkpoint(integer, kind, names, meta)
    return save_checkpoint(path if replace else free_path(path), made)


def load_spiking(path: str | Path) -> SpikingNetwork:
    """Read what ``save_integers`` wrote of a spiking network; the timetable follows from the layers.

    Raises:
        InputError: the file is missing, damaged, or holds another kind of network.
    """
    return encode(integer_of(load_checkpoint(path), str(path)))


def save_rate(
    path: str | Path, rate: RateNetwork, *, names: tuple[str, ...] = (), meta: dict[str, Any] | None = None
) -> Path:
    """Write a rate-mode network, under a name that is free: floats, since there are no integers in it."""
    payload: dict[str, Any] = {"scales": dict(rate.scales), "reset": rate.reset}
    meta = (meta or {}) | {"run": asdict(ExecutionMode(RATE, rate.timesteps))}
    return save_checkpoint(free_path(path), Checkpoint(rate.network, tuple(names), "spiking", {}, meta, payload))


def open_spiking(checkpoint: Checkpoint, name: str = "checkpoint") -> tuple[nn.Module, IntegerNetwork | None]:
    """The executor of a checkpoint of kind "spiking", in the mode that the file remembers (layerwise when it is older).

    Returns:
        The predictor and its integers; in rate mode there are none.

    Raises:
        InputError: the file is damaged or of a newer version.
    """
    run = run_of(checkpoint.meta)
    if run.mode == RATE:
        scales: dict[int, Tensor] = checkpoint.payload["scales"]
        network = Network(checkpoint.network.spec, checkpoint.network.state)
        return RateExecutor(RateNetwork(network, scales, run.timesteps or 1, checkpoint.payload["reset"])), None
    integer = integer_of(checkpoint, name)
    return executor_of(encode(integer), run), integer


def run_of(meta: dict[str, Any]) -> ExecutionMode:
    """What a checkpoint's ``meta`` says of its mode; words of before are read as those of now."""
    run = dict(meta.get("run", {}))
    for name in ("mode", "rule"):
        run |= {name: EARLIER_WORDS.get(run[name], run[name])} if name in run else {}
    return ExecutionMode(**run)
