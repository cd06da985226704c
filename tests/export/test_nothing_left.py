"""An export of spikes that does not add up leaves nothing; an ONNX model is stamped in its report."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

import utils.spiking.aer
from tests.export.nets import chance
from tests.export.test_onnx import OPTIONS, POW2
from tests.export.test_script import place, typed
from utils.errors import InputError
from utils.export.onnx_folder import export_onnx

assert place  # a fixture


def test_events_that_do_not_add_up_leave_nothing_behind(place, monkeypatch):
    right, calls = utils.spiking.aer.counts_of, []

    def wrong(events, shape):
        calls.append(shape)
        counts = right(events, shape)
        if len(calls) > 2:  # after files of the first image were written
            counts = counts + np.eye(1, counts.size, 3, dtype=counts.dtype).reshape(counts.shape)
        return counts

    monkeypatch.setattr(utils.spiking.aer, "counts_of", wrong)
    with pytest.raises(InputError, match="events do not add up to the levels; please report"):
        typed("aer", "--weights", "weights/net.snn.pt", "--golden", "2")
    assert len(calls) == 3 and not Path("export/net").exists() and not list(Path("export").glob("*"))


def test_events_that_add_up_are_all_there_and_named_in_the_record(place):
    record = typed("aer", "--weights", "weights/net.snn.pt", "--golden", "1")
    assert {path.suffix for path in record.paths()} == {".npy", ".csv", ".md"}
    assert all(path.is_file() and path.parent == Path("export/net") for path in record.paths())
    with pytest.raises(InputError, match="export/net: exists; choose another --out"):
        typed("aer", "--weights", "weights/net.snn.pt", "--golden", "1", "--out", "export/net")


def test_the_report_stamps_the_model(tmp_path):
    export_onnx(tmp_path / "out", *chance(1, POW2), OPTIONS)
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["sha256"] == hashlib.sha256((tmp_path / "out/model.onnx").read_bytes()).hexdigest()
