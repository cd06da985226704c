"""What the networks would take on an FPGA: predicted clocks of every stage, and each layer's roofline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from utils.reporting.html.svg import Axis, Line, line_chart
from utils.reporting.html.words import stage, table

Row = Mapping[str, Any]
NAMES = {"lut": "LUT", "ff": "FF", "dsp": "DSP", "bram_bytes": "bytes of memory"}
NOTE = (
    "Above: what array and memory allow. Dashed: load, then compute, as this engine does. A layer to the left of the "
    "bend moves too many bytes for the array, whatever else is done."
)


def hardware(found: Mapping[str, Any] | None, rows: Sequence[Row]) -> str:
    """The section; "" where nobody named a part.

    Args:
        found: of the record's metrics: the part, the engine that was chosen, clocks by stage.
        rows: of hardware.csv, a layer each.
    """
    if not found:
        return ""
    lanes, rate = found["array"][0], found["clock_mhz"] * 1e6
    first = next(iter(found["stages"].values()))
    cells = [
        [escape(stage(name)), f"{clocks:,}", f"{clocks / first:.0%}", f"{rate / clocks:,.2f}"]
        for name, clocks in found["stages"].items()
    ]
    needs = ", ".join(
        f"{count:,} {NAMES[kind]}" + (f" of {found['has'][kind]:,}" if kind in found["has"] else "")
        for kind, count in found["needs"].items()
    )
    words = (
        f"<p>Predicted for the integer engine of export.py with an array of {lanes} x {lanes} on "
        f"<b>{escape(found['name'])}</b> at {found['clock_mhz']:g} MHz; estimated: {needs}. A float network stands for "
        "its integers; clocks are those of a memory that never stalls.</p>"
    )
    return (
        f"<h2>On hardware</h2>{words}"
        + table("Clocks of a frame.", ["stage", "clocks", "of the first", "frames a second"], cells)
        + f'<div class="charts">{roofline(rows, lanes)}</div>'
        + _layers(rows)
    )


def roofline(rows: Sequence[Row], lanes: int) -> str:
    """MACs a clock over MACs a byte, a spot a layer, under the roof; "" without rows."""
    layers = [row for row in rows if row["macs"]]
    if not layers:
        return ""
    peak, values = lanes**2, [row["macs_a_byte"] for row in layers]
    low, high = min(*values, lanes) / 2, max(*values, lanes) * 2
    across = [low * (high / low) ** (k / 40) for k in range(41)]
    lines = [
        Line("roof", [(x, min(peak, lanes * x)) for x in sorted([*across, lanes])], 0),
        Line("load, then compute", [(x, 1 / (1 / peak + 1 / (lanes * x))) for x in across], 0, dashed=True),
    ]
    for bound, tint in (("compute", 3), ("bandwidth", 1)):
        spots = [(row["macs_a_byte"], row["macs_a_clock"]) for row in layers if row["bound"] == bound]
        lines += [Line(f"{bound} is short", [spot], tint) for spot in spots]
    x = Axis("MACs a byte moved", low, high, log=True)
    y = Axis("MACs a clock", min(row["macs_a_clock"] for row in layers) / 1.5, peak * 1.3, log=True)
    return line_chart("Roofline of the quantised network", lines, x, y, note=NOTE)


def _layers(rows: Sequence[Row]) -> str:
    cells = [
        [f"{row['layer']} <small class='soft'>{escape(row['kind'])}</small>", f"{row['clocks']:,}",
         f"{row['utilisation']:.0%}", f"{row['bytes_read'] + row['bytes_written']:,}", str(row["bound"])]
        for row in rows
    ]  # fmt: skip
    head = ["layer", "clocks", "of the array", "bytes moved", "short of"]
    inside = table("Of the array: multiplications that count, of those it could have done.", head, cells)
    return f"<details><summary>Clocks of {len(rows)} layers</summary>{inside}</details>" if rows else ""
