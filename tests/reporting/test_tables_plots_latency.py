"""Numbers as people read them, pictures that show them, clocks that are warm."""

from __future__ import annotations

import time

import cv2
import numpy
import pytest
import torch
from torch import nn

from utils.detection.task import DetectionTask
from utils.reporting import latency, plots
from utils.reporting.latency import measure_in_turns
from utils.reporting.plots import plot_bars, plot_channels, plot_gammas, plot_results
from utils.reporting.results import read_rows, write_rows
from utils.reporting.tables import change, comparison_table, energy, number, points, size, stage_table

TASK = DetectionTask()


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (950, "950"), (999.6, "1 k"), (12_345, "12.3 k"), (999_999, "1 M"), (2_183_074, "2.18 M")],
)
def test_numbers_have_three_digits_and_a_unit(value, text):
    assert number(value) == text


def test_sizes_energies_and_changes():
    assert size(45_600_000) == "45.6 MB" and size(950) == "950 B" and energy(3.1e8) == "310 uJ"
    assert change(200, 30) == "-85.0 %" and change(2, 3) == "+50.0 %" and change(0, 3) == "" and change(3, None) == ""
    assert points(0.9, 0.912) == "+1.2 pt" and points(None, 0.5) == ""


def test_stage_table_counts_changes_from_the_first_stage():
    stages = {"baseline": {"map50": 0.9, "params": 1000, "bytes": 4000}, "pruned": {"map50": 0.88, "params": 100}}
    lines = stage_table(stages, TASK).splitlines()
    assert [word in lines[1] for word in ("mAP@.5", "parameters", "MACs", "latency", "energy")] == [True] * 5
    assert "0.9000" in lines[3] and "%" not in lines[3]
    assert "0.8800 (-2.0 pt)" in lines[4] and "100 (-90.0 %)" in lines[4] and " - " in lines[4]
    assert len({len(line) for line in lines}) == 1


def test_comparison_table_leaves_out_what_nobody_measured():
    table = comparison_table(
        "slim", {"before": {"map50": 0.9, "params": 2e6}, "after": {"map50": 0.8, "params": 1e6}}, TASK
    )
    assert "-10.0 pt" in table and "-50.0 %" in table and "energy" not in table and "change" in table


def test_comparison_table_shows_both_batches_and_the_spread_of_their_timings():
    timed = {"latency_ms": 5.41, "latency_ms_spread": [5.1, 6.2], "latency8_ms": 20.0, "latency8_ms_spread": [19, 25]}
    lines = comparison_table("slim", {"before": timed, "after": {**timed, "latency_ms": 2.705}}, TASK).splitlines()
    assert "5.41 ms" in lines[3] and "-50.0 %" in lines[3] and "5.1-6.2 ms" in lines[4] and "19-25 ms" in lines[6]


def test_rows_come_back_as_they_were_written(tmp_path):
    rows = [{"epoch": 1, "loss": 0.123456789012, "map": None}, {"epoch": 2, "loss": 1e-9, "map": 0.5, "late": "x"}]
    write_rows(tmp_path / "r.csv", rows)
    assert read_rows(tmp_path / "r.csv") == [{**rows[0], "late": None}, rows[1]]
    assert read_rows(tmp_path / "none.csv") == []


def inked(path) -> float:
    """Share of the picture that is not background."""
    image = cv2.imread(str(path))
    assert image is not None and image.shape[0] > 100
    return float(numpy.mean(image < 250))


def test_pictures_are_drawn_and_overwrite_nothing_halfway(tmp_path):
    rows = [
        {"epoch": e + 1, "total": 2 / (e + 1), "map50": e / 9 if e % 2 else None, "lr": 0.1, "near_zero": e / 9}
        for e in range(9)
    ]
    gammas = {f"epoch {e}": torch.rand(100) * 10.0**-e for e in range(4)}
    drawn = [
        plot_results(tmp_path / "results.png", rows, "run", TASK.columns),
        plot_results(tmp_path / "one.png", rows[:1], metrics=TASK.columns),
        plot_gammas(tmp_path / "gammas.png", gammas, threshold=0.01),
        plot_gammas(tmp_path / "zero.png", {"all gone": torch.zeros(10)}),
        plot_channels(tmp_path / "channels.png", {0: 16, 2: 32, 5: 64}, {0: 8, 2: 32}),
        plot_bars(tmp_path / "bars.png", {"float": 3.0, "spiking": 1.0}, title="energy", unit="uJ"),
    ]
    assert all(inked(path) > 0.01 for path in drawn)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in drawn)


def test_channels_that_were_cut_show_less_blue(tmp_path):
    def blue(after):
        image = cv2.imread(str(plot_channels(tmp_path / "c.png", {0: 16, 1: 16}, after))).astype(int)
        return int(((image[..., 0] - image[..., 2]) > 80).sum())

    whole, half, gone = blue({0: 16, 1: 16}), blue({0: 8, 1: 8}), blue({0: 8})
    assert whole > 1.7 * half > 1.7 * 1.5 * gone > 0


def test_latency_is_the_median_of_warm_passes_and_leaves_the_mode_alone():
    calls = []

    class Slow(nn.Module):
        def forward(self, x):
            calls.append((x.shape, self.training, torch.is_grad_enabled()))
            time.sleep(0.03 if (len(calls) - 1) % 11 < 3 else 0.004)
            return x

    model = Slow().train()
    found = measure_in_turns({"slow": model}, torch.rand(2, 3, 32, 64), repeats=8)["slow"]
    tried = len({1, torch.get_num_threads()})  # with one thread, and with all
    assert len(calls) == 11 * tried and found.repeats == 8 and found.batch == 2
    assert set(calls) == {((2, 3, 32, 64), False, False)} and model.training
    assert 4 <= found.low <= found.median <= found.high < 25
    assert "ms" in str(found)


def test_networks_of_long_passes_are_warm_after_one_and_not_tried_with_one_thread(monkeypatch):
    clock, threads = [0.0], []

    def run(images):
        threads.append(torch.get_num_threads())
        clock[0] += 0.4

    monkeypatch.setattr(latency, "_now", lambda device: clock[0])
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        found = measure_in_turns({"before": run, "after": run}, torch.rand(1, 3, 8, 8), seconds=1)
    finally:
        torch.set_num_threads(before)
    assert threads == [2] * 8 and found["after"].repeats == 3 and found["after"].median == pytest.approx(400)


def test_a_machine_that_slows_down_slows_what_takes_turns_alike(monkeypatch):
    """Before is 10 ms and after 5, and from the 40th pass on all takes thrice as long."""
    clock, calls = [0.0], []

    def takes(name: str, seconds: float):
        def run(images):
            calls.append((name, images.sum().item()))
            clock[0] += seconds * (3 if len(calls) > 40 else 1)

        return run

    monkeypatch.setattr(latency, "_now", lambda device: clock[0])
    predictors = {"before": takes("before", 0.010), "after": takes("after", 0.005)}
    found = measure_in_turns(predictors, torch.rand(1, 3, 8, 8), repeats=50, seconds=60)
    assert found["before"].median == pytest.approx(2 * found["after"].median)
    assert {name for name, _ in calls[6:16]} == {"before", "after"} and len({pixels for _, pixels in calls}) == 1


@pytest.mark.parametrize("panels", range(1, 7))
def test_a_picture_of_several_panels_has_no_empty_place(panels):
    figure, axes = plots.new_figure(panels, "")
    figure.canvas.draw()
    boxes = [axis.get_position() for axis in axes]
    assert len(figure.axes) == len(axes) == panels
    ends = {round(box.y0, 2): max(b.x1 for b in boxes if round(b.y0, 2) == round(box.y0, 2)) for box in boxes}
    assert len(ends) == -(-panels // 3)
    assert all(end > 0.9 for end in ends.values()), "every row reaches to the right edge"
