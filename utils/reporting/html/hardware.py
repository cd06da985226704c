"""What the networks would take on an FPGA: predicted clocks of every stage, and each layer's roofline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from utils.reporting.html.svg import WIDTH, Axis, Bars, axis, bar_chart, down, figure, grid, text, to_right
from utils.reporting.html.words import stage, table

Row = Mapping[str, Any]
NAMES = {"lut": "LUT", "ff": "FF", "dsp": "DSP", "bram_bytes": "bytes of memory"}
NOTE = (
    "Above: what array and memory allow. Dashed: load, then compute, as this engine does. A layer to the left of the "
    "bend moves too many bytes for the array, whatever else is done. The area of a spot is its layer's clocks."
)
BARS = "In front: the clocks that its multiplications take if no multiplier ever waits. Pools and moves have none."
TINTS = {"compute": 3, "bandwidth": 1}
NAMED = 3  # layers of the roofline that have their number beside them: those that take longest


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
    whole = sum(row["clocks"] for row in rows)
    used = sum(row["utilisation"] * row["clocks"] for row in rows) / whole if whole else 0.0
    words = (
        f"<p>Predicted for the integer engine of export.py with an array of {lanes} x {lanes} on "
        f"<b>{escape(found['name'])}</b> at {found['clock_mhz']:g} MHz; estimated: {needs}. A float network stands for "
        "its integers; clocks are those of a memory that never stalls."
        + (f" The quantised network has work for {used:.0%} of the multipliers on the average.</p>" if rows else "</p>")
    )
    return (
        f"<h2>On hardware</h2>{words}"
        + table("Clocks of a frame.", ["stage", "clocks", "of the first", "frames a second"], cells)
        + f'<div class="charts">{roofline(rows, lanes)}{clocks_of_layers(rows)}</div>'
        + _layers(rows)
    )


def roofline(rows: Sequence[Row], lanes: int) -> str:
    """MACs a clock over MACs a byte, a spot a layer as large as its clocks, under the roof; "" without rows."""
    layers = sorted((row for row in rows if row["macs"]), key=lambda row: -row["clocks"])
    if not layers:
        return ""
    peak, values = lanes**2, [row["macs_a_byte"] for row in layers]
    low, high = min(*values, lanes) / 2, max(*values, lanes) * 2
    x = Axis("MACs a byte moved", low, high, log=True)
    y = Axis("MACs a clock", min(row["macs_a_clock"] for row in layers) / 1.5, peak * 1.3, log=True)
    across = [low * (high / low) ** (k / 40) for k in range(41)]
    roof = [(at, min(peak, lanes * at)) for at in sorted([*across, lanes])]
    turns = [(at, 1 / (1 / peak + 1 / (lanes * at))) for at in across]
    whole = sum(row["clocks"] for row in rows)
    parts = [grid(x, y), _curve(roof, x, y, "roof"), _curve(turns, x, y, "load, then compute", "dashed")]
    parts += [_spot(row, x, y, whole, named=number < NAMED) for number, row in enumerate(layers)]
    legend = [("roof", 0, False), ("load, then compute", 0, True)]
    legend += [
        (f"{bound} is short", tint, False) for bound, tint in TINTS.items() if any(r["bound"] == bound for r in rows)
    ]
    return figure("Roofline of the quantised network", y.label, "".join(parts), legend, NOTE)


def _curve(points: Sequence[tuple[float, float]], x: Axis, y: Axis, name: str, style: str = "") -> str:
    path = "L".join(f"{to_right(x, at):.1f} {down(y, value):.1f}" for at, value in points)
    return f'<path class="line l0 {style}" d="M{path}"><title>{name}</title></path>'


def _spot(row: Row, x: Axis, y: Axis, whole: int, *, named: bool) -> str:
    """A layer, whose area is its share of the clocks."""
    at, low = to_right(x, row["macs_a_byte"]), down(y, row["macs_a_clock"])
    share = row["clocks"] / whole
    size = 2.5 + 15 * share**0.5
    said = (
        f"layer {row['layer']} ({row['kind']}): {row['macs_a_clock']:.3g} MACs a clock, {row['macs_a_byte']:.3g} a "
        f"byte, {row['clocks']:,} clocks ({share:.0%})"
    )
    tint, right = TINTS[row["bound"]], at > WIDTH * 0.75
    label = text(
        at + (-size - 3 if right else size + 3), low + 13, f"layer {row['layer']}", "end" if right else "start"
    )
    return (
        f'<circle class="f{tint}" fill-opacity="0.65" cx="{at:.1f}" cy="{low:.1f}" r="{size:.1f}">'
        f"<title>{escape(said)}</title></circle>{label if named else ''}"
    )


def clocks_of_layers(rows: Sequence[Row]) -> str:
    """Bars of each layer's clocks, in front of them those in which every multiplier would have had work."""
    if not rows:
        return ""
    clocks = [float(row["clocks"]) for row in rows]
    groups = [
        Bars("clocks", clocks, 0),
        Bars("with all multipliers at work", [c * r["utilisation"] for c, r in zip(clocks, rows, strict=True)], 3),
    ]
    labels = [str(row["layer"]) for row in rows]
    return bar_chart(
        "Clocks of each layer", labels, groups, "layer", axis("clocks", clocks, zero=True), over=True, note=BARS
    )


def _layers(rows: Sequence[Row]) -> str:
    cells = [
        [f"{row['layer']} <small class='soft'>{escape(row['kind'])}</small>", f"{row['clocks']:,}",
         f"{row['utilisation']:.0%}", f"{row['bytes_read'] + row['bytes_written']:,}", str(row["bound"])]
        for row in rows
    ]  # fmt: skip
    head = ["layer", "clocks", "of the array", "bytes moved", "short of"]
    inside = table("Of the array: multiplications that count, of those it could have done.", head, cells)
    return f"<details><summary>Clocks of {len(rows)} layers</summary>{inside}</details>" if rows else ""
