"""Tables, bars and pictures of benchmarks/spiking.py: means over the seeds, ± the sample standard deviation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.pruning import spread
from benchmarks.spiking_rows import Curves, Row, Whole
from utils.reporting.figures import save_figure
from utils.reporting.plots import BLUE
from utils.reporting.results import write_rows
from utils.reporting.spike_plots import plot_accuracy_over_time, plot_energy, plot_layer_bars
from utils.reporting.tables import plain_table
from utils.spiking.synops import SpikeCost

log = logging.getLogger(__name__)

MOST_POINTS = {4: 1.0, 3: 2.0}  # the bars: what so many bits may lose against float
MOST_SOPS = {4: 1.5, 2: 0.8}  # and the synaptic operations a multiplication they may take, in layerwise mode
HEADING = ["bits", "mode", "mAP@.5", "points", "exact", "steps", "spikes", "MSOPs", "SOP/MAC", "uJ fp32", "uJ int"]


@dataclass
class Seed:
    """All that was measured of one network."""

    name: str
    rows: list[Row]
    curves: Curves = field(default_factory=dict)
    whole: dict[int, Whole] = field(default_factory=dict)

    def row(self, key: tuple[int | None, str]) -> Row | None:
        """The row of a name, if this network has it."""
        return next((row for row in self.rows if row.key == key), None)

    @property
    def floating(self) -> float:
        """mAP@.5 of the float network."""
        return self.rows[0].map50


def modes_table(title: str, seeds: Sequence[Seed]) -> str:
    """A line a mode, in the first seed's order."""
    return plain_table(title, [HEADING, *(_line(seeds, row.key) for row in seeds[0].rows)])


def _line(seeds: Sequence[Seed], key: tuple[int | None, str]) -> list[str]:
    found = [(seed, row) for seed in seeds if (row := seed.row(key)) is not None]
    rows = [row for _, row in found]
    lost = [100 * (row.map50 - seed.floating) for seed, row in found]

    def of(value: Callable[[SpikeCost], float], form: str) -> str:
        return spread([value(row.cost) for row in rows if row.cost], form)

    exact = [row.exact for row in rows if row.exact is not None]
    steps = [float(row.steps) for row in rows if row.steps is not None]
    return [
        str(key[0] or "-"),
        key[1],
        spread([100 * row.map50 for row in rows], "{:.2f}"),
        "" if key[1] == "float" else spread(lost, "{:+.2f}"),
        "-" if not exact else "yes" if all(exact) else f"{sum(exact)} of {len(exact)}" if any(exact) else "no",
        spread(steps, "{:.0f}") if len(set(steps)) > 1 else f"{steps[0]:.0f}" if steps else "-",
        of(lambda c: c.spikes, "{:,.0f}"),
        of(lambda c: c.sops / 1e6, "{:.2f}"),
        of(lambda c: c.sops_per_mac, "{:.2f}"),
        of(lambda c: c.energy.spiking_fp32 / 1e6, "{:.3g}"),
        of(lambda c: c.energy.spiking_int8 / 1e6, "{:.3g}"),
    ]


def bars_table(seeds: Sequence[Seed], images: int) -> str:
    """What was promised beside what was found: accuracy on all validation images, operations on the sample."""
    lines = [["bits", "promise", "bar", "found", ""]]
    for bits in seeds[0].whole:
        measured = [seed.whole[bits] for seed in seeds]
        points, bar = [each.points for each in measured], MOST_POINTS.get(bits)
        lines.append(_bar(bits, f"points under float, all {images} images", bar, points))
        equal = sum(each.equal for each in measured)
        verdict = "holds" if equal == len(measured) else "FAILS"
        same = "layerwise = integers, to the last digit"
        lines.append([str(bits), same, "all", f"{equal} of {len(measured)}", verdict])
        costs = [row.cost for seed in seeds if (row := seed.row((bits, "layerwise"))) is not None and row.cost]
        ratios = [cost.sops_per_mac for cost in costs]
        if ratios:
            lines.append(_bar(bits, "SOP/MAC in layerwise mode", MOST_SOPS.get(bits), ratios))
    return plain_table("bars", lines)


def _bar(bits: int, promise: str, bar: float | None, values: list[float]) -> list[str]:
    mean = sum(values) / len(values)
    verdict = "" if bar is None else "holds" if mean <= bar else "misses"
    return [str(bits), promise, "-" if bar is None else f"{bar:g}", spread(values, "{:.2f}"), verdict]


def leave_files(folder: Path, seeds: Sequence[Seed]) -> None:
    """spiking.csv of all seeds, and the first one's pictures."""
    write_rows(folder / "spiking.csv", [{"seed": seed.name} | row.record() for seed in seeds for row in seed.rows])
    first = seeds[0]
    plot_accuracy_over_time(folder / "map_over_time.png", first.curves, {"float": first.floating}, metric="mAP@.5")
    costs = {row.key: row.cost for row in first.rows if row.cost is not None}
    layers = {
        f"{bits} bits": {i: c.spikes / max(1, c.neurons) for i, c in cost.layers.items() if c.spikes}
        for (bits, mode), cost in costs.items()
        if mode == "layerwise"
    }
    title = "Spikes a neuron in layerwise mode"
    plot_layer_bars(folder / "spikes.png", layers, title=title, unit="spikes a frame", log=True)
    dense = next(iter(costs.values())).energy
    joules = {"dense, fp32": dense.ann_fp32, "dense, int8": dense.ann_int8}
    joules |= {f"{f'{bits} bits, ' if bits else ''}{mode}": c.energy.spiking_int8 for (bits, mode), c in costs.items()}
    plot_energy(folder / "energy.png", joules, title="Energy of a frame's arithmetic, integer constants")
    log.info("pictures (of %s) and spiking.csv in %s", first.name, folder)


def plot_tradeoff(path: Path, points: Sequence[tuple[str, float, float]], lines: dict[str, float], title: str) -> Path:
    """mAP@.5 against spikes a frame.

    Args:
        path: the picture.
        points: (what it is called, spikes, mAP@.5).
        lines: what has no spikes -> mAP@.5.
        title: written above.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure: Any = Figure(figsize=(7.5, 4.4), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    ordered = sorted(points, key=lambda point: point[1])
    axis.plot([x for _, x, _ in ordered], [y for *_, y in ordered], "o-", color=BLUE)
    for name, x, y in ordered:
        axis.annotate(name, (x, y), xytext=(6, -12), textcoords="offset points", fontsize=9)
    for name, value in lines.items():
        axis.axhline(value, color="0.35", linestyle="--", linewidth=1.2, label=f"{name} {value:.4f}")
    axis.set(xlabel="spikes a frame", ylabel="mAP@.5")
    axis.grid(alpha=0.25)
    axis.margins(0.12)
    axis.spines[["top", "right"]].set_visible(False)
    if lines:
        axis.legend(frameon=False, fontsize=9)
    figure.suptitle(title)
    return save_figure(figure, path)
