"""The ``.snn.pt`` file: a spiking network by itself, integers packed at their bit width, and the mode to run it in."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from utils.darknet.integrity import check_state
from utils.darknet.network import Checkpoint, check_fit, load_checkpoint, save_checkpoint
from utils.darknet.shapes import channels
from utils.errors import InputError
from utils.files import free_path
from utils.quantization.int_checkpoint import integer_of, to_checkpoint
from utils.quantization.integer import IntegerNetwork
from utils.quantization.validate import readouts
from utils.spiking.choices import EARLIER_WORDS, LAYERWISE, MODES, NEURONS, RATE, RESETS, SCHEDULES, STREAM
from utils.spiking.layerwise import LayerwiseExecutor
from utils.spiking.rate import RateNetwork
from utils.spiking.rate_executor import RateExecutor
from utils.spiking.spike_schedule import SpikingNetwork, encode
from utils.spiking.stream import StreamExecutor

MOST_STEPS = 2**20  # of any mode; 16-bit levels settle after some hundred thousand


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
    run = run_of(checkpoint.meta, name)
    if run.mode == RATE:
        return RateExecutor(_rate_of(checkpoint, run, name)), None
    integer = integer_of(checkpoint, name)
    return executor_of(encode(integer), run), integer


def converted(checkpoint: Checkpoint, name: str = "checkpoint") -> bool:
    """Whether it holds spikes that are integers; those of rate mode are floats."""
    return checkpoint.kind == "spiking" and run_of(checkpoint.meta, name).mode != RATE


def _rate_of(checkpoint: Checkpoint, run: ExecutionMode, name: str) -> RateNetwork:
    """The rate-mode network of a checkpoint, its fields held to what ``normalise`` makes."""
    spec, payload = checkpoint.network.spec, checkpoint.payload
    check_fit(checkpoint.network.state, spec, name)
    scales, width = payload.get("scales"), channels(spec, name)
    wanted = {-1, *range(len(spec.layers))} - set(readouts(spec)) - set(spec.heads)
    if not isinstance(scales, dict) or set(scales) != wanted:
        raise _wrong(name, "what a rate of 1 stands for is not known of every layer")
    for i, scale in scales.items():
        if not isinstance(scale, Tensor) or tuple(scale.shape) != (width[i],) or not bool((scale > 0).all()):
            raise _wrong(name, f"layer {i}: what a rate of 1 stands for is not {width[i]} numbers above 0")
    check_state({f"scales.{i}": scale for i, scale in scales.items()}, name)
    if payload.get("reset") not in RESETS or run.timesteps is None:
        raise _wrong(name, f"reset {payload.get('reset')!r} after {run.timesteps} steps is no way to run it")
    return RateNetwork(checkpoint.network, scales, run.timesteps, payload["reset"])


def run_of(meta: dict[str, Any], name: str = "checkpoint") -> ExecutionMode:
    """What a checkpoint's ``meta`` says of its mode; words of before are read as those of now.

    Raises:
        InputError: a word or a number of it is none that is known.
    """
    run = meta.get("run", {})
    if not isinstance(run, dict) or not set(run) <= {each.name for each in fields(ExecutionMode)}:
        raise _wrong(name, "how it is run cannot be read")
    renamed: dict[str, Any] = {
        key: EARLIER_WORDS.get(word, word) if isinstance(word, str) else word for key, word in run.items()
    }
    found = ExecutionMode(**renamed)
    for key, known in (("mode", MODES), ("rule", NEURONS), ("schedule", SCHEDULES)):
        if getattr(found, key) not in known:
            raise _wrong(name, f"{key} {getattr(found, key)!r} of a spiking network is unknown")
    steps = found.timesteps
    if steps is not None and (type(steps) is not int or not 1 <= steps <= MOST_STEPS):
        raise _wrong(name, f"{steps!r} time steps, where 1 to {MOST_STEPS} are possible")
    return found


def _wrong(place: str, fact: str) -> InputError:
    return InputError(f"{place}: {fact}; the file is damaged or of a newer version, convert the network again")
