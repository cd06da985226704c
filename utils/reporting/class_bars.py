"""How many there are of each class, in both parts of a data set, as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from utils.reporting.figures import save_figure

COLOURS = ("#2166ac", "#d6604d")


def class_bars(names: Sequence[str], counts: Mapping[str, Sequence[float]], title: str, unit: str, path: Path) -> Path:
    """Bars side by side, a group a class; ``counts`` has a row for each part of the set."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(min(24.0, max(6.0, 0.3 * len(names) + 2)), 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    for i, (part, heights) in enumerate(counts.items()):
        places = [n + 0.4 * (i - 0.5) for n in range(len(names))]
        axis.bar(places, heights, 0.4, color=COLOURS[i % 2], label=part)
    small = 8 if len(names) > 20 else 10
    axis.set_xticks(range(len(names)), names, rotation=90 if len(names) > 6 else 0, fontsize=small)
    axis.set(title=title, ylabel=unit, xlim=(-0.8, len(names) - 0.2))
    axis.grid(alpha=0.25)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))  # beside the bars
    return save_figure(figure, path)
