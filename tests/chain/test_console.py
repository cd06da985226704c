"""What a chain shows: its own lines, a few epochs, what is left; all with --verbose."""

from __future__ import annotations

import io
import itertools
import logging

import pytest

from utils.chain.console import EPOCHS_SHOWN, Remaining, console, minutes

STAGES = ("baseline", "sparse", "pruned", "finetuned", "quantised", "spiking")


class OneHandler(logging.StreamHandler):
    """The kind that is replaced here."""


def shown(monkeypatch, *, verbose):
    """What a training of 40 epochs and the chain's own line come to."""
    clock = itertools.count(0, 10)
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    stream = io.StringIO()
    root, handler = logging.getLogger(), OneHandler(stream)
    level = root.level
    root.setLevel(logging.INFO)
    root.addHandler(handler)
    try:
        with console(
            OneHandler, Remaining({"baseline": 40, "sparse": 9, "finetuned": 6}, STAGES), verbose=verbose
        ) as made:
            made[0].stage, made[0].place = "baseline", "stage 1 of 6, baseline"
            logging.getLogger("pipeline.pipeline").info("== stage 1 of 6, baseline")
            logging.getLogger("pipeline.prune").info("a table")
            logging.getLogger("pipeline.prune").warning("a warning")
            for epoch in range(1, 41):
                line = f"epoch {epoch}/40\n  sparse: more of it"
                logging.getLogger("pipeline.train").info(line, extra={"epoch": epoch, "epochs": 40})
        assert handler in root.handlers and not [each for each in root.handlers if each in made]
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    return stream.getvalue().splitlines()


def test_few_epochs_are_shown_with_their_stage_and_what_is_left(monkeypatch):
    lines = shown(monkeypatch, verbose=False)
    assert lines[:2] == ["== stage 1 of 6, baseline", "a warning"]
    epochs = lines[2:]
    assert len(epochs) <= EPOCHS_SHOWN + 2
    assert epochs[0].startswith("[stage 1 of 6, baseline] epoch 1/40; about ")
    assert "epoch 40/40" in epochs[-1] and "more of it" not in "".join(epochs)


def test_verbose_shows_everything(monkeypatch):
    lines = shown(monkeypatch, verbose=True)
    assert "a table" in lines and sum("epoch " in line for line in lines) == 40 == sum("more of it" in x for x in lines)


def test_the_rest_is_what_ran_in_proportion(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    left = Remaining({"baseline": 10, "sparse": 10, "finetuned": 0}, ("baseline", "sparse", "finetuned"))
    assert left.seconds("baseline", 0.0) is None
    clock[0] = 50.0
    assert left.seconds("baseline", 0.5) == pytest.approx(50 / 5 * (5 + 10 + 4))
    left.ended("baseline")
    clock[0] = 100.0
    assert left.seconds("sparse", 0.0) == pytest.approx(100 / 10 * 14)


def test_what_was_done_before_does_not_count_as_pace(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])
    left = Remaining({"sparse": 10}, ("baseline", "sparse"))
    clock[0] = 1000.0
    left.skip()
    clock[0] = 1010.0
    assert left.seconds("sparse", 0.1) == pytest.approx(10 / 1 * (9 + 4))


def test_minutes_are_words():
    assert [minutes(seconds) for seconds in (40.4, 99, 100, 731)] == [
        "40 seconds",
        "99 seconds",
        "2 minutes",
        "12 minutes",
    ]
