"""Pictures of what pruning found out: drawn, and drawn of the numbers given."""

from __future__ import annotations

import cv2
import numpy
import pytest

from utils.reporting.pruning_plots import plot_sensitivity


def rows(layers: int, percents: int = 5) -> list[tuple[int, int, float, float]]:
    return [(2 * i, 9 * i, p / 10, 0.9 - p * i / 200) for i in range(layers) for p in range(1, percents + 1)]


def drawn(path) -> numpy.ndarray:
    image = cv2.imread(str(path))
    assert image is not None and min(image.shape[:2]) > 100
    return image


@pytest.mark.parametrize("layers", [1, 8, 9, 72])
def test_sensitivity_is_drawn_for_few_and_for_many_layers(tmp_path, layers):
    image = drawn(plot_sensitivity(tmp_path / "s.png", rows(layers), before=0.9, metric="mAP@.5"))
    assert numpy.mean(image < 250) > 0.01
    assert [path.name for path in tmp_path.iterdir()] == ["s.png"]


@pytest.mark.parametrize("layers", [4, 20])
def test_order_of_the_rows_is_no_matter_and_the_numbers_are(tmp_path, layers):
    given = rows(layers)
    first = drawn(plot_sensitivity(tmp_path / "1.png", given, metric="mAP@.5"))
    assert numpy.array_equal(first, drawn(plot_sensitivity(tmp_path / "2.png", given[::-1], metric="mAP@.5")))
    other = [*given[:-1], (*given[-1][:3], 0.01)]
    assert not numpy.array_equal(first, drawn(plot_sensitivity(tmp_path / "3.png", other, metric="mAP@.5")))


@pytest.mark.parametrize("layers", [4, 20])
def test_missing_rows_and_equal_metrics_leave_a_picture(tmp_path, layers):
    drawn(plot_sensitivity(tmp_path / "gaps.png", rows(layers)[3:], metric="mAP@.5"))
    flat = [(layer, line, percent, 0.0) for layer, line, percent, _ in rows(layers)]
    drawn(plot_sensitivity(tmp_path / "flat.png", flat, before=0.0, metric="mAP@.5"))


def test_nothing_to_draw_is_said():
    with pytest.raises(ValueError, match="without rows"):
        plot_sensitivity("none.png", [], metric="mAP@.5")
