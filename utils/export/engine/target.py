"""What the engine is made of, and what a part has."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from utils.errors import InputError
from utils.export.choices import OF_SPIKES
from utils.files import no_file

PARTS = Path(__file__).with_name("targets")
SIZES = ("lanes", "input_words", "weight_rows")  # what a file may say; the widths follow from the network
LIMITS = {"lanes": (4, 32), "input_words": (64, 65536), "weight_rows": (16, 16384), "membranes": (16, 65536)}
COUNTS = ("lut", "ff", "dsp", "bram_bytes")
FAMILIES = ("ecp5", "xc7")


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
        stream: all neurons at once, step by step, with a count beside each membrane.
        leaky: neurons that were trained as spikes, step by step: membranes leak, fire above a threshold and are reset.
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
    stream: bool = False
    leaky: bool = False

    @property
    def kind(self) -> str:
        """As `--engine` says it."""
        return "stream" if self.stream else "spikes" if self.spiking else "integer"

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
        } | (self._of_spikes if self.spiking else {})

    @property
    def _of_spikes(self) -> dict[str, int]:
        kind = 3 if self.leaky else 2 if self.stream else 1
        return {"SPIKES": kind, "MEMBRANE": self.membranes.bit_length() - 1}

    def to_dict(self) -> dict[str, int]:
        """For report.json."""
        of_spikes = ("spiking", "membranes", "stream", "leaky")
        return {key: value for key, value in asdict(self).items() if self.spiking or key not in of_spikes}


@dataclass(frozen=True, kw_only=True)
class FpgaPart:
    """A part, or a board with it: what `--target` names.

    Args:
        name: for people.
        clock_mhz: at which frames a second are stated; a promise of the file, which `make pnr` may not keep.
        bytes_a_clock: of memory; an engine has no wider a word.
        family: whose cells are counted, "ecp5" or "xc7"; "" where there are no counts.
        counts: what there is of ``COUNTS``; what is not there has no limit.
        sizes: of the engine, where the file says them; the others are searched for.
        about: where the numbers come from.
    """

    name: str = "an engine"
    clock_mhz: float = 100.0
    bytes_a_clock: int = 32
    family: str = ""
    counts: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, Any] = field(default_factory=dict)
    about: str = ""


def part_names() -> tuple[str, ...]:
    """The parts that are known by name."""
    return tuple(sorted(path.stem for path in PARTS.glob("*.json")))


def read_part(target: str, *, spiking: bool = False) -> FpgaPart:
    """A part by its name, or from a JSON object of ``SIZES``, ``COUNTS``, clock_mhz, bytes_a_clock, family, about.

    With ``spiking`` its sizes have ``membranes`` too.

    Raises:
        InputError: it cannot be read, has another key, or a number that no engine or part has.
    """
    path = PARTS / f"{target}.json" if target in part_names() else Path(target)
    if reason := no_file(path):
        raise InputError(f"--target {target}: {reason}; name a part, or the file that describes one")
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"--target {target}: no valid json ({error}); repair it") from error
    sizes = (*SIZES, "membranes") if spiking else SIZES
    known = (*sizes, *COUNTS, "clock_mhz", "bytes_a_clock", "family", "about")
    if not isinstance(said, dict) or not set(said) <= set(known):
        wrong = next((key for key in said if key not in known), "a list") if isinstance(said, dict) else "no object"
        raise InputError(f"--target {target}: {wrong} is not among {', '.join(known)}; leave it away")
    for key, value in said.items():
        fault = _fault(key, value)
        if fault:
            raise InputError(f"--target {target}: {key} is {value!r}; {fault}")
    counts = {key: said[key] for key in COUNTS if key in said}
    if counts and "family" not in said:
        raise InputError(f"--target {target}: {next(iter(counts))} counts cells of a family; add family: ecp5 or xc7")
    rest = {key: said[key] for key in ("clock_mhz", "bytes_a_clock", "family", "about") if key in said}
    return FpgaPart(name=target, counts=counts, sizes={key: said[key] for key in sizes if key in said}, **rest)


def read_engine(path: Path, *, spiking: bool = False) -> Engine:
    """An engine's sizes from a file; what it does not say is the default.

    Raises:
        InputError: as ``read_part``.
    """
    return Engine(**read_part(str(path), spiking=spiking).sizes, spiking=spiking)


def spiking_engine(sizes: dict[str, Any], *, stream: bool = False, leaky: bool = False) -> Engine:
    """An engine of events; one that keeps membranes has as many as its network has, up to the most or ``sizes``."""
    most = {"membranes": LIMITS["membranes"][1]} if stream or leaky else {}
    return Engine(**(most | sizes), spiking=True, stream=stream, leaky=leaky)


def _fault(key: str, value: Any) -> str:
    """What to use instead; "" where the value will do."""
    if key == "about":
        return "" if isinstance(value, str) else "use words"
    if key == "family":
        return "" if value in FAMILIES else f"use {' or '.join(FAMILIES)}"
    if key in LIMITS:
        low, high = LIMITS[key]
        good = type(value) is int and not value & (value - 1) and low <= value <= high
        return "" if good else f"use a power of two from {low} to {high}"
    if key == "clock_mhz":
        return "" if type(value) in (int, float) and 0 < value <= 1000 else "use MHz from above 0 to 1000"
    return "" if type(value) is int and value > 0 else "use a whole number from 1 up"


def part_of(target: str, engine: str) -> FpgaPart | None:
    """The part that an ``--engine`` is for, where ``--target`` names one.

    Raises:
        InputError: there is no engine for it, or its file says what no part has.
    """
    from utils.export.targets import TARGETS  # here, since --help needs no torch

    if not target or target in TARGETS:
        return None
    if not engine:
        raise InputError(f"--target {target}: sizes of an engine; add --engine integer")
    part = read_part(target, spiking=engine in OF_SPIKES)
    if engine in OF_SPIKES and not part.sizes:
        sizes = "a part is chosen an array for (--engine integer); give an engine of spikes its sizes in a FILE.json"
        raise InputError(f"--target {target}: {sizes}")
    return part
