"""Pictures of a run and of what was cut: curves, gammas, channels. matplotlib is imported only where it draws."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from utils.reporting.facts import Column
from utils.reporting.figures import save_figure

BLUE, ORANGE, GREY, GREEN = "#2166ac", "#d6604d", "#9e9e9e", "#1b7837"
SPARSITY = {
    "near_zero": "|gamma| < 0.01",
    "safe_percent": "safe percent",
    "survivable_percent": "percent that keeps half of the signal",
    "weakest_block": "mean |gamma| of the weakest block",
}
TIMES = ("images_per_second", "wait_share", "seconds", "lr")
PANEL_LETTERS, HANDLE_LETTERS = 50, 6  # of a legend: what fits under a panel, what the line before a name takes


def plot_results(
    path: Path | str, rows: Sequence[Mapping[str, Any]], title: str = "", metrics: Sequence[Column] = ()
) -> Path:
    """Draw results.csv: losses, metrics, how sparse (where it was measured), throughput.

    Args:
        path: the picture, ``results.png``.
        rows: as ``results.read_rows`` gives them; cells that are None leave a gap that the line bridges.
        title: written above.
        metrics: the task's columns, drawn as what validation found.
    """
    known = [key for key in rows[0] if any(row.get(key) is not None for row in rows)]
    quantiles = [key for key in known if key.startswith("gamma_q")]
    scores = {column.name: column.title for column in metrics}
    other = {"epoch", *scores, *SPARSITY, *TIMES, *quantiles}
    panels: list[tuple[str, dict[str, str], bool]] = [("loss", {k: k for k in known if k not in other}, True)]
    panels.append(("validation", {k: name for k, name in scores.items() if k in known}, False))
    if "near_zero" in known:
        panels.append(
            ("sparsity: share of the channels", {k: name for k, name in SPARSITY.items() if k in known}, False)
        )
    if "lr" in known:
        panels.append(("learning rate", {"lr": "rate"}, False))
    if "images_per_second" in known:
        panels.append(("throughput, images/s", {"images_per_second": "images/s"}, False))
    figure, axes = new_figure(len(panels), title)
    for axis, (name, columns, log) in zip(axes, panels, strict=True):
        for column, label in columns.items():
            points = [(row["epoch"], row[column]) for row in rows if row.get(column) is not None]
            axis.plot(*zip(*points, strict=True), marker="o", markersize=3, linewidth=1.5, label=label)
        axis.set(title=name, xlabel="epoch")
        _whole_numbers(axis, 1, max(2, len(rows)))
        if log and _positive(rows, columns):
            axis.set_yscale("log")
        if name == "sparsity: share of the channels" or (name == "validation" and all(m.share for m in metrics)):
            axis.set_ylim(-0.02, 1.02)
        if len(columns) > 1:
            # Below the axis; inside it would hide curves.
            across = max(1, min(3, PANEL_LETTERS // (HANDLE_LETTERS + max(map(len, columns.values())))))
            axis.legend(frameon=False, fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=across)
    return save_figure(figure, path)


def plot_gammas(
    path: Path | str,
    sets: Mapping[str, Tensor],
    *,
    threshold: float | None = None,
    counted: bool = True,
    title: str = "|gamma| of the channels",
) -> Path:
    """Histogram of |gamma| for several moments (epochs, or before and after a cut) over one logarithmic axis.

    Args:
        path: the picture.
        sets: what to call it -> gammas, any shape; values under 1e-6 are drawn at 1e-6.
        threshold: the cut, drawn as a line.
        counted: write how many there are beside each name.
        title: written above.
    """
    values = {name: np.abs(gammas.detach().float().cpu().numpy().ravel()).clip(1e-6) for name, gammas in sets.items()}
    top = max(float(found.max()) for found in values.values())
    edges = np.geomspace(1e-6, max(top, 1.0) * 1.05, 61)
    figure, (axis,) = new_figure(1, title, width=7.5)
    tints = _tints(len(values))
    for tint, (name, found) in zip(tints, values.items(), strict=True):
        heights, _ = np.histogram(found, edges)
        axis.stairs(
            heights / len(found),
            edges,
            color=tint,
            fill=False,
            linewidth=1.8,
            label=f"{name}  ({len(found):,})" if counted else name,
        )
        axis.stairs(heights / len(found), edges, color=tint, fill=True, alpha=0.12)
    if threshold is not None:
        axis.axvline(threshold, color="black", linestyle="--", linewidth=1.2, label=f"threshold {threshold:.3g}")
    axis.set(xscale="log", xlabel="|gamma|", ylabel="share of the channels", xlim=(edges[0], edges[-1]))
    axis.legend(frameon=False, title="(channels)" if counted else None)
    return save_figure(figure, path)


def plot_channels(
    path: Path | str, before: Mapping[int, int], after: Mapping[int, int], *, title: str = "Channels of each layer"
) -> Path:
    """Bars of the channels of each layer before and after; a layer that ``after`` lacks was removed whole.

    Args:
        path: the picture.
        before: layer number -> channels.
        after: likewise, numbered as in ``before``.
        title: written above.
    """
    layers = list(before)
    places = np.arange(len(layers))
    figure, (axis,) = new_figure(1, title, width=max(7.5, 0.22 * len(layers)))
    axis.bar(
        places,
        [before[i] for i in layers],
        color=GREY,
        alpha=0.55,
        width=0.8,
        label=f"before, {sum(before.values()):,}",
    )
    kept = [after.get(i, 0) for i in layers]
    axis.bar(places, kept, color=BLUE, width=0.8, label=f"after, {sum(kept):,}")
    if len(layers) <= 40:
        for place, layer, left in zip(places, layers, kept, strict=True):
            share = f"{left / before[layer]:.0%}"
            axis.text(place, before[layer], share, ha="center", va="bottom", fontsize=7, color="0.25")
    step = max(1, len(layers) // 40)
    axis.set_xticks(places[::step], [str(i) for i in layers[::step]], fontsize=8)
    axis.set(xlabel="layer of the cfg", ylabel="channels")
    axis.margins(x=0.01)
    axis.legend(frameon=False)
    return save_figure(figure, path)


def plot_trials(path: Path | str, trials: Sequence[tuple[int, float, str]], heading: str) -> Path:
    """Scores of a search by the number of the trial, and the best so far.

    Args:
        path: the picture.
        trials: number, score, and "complete" or "pruned".
        heading: of the score.
    """
    figure, (axis,) = new_figure(1, "Search", width=7.5)
    for state, mark, label in (("complete", "o", "seen to its end"), ("pruned", "x", "had seen enough")):
        spots = [(number, score) for number, score, kind in trials if kind == state]
        if spots:
            axis.scatter(*zip(*spots, strict=True), marker=mark, s=36, label=label, zorder=3)
    whole = [(number, score) for number, score, kind in trials if kind == "complete"]
    reached = [(number, max(score for _, score in whole[: i + 1])) for i, (number, _) in enumerate(whole)]
    axis.plot(*zip(*reached, strict=True), drawstyle="steps-post", color="0.5", label="best so far")
    axis.set(xlabel="trial", ylabel=heading)
    _whole_numbers(axis, 0, max(1, *(number for number, _, _ in trials)))
    axis.legend(frameon=False)
    return save_figure(figure, path)


def plot_bars(path: Path | str, values: Mapping[str, float], *, title: str, unit: str) -> Path:
    """One horizontal bar a name, its value written beside it; for stages, layers, energies."""
    figure, (axis,) = new_figure(1, title, width=7.5, height=1.2 + 0.4 * len(values))
    names = list(values)[::-1]
    bars = axis.barh(names, [values[name] for name in names], color=BLUE)
    axis.bar_label(bars, fmt=lambda value: f"{value:,.4g}", padding=4, fontsize=9)
    axis.set_xlabel(unit)
    axis.margins(x=0.15)
    axis.grid(False, axis="y")
    return save_figure(figure, path)


def new_figure(
    panels: int, title: str, *, width: float | None = None, height: float | None = None
) -> tuple[Any, list[Any]]:
    """A figure of so many panels in our dress, and its axes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    across = 2 if panels == 4 else min(panels, 3)
    down = -(-panels // across)
    figure = Figure(figsize=(width or 4.6 * across, height or 3.6 * down), layout="constrained")
    FigureCanvasAgg(figure)
    axes = [figure.add_subplot(place) for place in _places(figure, panels, across, down)]
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    if title:
        figure.suptitle(title)
    return figure, axes


def _places(figure: Any, panels: int, across: int, down: int) -> list[Any]:
    """Rows of places; those of the last row share its whole width, so that none is empty."""
    counts = [across] * (down - 1) + [panels - across * (down - 1)]
    cells = figure.add_gridspec(down, math.lcm(*counts))
    wide = [math.lcm(*counts) // count for count in counts]
    return [cells[row, i * wide[row] : (i + 1) * wide[row]] for row, count in enumerate(counts) for i in range(count)]


def _whole_numbers(axis: Any, first: int, last: int) -> None:
    from matplotlib.ticker import MaxNLocator

    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlim(first - 0.5, last + 0.5)


def _positive(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> bool:
    return all(row[column] > 0 for row in rows for column in columns if row.get(column) is not None)


def _tints(count: int) -> list[Any]:
    """Two contrasting colours for two sets, a sequence from pale to dark for more."""
    if count <= 3:
        return [ORANGE, BLUE, GREEN][:count]
    import matplotlib

    return [matplotlib.colormaps["viridis_r"](0.15 + 0.85 * i / (count - 1)) for i in range(count)]
