"""The fields of an integer file, held to their types before anything is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from utils.darknet.spec import ModelSpec
from utils.errors import InputError
from utils.quantization.scheme import BITS, Scheme

NO_INTEGERS = torch.zeros(0, dtype=torch.int32)
TENSORS = {  # of the whole network, one after the other
    "weights": torch.uint8,
    "biases": torch.int32,
    "gains": torch.int32,
    "scales": torch.float64,
    "sums": torch.int32,
    "tables": torch.int32,
}
WIDE = 2**31 - 1
RANGES = {  # of the numbers of a layer; what they may be together is `check_integer`'s to say
    "w_bit": (min(BITS), max(BITS)),
    "acc_bits": (1, 32),
    "f": (1, 62),
    "lo": (-WIDE, WIDE),
    "hi": (-WIDE, WIDE),
    "channels": (1, WIDE),
    "bent": (0, 1),
    "entries": (1, WIDE),
    "count": (1, WIDE),
}
ANSWER = ("f", "lo", "hi", "channels", "bent")  # a requantiser's


def check_fields(payload: Mapping[str, Any], spec: ModelSpec, name: str) -> None:
    """Refuse a payload of which a field is missing, unknown or of another type.

    Raises:
        InputError: names the layer and the field.
    """
    for key, kind in TENSORS.items():
        given = payload.get(key, NO_INTEGERS.to(kind))
        if not isinstance(given, Tensor) or given.dtype != kind or given.dim() != 1:
            raise _wrong(name, f"its {key} are no row of {kind}")
    for key, first in (("layers", 0), ("grids", -1)):
        given = payload.get(key)
        if not isinstance(given, dict) or not all(type(i) is int and first <= i < len(spec.layers) for i in given):
            raise _wrong(name, f"its {key} are not by layer number")
    kernels = spec.kernels
    for i, numbers in payload["layers"].items():
        _check_layer(numbers, i in kernels, f"{name}: {_place(spec, i)}")
    for i, grid in payload["grids"].items():
        whole = isinstance(grid, list | tuple) and [type(each) for each in grid] == [float, int, int]
        if not whole:
            raise _wrong(f"{name}: {_place(spec, i)}", "its levels are not a scale, a lowest and a highest")


def scheme_in(payload: Mapping[str, Any], name: str) -> Scheme:
    """How a file's integers were made.

    Raises:
        InputError: it is of a newer version, or says what no scheme can.
    """
    try:
        return Scheme.from_dict(payload["scheme"])
    except InputError as error:
        raise _wrong(name, str(error).partition(";")[0]) from error
    except (KeyError, TypeError, ValueError) as error:
        raise _wrong(name, "how it was quantised cannot be read") from error


def _check_layer(numbers: Any, kernel: bool, place: str) -> None:
    if not isinstance(numbers, dict):
        raise _wrong(place, "has no numbers")
    read_out = kernel and "f" not in numbers
    needed = {*(("w_bit", "acc_bits") if kernel else ()), *(() if read_out else ANSWER)}
    known = needed | {"entries"} | (set() if kernel else {"gains", "count"})
    if not needed <= set(numbers) or not set(numbers) <= known:
        key = next(iter(sorted(needed - set(numbers)) or sorted(set(numbers) - known, key=str)))
        raise _wrong(place, f"its field {key!r} is {'missing' if key in needed else 'unknown'}")
    for key in set(numbers) & set(RANGES):
        least, most = RANGES[key]
        if type(numbers[key]) is not int or not least <= numbers[key] <= most:
            raise _wrong(place, f"{key} = {numbers[key]!r}, where {least} to {most} is possible")
    gains = numbers.get("gains", [])
    if not isinstance(gains, list | tuple) or not all(type(gain) is int and abs(gain) <= WIDE for gain in gains):
        raise _wrong(place, "the gains of its sum are no whole numbers")


def _place(spec: ModelSpec, i: int) -> str:
    return f"layer {i} (cfg line {spec.layers[i].line})" if i >= 0 else "the image"


def _wrong(place: str, fact: str) -> InputError:
    return InputError(f"{place}: {fact}; the file is damaged or of another program, convert the network again")
