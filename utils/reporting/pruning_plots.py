"""Pictures of what pruning found out. matplotlib is imported only where it draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.reporting.figures import save_figure

LINES = 8  # layers that can be told apart as lines; more are drawn as a map
WRITTEN = 200  # cells of a map that have room for their number


def plot_sensitivity(
    path: Path | str,
    rows: Sequence[tuple[int, int, float, float]],
    *,
    before: float | None = None,
    metric: str,
    title: str = "What each layer alone costs",
) -> Path:
    """Metric against the share that one layer loses: a line for each layer, or a map where there are many.

    Args:
        path: the picture.
        rows: (layer, cfg line, percent, metric), in any order.
        before: metric of the uncut network.
        metric: what it is.
        title: written above.

    Raises:
        ValueError: there are no rows.
    """
    if not rows:
        raise ValueError("nothing to draw: a sensitivity without rows")
    layers = sorted({layer for layer, *_ in rows})
    percents = sorted({percent for _, _, percent, _ in rows})
    values = np.full((len(percents), len(layers)), np.nan)
    for layer, _, percent, value in rows:
        values[percents.index(percent), layers.index(layer)] = value
    draw = _lines if len(layers) <= LINES else _map
    figure = draw(layers, percents, values, before, metric)
    figure.suptitle(title)
    return save_figure(figure, path)


def _lines(
    layers: Sequence[int], percents: Sequence[float], values: np.ndarray, before: float | None, metric: str
) -> Any:
    import matplotlib

    figure, axis = _figure(7.5, 4.2)
    tints = matplotlib.colormaps["viridis"](np.linspace(0, 0.92, len(layers)))
    for tint, marker, layer, column in zip(tints, "osv^DPX*", layers, values.T, strict=False):
        known = ~np.isnan(column)
        places = 100 * np.asarray(percents)[known]
        axis.plot(places, column[known], color=tint, marker=marker, markersize=4, linewidth=1.6, label=str(layer))
    if before is not None:
        axis.axhline(before, color="black", linestyle="--", linewidth=1.2, label=f"uncut, {before:.3f}")
    axis.set(xlabel="channels that the layer loses, %", ylabel=metric)
    axis.grid(alpha=0.25)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, title="layer", loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _map(
    layers: Sequence[int], percents: Sequence[float], values: np.ndarray, before: float | None, metric: str
) -> Any:
    figure, axis = _figure(max(7.5, 1.6 + 0.26 * len(layers)), 1.9 + 0.34 * len(percents))
    known = values[~np.isnan(values)]
    top = float(known.max()) if before is None else max(float(known.max()), before)
    bottom = min(float(known.min()), top - 1e-6)
    cells = axis.pcolormesh(values, cmap="viridis", vmin=bottom, vmax=top, edgecolor="white", linewidth=0.5)
    step = max(1, len(layers) // 40)
    axis.set_xticks(np.arange(len(layers))[::step] + 0.5, [str(i) for i in layers[::step]], fontsize=8)
    axis.set_yticks(np.arange(len(percents)) + 0.5, [f"{100 * percent:g}" for percent in percents], fontsize=8)
    axis.set(xlabel="layer of the cfg", ylabel="channels it loses, %")
    axis.spines[:].set_visible(False)
    if values.size <= WRITTEN:
        for (y, x), value in np.ndenumerate(values):
            tint = "white" if value < (bottom + top) / 2 else "black"
            text = "" if np.isnan(value) else f"{value:.2f}".removeprefix("0")
            written = axis.text(x + 0.5, y + 0.5, text, ha="center", va="center", fontsize=7, color=tint)
            written.set_in_layout(False)  # inside its cell anyway; measuring hundreds takes seconds
    bar = figure.colorbar(cells, ax=axis, pad=0.01)
    bar.set_label(metric)
    bar.outline.set_visible(False)
    if before is not None:
        bar.ax.axhline(before, color="black", linestyle="--", linewidth=1.2)
        axis.set_title(f"uncut: {before:.3f}", fontsize=9, loc="left")
    return figure


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.set_axisbelow(True)
    return figure, axis
