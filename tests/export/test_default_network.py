"""Which network export.py takes when it is told none: the newest integers that a finished run left."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.export import QUANTISED, integers_of
from utils.errors import InputError
from utils.reporting.record import Record, finish_record, new_run_folder, start_record
from utils.reporting.runs import newest


@pytest.fixture
def left(tmp_path, monkeypatch):
    """Finish a run of a script that left these files; later ones are newer."""
    monkeypatch.chdir(tmp_path)
    Path("weights").mkdir()

    def finish(script: str, *files: str, **args: object) -> Record:
        paths = [Path("weights") / name for name in files]
        for path in paths:
            path.write_bytes(b"network")
        record = start_record(new_run_folder("runs", script), script=script, args=args)
        return finish_record(record, metrics={}, outputs=paths)

    return finish


def taken() -> str:
    return newest(QUANTISED, output=integers_of).name


def test_the_integers_of_a_quantised_training_are_taken(left):
    left("quantize", "a.int.pt")
    left("train", "last_b.pt", "best_b.pt", "last_b.int.pt", quantized="pow2")
    assert taken() == "last_b.int.pt"


def test_a_float_training_or_a_pruning_that_is_newer_is_passed_over(left):
    left("train", "last_b.pt", "last_b.int.pt", quantized="google")
    left("train", "last_c.pt", "best_c.pt")
    left("slim_prune", "slim.pt")
    assert taken() == "last_b.int.pt"


def test_spikes_that_are_integers_are_taken_and_those_of_rate_mode_passed_over(left):
    left("quantize", "a.int.pt")
    left("convert_snn", "a.snn.pt", mode="stream")
    left("convert_snn", "b.snn.pt", mode="rate")
    assert taken() == "a.snn.pt"


def test_integers_that_are_gone_or_of_a_run_that_did_not_finish_do_not_count(left):
    left("quantize", "a.int.pt")
    left("train", "last_b.pt", "last_b.int.pt")
    Path("weights/last_b.int.pt").unlink()
    start_record(new_run_folder("runs", "quantize"), script="quantize", args={})
    assert taken() == "a.int.pt"


def test_where_nobody_quantised_the_script_that_does_is_named(left):
    left("train", "last_c.pt")
    with pytest.raises(InputError, match=r"no finished run of quantize\.py in runs/; run python3 quantize\.py first"):
        taken()
