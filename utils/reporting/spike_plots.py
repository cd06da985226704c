"""Pictures of spikes: accuracy over time, who fires when, what it costs. matplotlib is imported only where it draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.reporting.figures import save_figure
from utils.reporting.plots import BLUE, GREEN, GREY, ORANGE

COLOURS = (BLUE, ORANGE, GREEN, "#7b3294", "#b8860b", "#17a2b8", "#444444", "#c51b8a")
MARKERS = "osD^vP*X"
RASTER_ROWS = 14  # layers that a raster has room for


def plot_accuracy_over_time(
    path: Path | str,
    curves: Mapping[str, Sequence[tuple[int, float]]],
    lines: Mapping[str, float],
    *,
    exact: Mapping[str, int] | None = None,
    metric: str,
    title: str = "Accuracy against time",
) -> Path:
    """Metric against steps, both axes named, steps logarithmic.

    Args:
        path: the picture.
        curves: mode -> (steps, metric), in order.
        lines: what does not run in time -> metric: the float and the quantised network.
        exact: mode -> steps from which its counts are the integers, drawn as a ring.
        metric: its name.
        title: written above.
    """
    figure, axis = _figure(title, 7.5, 4.4)
    for style, (name, value) in zip(("--", ":", "-."), lines.items(), strict=False):
        axis.axhline(value, color="0.35", linestyle=style, linewidth=1.2, label=f"{name} {value:.4f}")
    for number, (colour, marker, (name, points)) in enumerate(zip(COLOURS, MARKERS, curves.items(), strict=False)):
        wide = (
            1.6 if len(curves) == 1 else 3.6 - 2.4 * number / (len(curves) - 1)
        )  # what runs over another one leaves its edges to be seen
        steps, values = zip(*points, strict=True)
        axis.plot(steps, values, marker=marker, markersize=4, linewidth=wide, color=colour, alpha=0.9, label=name)
        when = (exact or {}).get(name)
        if when is not None:
            reached = [value for steps, value in points if steps >= when]
            if reached:
                axis.plot([when], [reached[0]], "o", markersize=13, fillstyle="none", color=colour, markeredgewidth=1.6)
                axis.annotate(
                    f"exact from step {when}",
                    (when, reached[0]),
                    xytext=(0, -22),
                    textcoords="offset points",
                    ha="center",
                    fontsize=9,
                    color=colour,
                )
    axis.set(xscale="log", xlabel="steps T", ylabel=metric, ylim=(-0.02, 1.05))
    axis.xaxis.set_major_formatter(_plain_numbers())
    every = [step for points in curves.values() for step, _ in points]
    axis.xaxis.set_minor_formatter(minor_label(every))
    axis.legend(frameon=False, loc="best", fontsize=9)
    return save_figure(figure, path)


def minor_label(steps: Sequence[int]) -> Callable[[float, int], str]:
    """What stands at steps between powers of ten, as a whole number: each under a factor of ten, else 2s and 5s."""
    shown = "123456789" if max(steps, default=1) < 10 * min(steps, default=1) else "25"
    return lambda value, _: f"{value:g}" if f"{value:g}"[0] in shown else ""


def plot_layer_bars(
    path: Path | str,
    series: Mapping[str, Mapping[int, float]],
    *,
    title: str,
    unit: str,
    marks: str = "",
    log: bool = False,
) -> Path:
    """A group of bars for every layer, one bar a series.

    Args:
        path: the picture.
        series: name -> layer -> value.
        title: written above.
        unit: of the values.
        marks: the name of a series that is drawn as a line of steps and not as bars (a bound).
        log: a logarithmic scale, for series that are worlds apart.
    """
    layers = sorted({i for values in series.values() for i in values})
    bars = [name for name in series if name != marks]
    figure, axis = _figure(title, max(7.5, 0.34 * len(layers)), 3.8)
    places, wide = np.arange(len(layers)), 0.8 / max(1, len(bars))
    for number, (colour, name) in enumerate(zip(COLOURS, bars, strict=False)):
        heights = [series[name].get(i, 0.0) for i in layers]
        axis.bar(places + (number - (len(bars) - 1) / 2) * wide, heights, width=wide, color=colour, label=name)
    if marks in series:
        bound = [series[marks].get(i, np.nan) for i in layers]
        axis.step(places, bound, where="mid", color="0.3", linestyle="--", linewidth=1.2, label=marks)
        axis.set_yscale("log")
        axis.set_ylim(bottom=1)
        axis.yaxis.set_major_formatter(_plain_numbers())
        axis.bar_label(axis.containers[0], fmt="%g", fontsize=8, padding=1)
    if log:
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(_plain_numbers())
    axis.set_xticks(places, [str(i) for i in layers], fontsize=8)
    axis.set(xlabel="layer of the cfg", ylabel=unit)
    axis.grid(False, axis="x")
    axis.margins(x=0.01)
    if len(series) > 1:
        axis.legend(frameon=False, fontsize=9)
    return save_figure(figure, path)


def plot_raster(
    path: Path | str, trains: Mapping[int, NDArray[np.int8]], *, title: str = "Spikes of some neurons of each layer"
) -> Path:
    """A strip a layer, a row a neuron, a cell a step: blue a positive spike, red a negative one.

    Args:
        path: the picture.
        trains: layer -> [neurons, T] of -1, 0, 1; of more layers than fit an even choice is shown.
        title: written above.
    """
    chosen = list(trains)
    if len(chosen) > RASTER_ROWS:
        chosen = [chosen[k] for k in np.linspace(0, len(chosen) - 1, RASTER_ROWS).astype(int)]
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(8.5, 0.9 + 0.5 * len(chosen)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(chosen), 1, sharex=True, squeeze=False)[:, 0]
    steps, colours = max(train.shape[1] for train in trains.values()), ListedColormap([ORANGE, "#f4f4f4", BLUE])
    for axis, i in zip(axes, chosen, strict=True):
        train = trains[i] if len(trains[i]) else np.zeros((1, steps), np.int8)
        place = (0.5, train.shape[1] + 0.5, len(train), 0)
        axis.imshow(train, colours, vmin=-1, vmax=1, aspect="auto", interpolation="nearest", extent=place)
        axis.set(yticks=[], xlim=(0.5, steps + 0.5))
        axis.set_ylabel(f"layer {i}", rotation=0, ha="right", va="center", fontsize=8)
        axis.spines[:].set_visible(False)
        axis.tick_params(bottom=axis is axes[-1])
    axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[-1].set_xlabel("step")
    figure.suptitle(f"{title}\na row a neuron, the busiest on top; blue: +1, red: -1", fontsize=11)
    return save_figure(figure, path)


def plot_energy(
    path: Path | str, joules: Mapping[str, float], *, title: str = "Energy of a frame's arithmetic"
) -> Path:
    """Horizontal bars in uJ; what is dense grey, what spikes blue."""
    figure, axis = _figure(title, 7.5, 1.3 + 0.42 * len(joules))
    names = list(joules)[::-1]
    values = [joules[name] / 1e6 for name in names]
    bars = axis.barh(names, values, color=[GREY if "dense" in name else BLUE for name in names])
    axis.bar_label(bars, fmt=lambda value: f"{value:,.3g}", padding=4, fontsize=9)
    axis.set_xlabel("uJ a frame, 45 nm (Horowitz, ISSCC 2014)")
    axis.margins(x=0.12)
    axis.grid(False, axis="y")
    return save_figure(figure, path)


def _figure(title: str, width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.grid(alpha=0.25)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    return figure, axis


def _plain_numbers() -> Any:
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(lambda value, _: f"{value:g}")
