"""How near each layer comes to what array and memory allow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def with_roofline(found: dict[str, Any], macs: Mapping[int, int]) -> dict[str, Any]:
    """The engine's report with what each layer makes of its clocks.

    ``macs_a_clock`` of at most L x L (``utilisation`` is its share); ``macs_a_byte`` moved, and ``roof``: the MACs a
    clock that those bytes allow, were moving them and computing done at once; ``bound`` says by what. This engine takes
    turns, so a layer whose two sides are alike reaches half its roof.

    Args:
        found: of ``report``.
        macs: of a layer; 0 where it only moves or compares.

    Source: Williams, Waterman, Patterson, Roofline, CACM 52(4), 2009.
    """
    lanes = found["array"][0]
    layers = []
    for each in found["layers"]:
        count, moved = macs.get(each["layer"], 0), each["bytes_read"] + each["bytes_written"]
        by_memory = lanes * count / moved if moved else 0.0
        layers.append(
            each
            | {
                "macs": count,
                "macs_a_clock": round(count / each["clocks"], 3),
                "utilisation": round(count / each["clocks"] / lanes**2, 4),
                "macs_a_byte": round(count / moved, 3) if moved else 0.0,
                "roof": round(min(float(lanes**2), by_memory), 3),
                "bound": ("compute" if by_memory >= lanes**2 else "bandwidth") if count else "none",
            }
        )
    whole = sum(each["macs"] for each in layers)
    return found | {"macs": whole, "utilisation": round(whole / found["clocks"] / lanes**2, 4), "layers": layers}


def words(found: Mapping[str, Any]) -> str:
    """What the README says of it."""
    lanes, layers = found["array"][0], found["layers"]
    slow = sorted((each for each in layers if each["macs"]), key=lambda each: -each["clocks"])[:3]
    by_memory = [str(each["layer"]) for each in layers if each["bound"] == "bandwidth"]
    named = ", ".join(
        f"{each['layer']} ({each['clocks'] / found['clocks']:.0%} of the clocks, {each['utilisation']:.0%} of the "
        "array)"
        for each in slow
    )
    return (
        f"Of {lanes * lanes} multipliers a frame uses {found['utilisation']:.1%} on the average: {found['macs']:,} "
        "MACs. `roofline.png`, where it is there, draws for each layer its MACs a clock over its MACs a byte. Most "
        f"clocks go to layers {named}. Too few MACs a byte for the array, whatever else is done: layers "
        f"{', '.join(by_memory) or 'none'}.\n"
    )
