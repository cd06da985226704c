"""Figures on disk: whole or not at all; letters without a picture are told, not warned of."""

from __future__ import annotations

import itertools
import warnings

import cv2
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from utils.reporting import figures
from utils.reporting.figures import save_figure
from utils.reporting.pareto import name_points
from utils.reporting.plots import new_figure


def test_a_name_in_letters_without_a_picture_is_told_once_and_warned_of_never(tmp_path, caplog):
    figures._tell_letters.cache_clear()
    caplog.set_level("INFO")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(2):
            figure, _ = new_figure(1, "\U0001f99d\U00012000")
            assert cv2.imread(str(save_figure(figure, tmp_path / f"{number}.png"))) is not None
    assert caplog.messages == ["names have letters that no font here has: pictures show boxes in their place"]


def test_other_warnings_of_matplotlib_are_passed_on(tmp_path):
    class Warned:
        def savefig(self, path, **how):
            warnings.warn("something else", RuntimeWarning, stacklevel=1)
            path.write_bytes(b"x")

    with pytest.warns(RuntimeWarning, match="something else"):
        save_figure(Warned(), tmp_path / "a.png")


def test_a_figure_that_cannot_be_drawn_leaves_what_was_there(tmp_path):
    class Broken:
        def savefig(self, path, **how):
            path.write_bytes(b"half")
            raise ValueError("broken")

    kept = tmp_path / "a.png"
    kept.write_bytes(b"whole")
    with pytest.raises(ValueError, match="broken"):
        save_figure(Broken(), kept)
    assert [each.name for each in tmp_path.iterdir()] == ["a.png"] and kept.read_bytes() == b"whole"


@pytest.mark.parametrize("rise", [0.02, 0.0])
def test_names_on_a_front_lie_neither_over_each_other_nor_over_points(rise):
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    spots = [(10 ** (4 + 0.06 * i), 0.7 + rise * i) for i in range(12)]
    axis.scatter(*zip(*spots, strict=True))
    axis.set(xscale="log")
    axis.margins(x=0.3, y=0.3)
    figure.canvas.draw()
    beneath = axis.transData.transform(spots) + np.array([16, -11])  # px: where the names would be written first
    spots += [*map(tuple, axis.transData.inverted().transform(beneath))]
    name_points(axis, spots, {i: f"percent={i / 10} a-bit=4" for i in range(0, 12, 2)})
    boxes = [text.get_window_extent() for text in axis.texts]
    points = axis.transData.transform(spots)
    assert len(boxes) == 6
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert not any(box.contains(*point) for box in boxes for point in points)
