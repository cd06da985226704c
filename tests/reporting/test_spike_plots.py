from __future__ import annotations

import cv2
import numpy as np

from utils.reporting.spike_plots import minor_label, plot_accuracy_over_time, plot_energy, plot_layer_bars, plot_raster


def share(path, colour: tuple[int, int, int]) -> float:
    """Of the picture's pixels that have about this RGB colour."""
    picture = cv2.imread(str(path))[:, :, ::-1].astype(int)
    return float((np.abs(picture - np.array(colour)).max(2) < 12).mean())


def test_a_raster_colours_spikes_by_their_sign(tmp_path):
    train = np.zeros((10, 20), np.int8)
    train[:, :5], train[:, 5:10] = 1, -1
    path = plot_raster(tmp_path / "a.png", {0: train, 1: np.zeros((0, 20), np.int8)})
    blue, red = share(path, (0x21, 0x66, 0xAC)), share(path, (0xD6, 0x60, 0x4D))
    assert blue > 0.05 and abs(blue - red) < 0.2 * blue


def test_a_raster_of_many_layers_shows_an_even_choice(tmp_path):
    trains = {i: np.ones((2, 4), np.int8) for i in range(60)}
    assert cv2.imread(str(plot_raster(tmp_path / "a.png", trains))).shape[0] < 1200


def test_few_steps_are_whole_numbers_on_the_axis_and_many_do_not_crowd_it():
    few, many = minor_label([1, 2, 3]), minor_label([1, 300])
    assert [few(step, 0) for step in (2, 3, 0.9)] == ["2", "3", ""]
    assert [many(step, 0) for step in (2, 3, 50, 60)] == ["2", "", "50", ""]


def test_curves_lines_rings_and_bars_are_drawn(tmp_path):
    curves = {"stream": [(1, 0.1), (20, 0.9)], "rate": [(1, 0.0), (64, 0.8)]}
    plain = plot_accuracy_over_time(tmp_path / "a.png", curves, {"float": 0.9}, metric="mAP@.5")
    ringed = plot_accuracy_over_time(
        tmp_path / "b.png", curves, {"float": 0.9}, metric="mAP@.5", exact={"stream": 20, "rate": 900}
    )
    assert share(ringed, (0x21, 0x66, 0xAC)) > share(plain, (0x21, 0x66, 0xAC))
    bars = plot_layer_bars(tmp_path / "c.png", {"a": {0: 1.0, 3: 2.0}, "b": {0: 9.0}}, title="t", unit="u", log=True)
    assert share(bars, (0xD6, 0x60, 0x4D)) > 0.05
    steps = plot_layer_bars(tmp_path / "d.png", {"a": {0: 3.0}, "m": {0: 9.0}}, title="t", unit="u", marks="m")
    assert share(steps, (0x21, 0x66, 0xAC)) > 0.05
    energy = plot_energy(tmp_path / "e.png", {"dense, int8": 2e6, "spikes": 1e6})
    assert share(energy, (0x9E, 0x9E, 0x9E)) > share(energy, (0x21, 0x66, 0xAC)) > 0.02
