"""Plots of what a detector is worth: precision over recall, and which class is taken for which."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from utils.data.pictures import colour
from utils.detection.average_precision import RECALLS, Scores
from utils.reporting import confusion
from utils.reporting.figures import save_figure

NAMED = 12  # classes that a legend can name before it covers the plot


def plot_pr_curves(scores: Scores, path: Path) -> None:
    """Precision over recall at IoU .5, a line per class and the mean of several in black."""
    figure, axes = _figure(6.4, 4.8)
    few = len(scores.per_class) <= NAMED
    for k, (curve, one) in enumerate(zip(scores.curves, scores.per_class, strict=True)):
        if one.truth:
            tint = tuple(0.85 * v / 255 for v in colour(k)) if few else "0.8"
            label = f"{one.name}  {one.ap50:.3f}" if few else None
            axes.plot(RECALLS, curve, color=tint, linewidth=1.4 if few else 0.8, label=label)
    known = [one.truth > 0 for one in scores.per_class]
    if any(known) and (sum(known) > 1 or not few):
        mean = scores.curves[known].mean(axis=0)
        axes.plot(RECALLS, mean, color="black", linewidth=2.6, label=f"mean  {scores.map50:.3f}")
    if any(known):
        axes.legend(title="AP at IoU .5", loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)
    axes.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title="Precision over recall")
    axes.grid(alpha=0.3)
    save_figure(figure, path, dpi=130, tight=True)


def plot_confusion(table: NDArray[np.int64], names: Sequence[str], path: Path) -> None:
    """Confusion matrix: rows predicted, columns true, the last of both background."""
    axes = ("true class (background: nothing there)", "predicted (background: missed)")
    confusion.plot_confusion(table, [*names, "background"], path, axes=axes)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    """A figure and its axes, inches; matplotlib is slow to import, so only those who plot pay for it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()
