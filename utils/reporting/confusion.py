"""Which class is taken for which, as a picture; matplotlib is imported only where it draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from utils.reporting.figures import save_figure

NUMBERED = 21  # rows of a matrix that can carry its numbers
LABELLED = 60  # rows that can carry their names


def plot_confusion(
    table: NDArray[np.int64], labels: Sequence[str], path: Path, *, axes: tuple[str, str] = ("true", "predicted")
) -> Path:
    """Confusion matrix: rows predicted, columns true, shaded by the share of the true class; numbers are counts.

    Args:
        table: int64 [n, n].
        labels: of rows and columns.
        path: the picture.
        axes: what stands along the columns, along the rows.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    side = min(16.0, 3.0 + 0.42 * len(labels))
    figure = Figure(figsize=(side + 1.0, side))
    FigureCanvasAgg(figure)
    plot = figure.add_subplot()
    share = table / np.maximum(1, table.sum(axis=0, keepdims=True))
    image = plot.imshow(share, cmap="Blues", vmin=0, vmax=1)
    small = 8 if len(labels) < NUMBERED else 5
    if len(labels) <= LABELLED:
        plot.set_xticks(range(len(labels)), labels, rotation=90 if len(labels) > 6 else 0, fontsize=small + 1)
        plot.set_yticks(range(len(labels)), labels, fontsize=small + 1)
    if len(labels) <= NUMBERED:
        for i, j in np.argwhere(table > 0):
            shade = "white" if share[i, j] > 0.5 else "black"
            plot.text(j, i, str(table[i, j]), ha="center", va="center", fontsize=small, color=shade)
    plot.set(xlabel=axes[0], ylabel=axes[1])
    figure.colorbar(image, ax=plot, fraction=0.046, pad=0.04, label="share of the true class")
    return save_figure(figure, path, dpi=130, tight=True)
