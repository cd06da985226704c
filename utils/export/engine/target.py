"""What the engine is made of, and what a part has."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from utils.errors import InputError

SIZES = ("lanes", "input_words", "weight_rows")  # what a file may say; the widths follow from the network


@dataclass(frozen=True, kw_only=True)
class Engine:
    """Sizes of an engine.

    Args:
        lanes: L: channels of a word; the array has L x L multipliers, a word of memory L bytes.
        input_words: of the input buffer, a power of two.
        weight_rows: of the weight buffer, a power of two; a row has L x L weights.
        level_bits: of a level, sign included. weight_bits: of a weight. acc_bits: of an accumulator.
        gain_bits: of m, signed. factor_bits: of a shortcut's gain or a gate's level, signed.
        spiking: events and membranes in place of the array. membranes: words of them, a power of two.
    """

    lanes: int = 8
    input_words: int = 8192
    weight_rows: int = 1024
    level_bits: int = 9
    weight_bits: int = 8
    acc_bits: int = 32
    gain_bits: int = 17
    factor_bits: int = 18
    spiking: bool = False
    membranes: int = 2048

    @property
    def kind(self) -> str:
        """As `--engine` says it."""
        return "spikes" if self.spiking else "integer"

    @property
    def parameters(self) -> dict[str, int]:
        """Of module `engine`."""
        return {
            "L": self.lanes,
            "LEVEL": self.level_bits,
            "WEIGHT": self.weight_bits,
            "ACC": self.acc_bits,
            "GAIN": self.gain_bits,
            "FACTOR": self.factor_bits,
            "ADDRESS": self.input_words.bit_length() - 1,
            "ROWS": self.weight_rows.bit_length() - 1,
        } | ({"SPIKES": 1, "MEMBRANE": self.membranes.bit_length() - 1} if self.spiking else {})

    def to_dict(self) -> dict[str, int]:
        """For report.json."""
        of_spikes = ("spiking", "membranes")
        return {key: value for key, value in asdict(self).items() if self.spiking or key not in of_spikes}


def read_engine(path: Path, *, spiking: bool = False) -> Engine:
    """An engine's sizes from a JSON object of ``SIZES``, and ``membranes``; what it does not say is the default.

    Raises:
        InputError: it cannot be read, has another key, or a size that no engine has.
    """
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"--target {path}: {getattr(error, 'strerror', None) or error}") from error
    sizes = (*SIZES, "membranes") if spiking else SIZES
    usual = {field.name: field.default for field in fields(Engine) if field.name in sizes}
    if not isinstance(said, dict) or not set(said) <= set(sizes):
        wrong = next((key for key in said if key not in sizes), "a list") if isinstance(said, dict) else "no object"
        raise InputError(f"--target {path}: {wrong} is not among {', '.join(sizes)}; leave it away")
    limits = {"lanes": (4, 32), "input_words": (64, 65536), "weight_rows": (16, 16384), "membranes": (16, 65536)}
    for key, value in said.items():
        low, high = limits[key]
        if type(value) is not int or value & (value - 1) or not low <= value <= high:
            raise InputError(f"--target {path}: {key} is {value!r}; use a power of two from {low} to {high}")
    return Engine(**{**usual, **said}, spiking=spiking)
