"""Which points are worth having: those that no other one beats in cost and gain at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from utils.reporting.figures import save_figure

Spot = tuple[float, float]  # cost, gain
BLUE, GREY, BLACK = "#2166ac", "#9e9e9e", "#202020"


def front(spots: Sequence[Spot]) -> set[int]:
    """Numbers of the (cost, gain) for which no other one costs no more, gains no less and differs."""
    return {
        i
        for i, (cost, gain) in enumerate(spots)
        if not any(c <= cost and g >= gain and (c, g) != (cost, gain) for c, g in spots)
    }


def plot_fronts(
    path: Path | str,
    panels: Mapping[str, tuple[Sequence[Spot], Spot | None]],
    names: Sequence[str],
    *,
    gain: str,
    title: str,
) -> Path:
    """Draw gain over cost, a panel a cost, the front as a line.

    Args:
        path: the picture.
        panels: what the cost is called -> the points, and where it all started from.
        names: of the points, in the same order; those on a front are written beside it.
        gain: what is gained.
        title: written above.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4 * len(panels), 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (cost, (spots, start)) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels.items(), strict=True
    ):
        best = sorted(front(spots), key=lambda i: spots[i])
        axis.scatter(*zip(*spots, strict=True), color=GREY, s=28, label=f"{len(spots)} points")
        axis.plot(
            *zip(*(spots[i] for i in best), strict=True), color=BLUE, marker="o", drawstyle="steps-post", label="front"
        )
        for i in best:
            axis.annotate(names[i], spots[i], xytext=(6, -11), textcoords="offset points", fontsize=8, color=BLUE)
        if start:
            axis.scatter(*start, color=BLACK, marker="*", s=90, label="baseline")
        axis.set(xscale="log", xlabel=cost, ylabel=gain)
        axis.margins(x=0.15, y=0.12)
        axis.grid(alpha=0.25, which="both")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, loc="lower right")
    figure.suptitle(title)
    return save_figure(figure, path)
