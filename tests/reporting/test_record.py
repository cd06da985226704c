"""Records come back as they were written, and nothing that was there is lost."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy
import pytest
import torch

from utils.errors import InputError
from utils.files import free_path, write_text, writing
from utils.reporting.files import file_bytes, sha256, stamps
from utils.reporting.record import (
    finish_record,
    latest_record,
    new_run_folder,
    read_record,
    start_record,
)
from utils.reporting.results import read_rows, write_rows


def run(root: Path, name: str = "", metrics: dict | None = None, **args) -> Path:
    folder = new_run_folder(root, "train", name)
    record = start_record(folder, script="train", args=args, seed=3)
    if metrics is not None:
        finish_record(record, metrics=metrics)
    return folder


def test_record_read_is_the_record_written(tmp_path):
    (tmp_path / "in.txt").write_text("in")
    (tmp_path / "out.txt").write_text("out")
    record = start_record(
        tmp_path, script="train", args={"epochs": 3, "data": tmp_path / "in.txt"}, inputs=[tmp_path / "in.txt"]
    )
    assert read_record(tmp_path) == record and not record.finished
    done = finish_record(record, metrics={"map50": 0.5, "after": {"params": 12}}, outputs=[tmp_path / "out.txt"])
    assert read_record(tmp_path / "record.json") == done and done.finished
    assert done.paths("*.txt") == [Path(done.outputs[0]["path"])]


def test_record_holds_what_architecture_names(tmp_path):
    start_record(tmp_path, script="train", args={})
    content = json.loads((tmp_path / "record.json").read_text())
    names = {"command", "args", "git", "seed", "versions", "device", "seconds", "inputs", "outputs", "metrics"}
    assert names <= content.keys()


def test_numbers_of_any_library_become_plain_json(tmp_path):
    record = start_record(tmp_path, script="x", args={"size": (320, 192)})
    metrics = {"a": numpy.float32(0.5), "b": torch.tensor(2), "c": math.nan, "d": [numpy.int64(1)], "e": {1: True}}
    done = finish_record(record, metrics=metrics)
    assert done.metrics == {"a": 0.5, "b": 2, "c": None, "d": [1], "e": {"1": True}}
    assert read_record(tmp_path).args == {"size": [320, 192]}


def test_taken_folder_gets_a_number_and_resume_does_not(tmp_path):
    assert new_run_folder(tmp_path, "train", "a").name == "train-a"
    assert new_run_folder(tmp_path, "train", "a").name == "train-a-2"
    assert new_run_folder(tmp_path, "train", "a").name == "train-a-3"
    assert new_run_folder(tmp_path, "train", "a", fresh=False).name == "train-a"


@pytest.mark.parametrize(
    ("name", "second"),
    [
        ("best.pt", "best-2.pt"),
        ("x.snn.pt", "x-2.snn.pt"),
        ("slim_prune_0.8.pt", "slim_prune_0.8-2.pt"),
        ("folder", "folder-2"),
        (".hidden", ".hidden-2"),
    ],
)
def test_free_path_puts_the_number_before_the_suffix(tmp_path, name, second):
    assert free_path(tmp_path / name) == tmp_path / name
    (tmp_path / name).touch()
    assert free_path(tmp_path / name) == tmp_path / second


def test_newest_finished_run_that_matches_is_found(tmp_path):
    run(tmp_path, metrics={"n": 1}, sparse=True)
    run(tmp_path, metrics={"n": 2}, sparse=True)
    run(tmp_path, metrics={"n": 3}, sparse=False)
    run(tmp_path, sparse=True)  # was cut: never finished
    (tmp_path / "train-broken").mkdir()
    (tmp_path / "train-broken" / "record.json").write_text("{")
    found = latest_record(tmp_path, "train*", lambda record: record.args["sparse"])
    assert found is not None and found.metrics == {"n": 2}
    assert latest_record(tmp_path, "slim*") is None and latest_record(tmp_path / "absent") is None


def test_interrupted_write_keeps_the_earlier_file(tmp_path):
    path = write_text(tmp_path / "a.txt", "before")
    with pytest.raises(KeyboardInterrupt), writing(path) as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "before" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_full_disk_is_one_line_and_keeps_the_earlier_file(tmp_path):
    path = write_text(tmp_path / "a.txt", "before")
    with pytest.raises(InputError, match=r"a\.txt: No space left on device; nothing there was changed"), writing(path):
        raise OSError(28, "No space left on device")
    assert path.read_text() == "before"


def test_stamp_of_a_missing_file_names_it(tmp_path):
    with pytest.raises(InputError, match=r"gone\.pt: no such file"):
        stamps([tmp_path / "gone.pt"])
    assert sha256(write_text(tmp_path / "e", "")).startswith("e3b0c442")


def test_broken_record_names_the_file(tmp_path):
    (tmp_path / "record.json").write_text("[]")
    with pytest.raises(InputError, match=r"record\.json: not a run record"):
        read_record(tmp_path)
    with pytest.raises(InputError, match="no such record"):
        read_record(tmp_path / "nowhere")


def test_resumed_record_counts_all_seconds(tmp_path):
    done = finish_record(start_record(tmp_path, script="x", args={}), metrics={}, before=100.0)
    assert 100 <= done.seconds < 160


def test_file_bytes_are_those_on_disk(tmp_path):
    (tmp_path / "x").write_bytes(b"12345")
    assert file_bytes(tmp_path / "x") == 5


def test_a_cell_that_looks_like_a_formula_is_a_text_in_a_csv_and_comes_back_as_it_was(tmp_path):
    rows = [{"=cmd": "=1+1", "ap": -0.5}, {"=cmd": "@here", "ap": 3}, {"=cmd": "plain", "ap": None}]
    path = write_rows(tmp_path / "rows.csv", rows)
    assert path.read_text() == "'=cmd,ap\n'=1+1,-0.5\n'@here,3\nplain,\n"
    assert read_rows(path) == rows
