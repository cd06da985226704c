"""A quantised training run in a file: the integers that it made, and the floats and scales to go on from.

A checkpoint of kind "trained": its state is the float network's, named as ever; its payload is an integer file's
(`intfile`), and with it the folded cfg that those integers belong to, the scales of the run, and how it folded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from utils.darknet.cfg import parse_cfg, write_cfg
from utils.darknet.network import Checkpoint, Network, State
from utils.errors import InputError
from utils.quantization.fake import FakeQuantised
from utils.quantization.int_checkpoint import integer_of, to_checkpoint
from utils.quantization.integer import IntegerNetwork
from utils.quantization.scheme import Scheme

KIND = "trained"


@dataclass(frozen=True)
class Observed:
    """What a quantised run knew beside its weights."""

    scheme: Scheme
    fold: bool
    learn: bool
    counts: dict[int, int]
    state: State


def to_trained(
    model: FakeQuantised, names: tuple[str, ...] = (), *, training: dict[str, Any], meta: dict[str, Any]
) -> Checkpoint:
    """The model's present state as a checkpoint.

    Raises:
        InputError: an accumulator needs more than 32 bits.
    """
    integer = model.executor().network
    payload = to_checkpoint(integer, "quantised").payload | {
        "cfg": write_cfg(integer.spec),
        "observers": model.observers(),
        "counts": model.counts,
        "fold": model.fold,
        "learn": model.learn,
    }
    return Checkpoint(model.float_network(), tuple(names), KIND, training, meta, payload)


def as_integers(checkpoint: Checkpoint, name: str = "checkpoint") -> Checkpoint:
    """The integer file that is in a trained checkpoint; any other comes back as it is."""
    if checkpoint.kind != KIND:
        return checkpoint
    spec = parse_cfg(checkpoint.payload["cfg"], f"{name}'s integer cfg")
    return Checkpoint(Network(spec, {}), checkpoint.names, "quantised", {}, checkpoint.meta, dict(checkpoint.payload))


def trained_integer(checkpoint: Checkpoint, name: str = "checkpoint") -> IntegerNetwork:
    """The integers in a trained checkpoint."""
    return integer_of(as_integers(checkpoint, name), name)


def observed_in(checkpoint: Checkpoint) -> Observed | None:
    """Scheme and scales of a trained checkpoint; None for any other kind."""
    if checkpoint.kind != KIND:
        return None
    payload = checkpoint.payload
    try:
        scheme = Scheme.from_dict(payload["scheme"])
        counts, state = dict(payload["counts"]), dict(payload["observers"])
        return Observed(scheme, bool(payload["fold"]), bool(payload["learn"]), counts, state)
    except KeyError as error:
        raise InputError(f"checkpoint: a trained one without {error}; the file is damaged") from error
