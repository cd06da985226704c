"""What the networks would take on an FPGA: predicted clocks of every stage, and each layer's roofline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from utils.reporting.html.svg import (
    BOTTOM,
    HEIGHT,
    LEFT,
    LETTER,
    WIDTH,
    Axis,
    Bars,
    axis,
    bar_chart,
    down,
    figure,
    grid,
    text,
    to_right,
)
from utils.reporting.html.words import folded, stage, table

Row = Mapping[str, Any]
Circle = tuple[float, float, float]  # x, y, radius
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
        f"<strong>{escape(found['name'])}</strong> at {found['clock_mhz']:g} MHz; estimated: {needs}. "
        "A float network stands for its integers; clocks are those of a memory that never stalls."
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
    circles = [(to_right(x, row["macs_a_byte"]), down(y, row["macs_a_clock"]), _radius(row, whole)) for row in layers]
    parts += [_spot(row, circle, whole) for row, circle in zip(layers, circles, strict=True)]
    parts += _names([f"layer {row['layer']}" for row in layers[:NAMED]], circles)
    legend = [("roof", 0, False), ("load, then compute", 0, True)]
    legend += [
        (f"{bound} is short", tint, False) for bound, tint in TINTS.items() if any(r["bound"] == bound for r in rows)
    ]
    return figure("Roofline of the quantised network", y.label, "".join(parts), legend, NOTE)


def _curve(points: Sequence[tuple[float, float]], x: Axis, y: Axis, name: str, style: str = "") -> str:
    path = "L".join(f"{to_right(x, at):.1f} {down(y, value):.1f}" for at, value in points)
    return f'<path class="line l0 {style}" d="M{path}"><title>{name}</title></path>'


def _radius(row: Row, whole: int) -> float:
    return float(2.5 + 15 * (row["clocks"] / whole) ** 0.5)


def _spot(row: Row, circle: Circle, whole: int) -> str:
    """A layer, whose area is its share of the clocks."""
    at, low, size = circle
    said = (
        f"layer {row['layer']} ({row['kind']}): {row['macs_a_clock']:.3g} MACs a clock, {row['macs_a_byte']:.3g} a "
        f"byte, {row['clocks']:,} clocks ({row['clocks'] / whole:.0%})"
    )
    return (
        f'<circle class="f{TINTS[row["bound"]]}" fill-opacity="0.65" cx="{at:.1f}" cy="{low:.1f}" r="{size:.1f}">'
        f"<title>{escape(said)}</title></circle>"
    )


def _names(names: Sequence[str], circles: Sequence[Circle]) -> list[str]:
    """The names of the first circles, each at the side where it covers no other name and the fewest circles."""
    taken: list[tuple[float, float, float, float]] = []
    parts = []
    for name, (at, low, size) in zip(names, circles, strict=False):
        wide, right, left = LETTER * len(name), at + size + 3, at - size - 3
        places = [
            (right, low + 13, "start"),
            (left, low + 13, "end"),
            (right, low - 5, "start"),
            (left, low - 5, "end"),
        ]
        places += [(at, low + size + shift, "middle") for shift in (13, 26, 39)]
        places += [(at, low - size - shift, "middle") for shift in (4, 17, 30)]
        boxes = []
        for x, y, anchor in places:
            start = x - wide * {"start": 0.0, "middle": 0.5, "end": 1.0}[anchor]
            boxes.append((start, y - 10, start + wide, y + 3))
        costs = [
            100 * (box[0] < LEFT or box[2] > WIDTH or box[1] < 0 or box[3] > HEIGHT - BOTTOM)
            + 100 * any(a < box[2] and box[0] < c and b < box[3] and box[1] < d for a, b, c, d in taken)
            + sum(box[0] - r < x < box[2] + r and box[1] - r < y < box[3] + r for x, y, r in circles)
            for box in boxes
        ]
        best = costs.index(min(costs))
        taken.append(boxes[best])
        x, y, anchor = places[best]
        parts.append(text(x, y, name, anchor).replace("<text", '<text class="name"', 1))
    return parts


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
    return folded(f"Clocks of {len(rows)} layers", inside) if rows else ""
