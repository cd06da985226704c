"""Which points are worth having: those that no other one beats in cost and gain at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from utils.reporting.figures import save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Spot = tuple[float, float]  # cost, gain
BLUE, GREY, BLACK = "#2166ac", "#9e9e9e", "#202020"
PLACES = [
    (x, y) for rise in (0, 12, 24, 36, 48) for y in (-11 - rise, 5 + rise) for x in (6, -6)
]  # of a name, in points


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
    from matplotlib.ticker import LogLocator

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
        if start:
            axis.scatter(*start, color=BLACK, marker="*", s=90, label="baseline")
        axis.set(xscale="log", xlabel=cost, ylabel=gain)
        axis.xaxis.set_minor_locator(LogLocator(subs=(2.0, 5.0)))
        axis.margins(x=0.15, y=0.12)
        axis.grid(alpha=0.25, which="both")
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, loc="lower right")
    figure.suptitle(title)
    figure.canvas.draw()  # what is where
    for axis, (spots, _) in zip(figure.axes, panels.values(), strict=True):
        name_points(axis, spots, {i: names[i] for i in front(spots)})
    return save_figure(figure, path)


def name_points(axis: Axes, spots: Sequence[Spot], names: Mapping[int, str]) -> None:
    """Write names beside their points of a figure that was drawn: each at the first place where nothing else is.

    Args:
        axis: has the points.
        spots: all of them, in its units; no name lies over one.
        names: of some, by number. Where there is no free place a name stands at the first one.
    """
    canvas: Any = axis.figure.canvas
    points, taken = axis.transData.transform(spots), list[Any]()
    legend = axis.get_legend()
    taken += [legend.get_window_extent()] if legend else []
    for i in sorted(names, key=lambda i: spots[i]):
        text = axis.annotate(names[i], spots[i], xytext=PLACES[0], textcoords="offset points", fontsize=8, color=BLUE)
        text.set_in_layout(False)
        for x, y in (*PLACES, PLACES[0]):
            text.set_position((x, y))
            text.set_horizontalalignment("left" if x > 0 else "right")
            box = text.get_window_extent(canvas.get_renderer())
            inside = axis.figure.bbox.contains(box.x0, box.y0) and axis.figure.bbox.contains(box.x1, box.y1)
            if inside and not box.count_overlaps(taken) and not any(box.contains(*point) for point in points):
                break
        taken.append(box)
