"""Bars of what each layer of a hand-off costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.reporting.figures import save_figure
from utils.reporting.plots import BLUE, GREY, ORANGE, new_figure, plot_bars

COSTS = (
    ("macs", "Multiply-accumulates of each layer", "million MACs an image", 1e6),
    ("bops", "Bit operations of each layer: MACs x weight bits x input bits", "millions an image", 1e6),
    ("on_chip_bytes", "On the chip for each layer: weights and row buffer", "KiB", 1024),
)

NAMED = 3  # layers that a roofline names: those that take longest


def plot_costs(folder: Path, layers: Sequence[Mapping[str, Any]]) -> None:
    """MACs, bit operations and bytes on the chip, a layer each; ``layers`` are a manifest's."""
    for key, title, unit, each_unit in COSTS:
        bars = {f"layer {each['layer']}": each["cost"][key] / each_unit for each in layers}
        shown = {name: value for name, value in bars.items() if value}
        plot_bars(folder / f"{key}.png", shown, title=title, unit=unit)


def plot_roofline(path: Path, report: Mapping[str, Any]) -> Path:
    """MACs a clock of each layer over its MACs a byte, below what array and memory allow; ``report`` is an engine's."""
    lanes = report["array"][0]
    layers = [each for each in report["layers"] if each["macs"]]
    figure, (axis,) = new_figure(1, f"{lanes} x {lanes} array, {lanes} bytes a clock", width=7.5, height=4.6)
    low, high = (edge(each["macs_a_byte"] for each in layers) for edge in (min, max))
    across = np.geomspace(min(low / 2, lanes / 2), max(2 * high, 4 * lanes), 200)
    axis.plot(across, np.minimum(lanes**2, lanes * across), color=GREY, linewidth=1.5)
    axis.plot(across, 1 / (1 / lanes**2 + 1 / (lanes * across)), color=GREY, linewidth=1, linestyle=":")
    longest = {each["layer"] for each in sorted(layers, key=lambda each: -each["clocks"])[:NAMED]}
    for bound, colour in (("compute", BLUE), ("bandwidth", ORANGE)):
        some = [each for each in layers if each["bound"] == bound]
        area = [15 + 1500 * each["clocks"] / report["clocks"] for each in some]
        xs, ys = [each["macs_a_byte"] for each in some], [each["macs_a_clock"] for each in some]
        axis.scatter(xs, ys, s=area, color=colour, alpha=0.6, linewidth=0)
        axis.scatter([], [], color=colour, label=f"{bound} is short")
    for each in layers:
        if each["layer"] in longest:
            place = (each["macs_a_byte"], each["macs_a_clock"])
            axis.annotate(
                f"layer {each['layer']}", place, fontsize="small", xytext=(6, -12), textcoords="offset points"
            )
    axis.set(xscale="log", yscale="log", xlabel="MACs a byte moved", ylabel="MACs a clock")
    for side in (axis.xaxis, axis.yaxis):  # 20, not 2 x 10^1
        side.set_major_formatter("{x:g}")
        side.set_minor_formatter(lambda value, _: f"{value:g}" if str(value)[0] in "25" else "")
    axis.legend(frameon=False, fontsize="small", title="area: clocks; dotted: load, then compute", loc="lower right")
    return save_figure(figure, path)
