"""Bars of what each layer of a hand-off costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from utils.reporting.plots import plot_bars

COSTS = (
    ("macs", "Multiply-accumulates of each layer", "million MACs an image", 1e6),
    ("bops", "Bit operations of each layer: MACs x weight bits x input bits", "millions an image", 1e6),
    ("on_chip_bytes", "On the chip for each layer: weights and row buffer", "KiB", 1024),
)


def plot_costs(folder: Path, layers: Sequence[Mapping[str, Any]]) -> None:
    """MACs, bit operations and bytes on the chip, a layer each; ``layers`` are a manifest's."""
    for key, title, unit, each_unit in COSTS:
        bars = {f"layer {each['layer']}": each["cost"][key] / each_unit for each in layers}
        shown = {name: value for name, value in bars.items() if value}
        plot_bars(folder / f"{key}.png", shown, title=title, unit=unit)
