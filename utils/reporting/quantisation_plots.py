"""Pictures of what quantisation chose. matplotlib is imported only where it draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from utils.reporting.figures import save_figure
from utils.reporting.plots import BLUE, GREEN, GREY, ORANGE

NAMES = {"size": "packed bytes", "bops": "bit operations"}


def plot_bits(
    path: Path | str,
    layers: Sequence[tuple[int, int, int]],
    *,
    descent: Sequence[tuple[float, float]] = (),
    tried: Sequence[tuple[float, float]] = (),
    taken: tuple[float, float] | None = None,
    metric: str,
    kind: str = "bops",
    title: str = "Bits by layer",
) -> Path:
    """Weight and activation bits of every layer; beside them what was tried on the way there.

    Args:
        path: the picture.
        layers: (layer, weight bits, activation bits); 0 where a layer has none.
        descent: (share of the cost of 8 bits, predicted damage) of every step of the descent.
        tried: (share, drop of the metric) of the steps that were measured.
        taken: the one that was chosen.
        metric: its name.
        kind: what the share is of, ``size`` or ``bops``.
        title: written above.

    Raises:
        ValueError: there are no layers.
    """
    if not layers:
        raise ValueError("nothing to draw: bits of no layers")
    wide = max(6.0, 0.26 * len(layers))
    figure, (bars, curve) = _figure(wide + 4.5, 3.8, [wide, 4.5])
    _bars(bars, layers)
    _curve(curve, descent, tried, taken, NAMES[kind], metric)
    figure.suptitle(title)
    return save_figure(figure, path)


def _bars(axis: Any, layers: Sequence[tuple[int, int, int]]) -> None:
    places = np.arange(len(layers))
    for side, tint, name, bits in (
        (-0.2, BLUE, "weights", [w for _, w, _ in layers]),
        (0.2, ORANGE, "activations", [a for _, _, a in layers]),
    ):
        axis.bar(places + side, bits, color=tint, width=0.38, label=name)
        if len(layers) <= 40:
            for place, high in zip(places + side, bits, strict=True):
                axis.text(place, high, str(high or ""), ha="center", va="bottom", fontsize=7, color="0.25")
    step = max(1, len(layers) // 40)
    axis.set_xticks(places[::step], [str(i) for i, _, _ in layers][::step], fontsize=8)
    axis.set(xlabel="layer of the cfg", ylabel="bits", ylim=(0, max(max(w, a) for _, w, a in layers) + 1.6))
    axis.legend(frameon=False, ncols=2, loc="upper right")


def _curve(
    axis: Any,
    path: Sequence[tuple[float, float]],
    tried: Sequence[tuple[float, float]],
    taken: tuple[float, float] | None,
    unit: str,
    metric: str,
) -> None:
    axis.set(xlabel=f"{unit}, share of 8 bits", ylabel=f"{metric} lost, points")
    if tried:
        found = sorted(tried)
        axis.plot(*_points(found), color=BLUE, marker="o", markersize=4, linewidth=1.2, label="measured")
    if taken is not None:
        axis.plot(*_points([taken]), color=GREEN, marker="D", markersize=8, linestyle="", label="taken")
    axis.legend(frameon=False, loc="upper right")
    if path:
        other = axis.twinx()
        other.plot(*zip(*path, strict=True), color=GREY, linewidth=1.4)
        other.set(ylabel="predicted damage (grey)")
        other.set_yscale("symlog", linthresh=1e-4)
        other.spines["top"].set_visible(False)


def _points(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [share for share, _ in pairs], [100 * drop for _, drop in pairs]


def _figure(width: float, height: float, ratios: Sequence[float]) -> tuple[Any, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, 2, width_ratios=ratios)
    for axis in axes:
        axis.set_axisbelow(True)
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes
