"""What a training follows of a cfg: its length, the restarts of its rate, the front that does not learn."""

from __future__ import annotations

from utils.darknet.spec import ModelSpec
from utils.errors import InputError
from utils.numbers import is_whole

RESTARTING = "sgdr"
LENGTHEN = 2  # Darknet's default of sgdr_mult


def epochs(spec: ModelSpec) -> int:
    """``max_epochs``, 0 where a cfg does not say.

    Raises:
        InputError: it is no whole number.
    """
    return _whole(spec, "max_epochs", 0)


def restarts(spec: ModelSpec) -> tuple[float, int]:
    """The first cycle of ``policy=sgdr`` as a share of the run, and how many times as long each further one is.

    ``sgdr_cycle`` counts iterations of ``max_batches``; a run of another length has as many cycles. (0, 2): one cosine.

    Raises:
        InputError: a number that is none.
    """
    cycle, whole = _whole(spec, "sgdr_cycle", 0), _whole(spec, "max_batches", 0)
    lengthen = max(1, _whole(spec, "sgdr_mult", LENGTHEN))
    if dict(spec.net).get("policy") != RESTARTING or not 0 < cycle < whole:
        return 0.0, LENGTHEN
    return cycle / whole, lengthen


def _whole(spec: ModelSpec, key: str, default: int) -> int:
    said = dict(spec.net).get(key, str(default)).strip()
    if not is_whole(said):
        raise InputError(f"cfg [net]: {key}={said} must be a whole number from 0 up")
    return int(said)


def stops(spec: ModelSpec) -> tuple[tuple[int, int], ...]:
    """(layer, steps) of every ``stopbackward``: 1 for good, a larger number for so many steps.

    Raises:
        InputError: a number that is none, or one that freezes every layer with weights.
    """
    found = []
    for i, layer in enumerate(spec.layers):
        said = dict(layer.options).get("stopbackward", "0").strip()
        if not is_whole(said):
            raise InputError(f"cfg line {layer.line}: stopbackward={said} must be a whole number from 0 up")
        if int(said) and i >= max(spec.kernels, default=-1):
            raise InputError(
                f"cfg line {layer.line}: stopbackward freezes every layer with weights; take it out to train"
            )
        found += [(i, int(said))] if int(said) else []
    return tuple(found)


BATCH = 16  # images at once, when neither cfg nor flag says


def batch_size(spec: ModelSpec) -> int:
    """Images at once as [net] says: batch / subdivisions, where batch is that of a training cfg."""
    return max(1, spec.batch // spec.subdivisions) if spec.batch > 1 else BATCH
