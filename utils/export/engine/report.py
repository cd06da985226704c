"""report.json and the README's table: clocks of every layer, how busy the array is, bytes moved and on the chip."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from utils.export.engine.clocks import EventWork, clocks_of
from utils.export.engine.isa import BYTES, Compute, Descriptor, Load
from utils.export.engine.program import Program

CLOCK = 100e6  # Hz at which frames a second are stated


def report(program: Program, work: Sequence[EventWork] = ()) -> dict[str, Any]:
    """Everything that is known before a simulation; ``work``: of one image, where that decides."""
    engine, lanes = program.engine, program.engine.lanes
    works: Sequence[EventWork | None] = work or [None] * len(program.descriptors)
    each = list(zip(program.descriptors, works, strict=True))
    of_layer: dict[int, list[tuple[Descriptor, EventWork | None]]] = defaultdict(list)
    for one, of in each[:-1]:  # END belongs to none
        of_layer[one.layer].append((one, of))
    layers = [{"layer": i, **costs(kept, lanes)} for i, kept in sorted(of_layer.items())]
    total = costs(each, lanes)
    return {
        "engine": engine.to_dict(),
        "array": [lanes, lanes],
        **total,
        **({"steps": len(program.phases) - engine.stream} if program.phases else {}),
        "frames_per_second_at_100_mhz": round(CLOCK / total["clocks"], 3),
        "on_chip_bytes": {
            "input_buffer": engine.input_words * lanes,
            "weight_buffer": engine.weight_rows * lanes**2,
        }
        | ({"membranes": engine.membranes * lanes * engine.acc_bits // 8} if engine.spiking else {}),
        "memory_bytes": {
            "constants": len(program.constants),
            "activations": program.plan.words * lanes,
            "activations_least": program.plan.largest * lanes,
            "program": len(program.descriptors) * BYTES,
            "all": program.words * lanes,
        },
        "layers": layers,
    }


def costs(descriptors: Iterable[tuple[Descriptor, EventWork | None]], lanes: int) -> dict[str, Any]:
    """Clocks, those in which the array has a tap or a spike, descriptors, bytes read and written."""
    kept = list(descriptors)
    loads = [one for one, _ in kept if isinstance(one, Load)]
    computed = [one for one, _ in kept if isinstance(one, Compute)]
    clocks, spikes = sum(clocks_of(one, lanes, of) for one, of in kept), sum(of.accumulates for _, of in kept if of)
    taps = sum(one.taps for one in computed if one.events is None) + spikes
    return {
        "clocks": clocks,
        "array_busy": round(taps / clocks, 4),
        **({"accumulates": spikes} if any(of for _, of in kept) else {}),
        "descriptors": len(kept),
        "bytes_read": sum(one.words for one in loads) * lanes + BYTES * len(kept),
        "bytes_written": sum(one.words for one in computed) * lanes,
    }


def table(found: dict[str, Any], kinds: dict[int, str]) -> str:
    """The layers as a Markdown table."""
    rows = [
        "| layer | kind | clocks | array busy | bytes read | bytes written | descriptors |",
        "|---|---|---|---|---|---|---|",
    ]
    for each in found["layers"]:
        rows.append(
            f"| {each['layer']} | {kinds[each['layer']]} | {each['clocks']:,} | {each['array_busy']:.0%} | "
            f"{each['bytes_read']:,} | {each['bytes_written']:,} | {each['descriptors']} |"
        )
    return "\n".join(rows)
