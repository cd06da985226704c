"""Which engine a part has room for, and which of those a network runs best on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from tqdm import tqdm

from utils.errors import InputError
from utils.export.engine.target import FAMILIES, SIZES, Engine, FpgaPart

LANES = (4, 8, 16, 32)
ROWS = (256, 512, 1024, 2048, 4096)
WORDS = (65536, 32768, 16384, 8192, 4096, 2048, 1024)
log = logging.getLogger(__name__)

UNLIMITED = ((8192, 1024), (32768, 2048))  # buffers, where nothing is said about memory
TABLES = 4096  # bytes of on-chip memory beside the two buffers

# What Yosys counts of the integer engine for 8 bits (`make synth` of the sample network): lanes -> counts.
COUNTED = {
    "ecp5": {4: {"lut": 12725, "ff": 3996, "dsp": 29}, 8: {"lut": 22860, "ff": 7740, "dsp": 105}},
    "xc7": {4: {"lut": 4931, "ff": 2873, "dsp": 29}, 8: {"lut": 7951, "ff": 4565, "dsp": 89}},
}


@dataclass(frozen=True)
class EngineTrial:
    """An engine, its predicted clocks a frame (None: a layer does not fit it), and why it is not for the part."""

    engine: Engine
    clocks: int | None
    needs: dict[str, int]
    fault: str = ""

    def record(self) -> dict[str, Any]:
        """For report.json."""
        sizes = {key: getattr(self.engine, key) for key in SIZES}
        return {**sizes, "clocks": self.clocks, **self.needs, "fault": self.fault or None}


@dataclass(frozen=True)
class EngineChoice:
    """The engine that was taken, and all that were looked at."""

    part: FpgaPart
    best: EngineTrial
    tried: tuple[EngineTrial, ...]

    @property
    def frames(self) -> float:
        """A second, at the part's clock."""
        assert self.best.clocks is not None
        return self.part.clock_mhz * 1e6 / self.best.clocks

    def record(self) -> dict[str, Any]:
        """For report.json."""
        return {
            "name": self.part.name,
            "about": self.part.about,
            "clock_mhz": self.part.clock_mhz,
            "bytes_a_clock": self.part.bytes_a_clock,
            "has": self.part.counts,
            "needs": self.best.needs,
            "frames_per_second": round(self.frames, 3),
            "tried": [each.record() for each in self.tried],
        }

    def __str__(self) -> str:
        """What was looked at, a line each, and what was taken."""
        rows = self._rows() if len(self.tried) > 1 else []
        wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(n) for cell, n in zip(row, wide, strict=True)).rstrip() for row in rows]
        lanes = self.best.engine.lanes
        lines.append(
            f"{self.part.name} at {self.part.clock_mhz:g} MHz, array {lanes}x{lanes}: {self.best.clocks:,} clocks a "
            f"frame as predicted, {self.frames:.2f} frames a second"
        )
        return "\n".join(filter(None, [*lines, gained(self)]))

    def _rows(self) -> list[list[str]]:
        table = [["array", "input words", "weight rows", "clocks", "frames/s", *self.best.needs, ""]]
        for each in self.tried:
            engine, fps = each.engine, self.part.clock_mhz * 1e6 / each.clocks if each.clocks else None
            numbers = [f"{each.clocks:,}" if each.clocks else "", f"{fps:.2f}" if fps else ""]
            said = "taken" if each is self.best else each.fault
            sizes = [f"{engine.lanes}x{engine.lanes}", f"{engine.input_words:,}", f"{engine.weight_rows:,}"]
            table.append([*sizes, *numbers, *(f"{n:,}" for n in each.needs.values()), said])
        return table


def estimate(engine: Engine, part: FpgaPart) -> dict[str, int]:
    """What the engine takes of a part: bytes of memory, and by family LUT, FF and DSP.

    Where Yosys counted so many lanes it is that count; else a + b L^2 through two counts, or a parabola through three,
    since the array grows with L^2: an extrapolation. Counted for 8 bits: fewer bits take less.
    """
    lanes, found = engine.lanes, {}
    if part.family:
        for kind in ("lut", "ff", "dsp"):
            found[kind] = round(_through({n: each[kind] for n, each in COUNTED[part.family].items()}, lanes))
    memory = engine.input_words * lanes + engine.weight_rows * lanes**2 + TABLES
    return found | {"bram_bytes": memory}


def cells(engine: Engine) -> dict[str, dict[str, int]]:
    """What an integer engine takes of either family of parts, estimated: LUT, FF, DSP and bytes of memory."""
    return {family: estimate(engine, FpgaPart(family=family)) for family in FAMILIES}


def choose_engine(clocks_of: Callable[[Engine], int], part: FpgaPart, *, fps: float | None = None) -> EngineChoice:
    """The engine that a part has room for and that needs the fewest clocks; or the smallest that is fast enough; told.

    Args:
        clocks_of: predicted clocks a frame; refuses an engine that a layer does not fit.
        part: its counts are the limits; sizes that its file gives are kept.
        fps: frames a second; then the engine with the fewest multipliers and the least memory that makes them.

    Raises:
        InputError: nothing fits; or nothing that fits is fast enough, with the fewest clocks that can be reached.
    """
    engines = list(_engines(part))
    tried: list[EngineTrial] = []
    for engine in tqdm(engines, desc="engines", leave=False, delay=2, disable=None):
        needs = estimate(engine, part)
        over = [f"{kind} {needs[kind]:,} of {has:,}" for kind, has in part.counts.items() if needs.get(kind, 0) > has]
        over += [f"{engine.lanes} bytes a clock of {part.bytes_a_clock}"] if engine.lanes > part.bytes_a_clock else []
        try:
            clocks, fault = clocks_of(engine), "; ".join(over)
        except InputError as error:
            clocks, fault = None, str(error).removeprefix("--engine integer: ")
        tried.append(EngineTrial(engine, clocks, needs, fault))
    fit = [each for each in tried if not each.fault and each.clocks is not None]
    if not fit:
        raise InputError(f"--target {part.name}: no engine fits: {tried[0].fault}; use a larger part or prune")
    best = min(fit, key=lambda each: (each.clocks, each.needs["bram_bytes"]))
    if fps is not None:
        best = _fast_enough(fit, part, fps)
    choice = EngineChoice(part, best, tuple(tried))
    log.info("%s", choice)
    return choice


def _fast_enough(fit: list[EngineTrial], part: FpgaPart, fps: float) -> EngineTrial:
    """The smallest that makes so many frames a second."""
    rate = part.clock_mhz * 1e6
    fast = [each for each in fit if each.clocks is not None and rate / each.clocks >= fps]
    if fast:
        return min(fast, key=lambda each: (each.engine.lanes, each.needs["bram_bytes"]))
    least = min(each.clocks for each in fit if each.clocks is not None)
    raise InputError(
        f"--target-fps: {part.name} reaches {rate / least:.2f} frames a second at most ({least:,} clocks at "
        f"{part.clock_mhz:g} MHz), not {fps:g}; prune (a prune script's --target-cycles {rate / fps:.0f}) or use a "
        "larger part"
    )


def gained(choice: EngineChoice) -> str:
    """What the next larger engine would gain, and what it lacks; "" where there is none."""
    least = choice.best.clocks
    larger = [each for each in choice.tried if each.fault and each.clocks and least and each.clocks < least]
    if not larger:
        return ""
    next_one = min(larger, key=lambda each: (each.engine.lanes, each.clocks or 0))
    assert next_one.clocks and least
    lanes = next_one.engine.lanes
    return f"{lanes}x{lanes} would need {least / next_one.clocks:.2f} times fewer clocks, and lacks: {next_one.fault}"


def _engines(part: FpgaPart) -> Iterator[Engine]:
    """Every array with the largest buffers that fit; with sizes in the part's file those alone."""
    if part.sizes and (not part.counts or set(part.sizes) == set(SIZES)):
        yield Engine(**part.sizes)  # what a file of sizes alone does not say is the default
        return
    room = part.counts.get("bram_bytes")
    for lanes in (part.sizes["lanes"],) if "lanes" in part.sizes else LANES:
        whole = replace(Engine(), lanes=lanes)
        splits = list(UNLIMITED)
        if room is not None:
            splits = [
                (words, rows)
                for rows in ROWS
                for words in WORDS
                if words * lanes + rows * lanes**2 + TABLES <= room
                and (words == WORDS[0] or 2 * words * lanes + rows * lanes**2 + TABLES > room)
            ] or [(WORDS[-1], ROWS[0])]
        kept = {key: value for key, value in part.sizes.items() if key != "lanes"}
        seen = []
        for words, rows in splits:
            engine = replace(whole, **({"input_words": words, "weight_rows": rows} | kept))
            if engine not in seen:
                seen.append(engine)
                yield engine


def _through(points: dict[int, int], x: int) -> float:
    """a + b x^2 through two points, the polynomial through more (Lagrange), at x."""
    if len(points) == 2:
        points, x = {at * at: value for at, value in points.items()}, x * x
    total = 0.0
    for at, value in points.items():
        term = float(value)
        for other in points:
            if other != at:
                term *= (x - other) / (at - other)
        total += term
    return max(total, 0.0)
