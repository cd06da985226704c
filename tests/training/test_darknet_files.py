"""train.py --darknet: with every best and last the same network as .weights and .cfg, which Darknet's readers open."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import train
from models import load_model
from tests.darknet.opencv import opencv_outputs
from tests.scenes import undrawn_runs, write_scenes
from utils.darknet.network import load_checkpoint
from utils.darknet.weights import read_weights
from utils.errors import InputError

FILES = [f"{name}.{kind}" for name in ("best", "last") for kind in ("cfg", "pt", "weights")]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    write_scenes(tmp_path, train=4, valid=2)
    monkeypatch.chdir(tmp_path)
    undrawn_runs(monkeypatch)
    return tmp_path


def run(*words: str):
    flags = ["--data", "set.data", "--workers", "0", "--device", "cpu", "--cfg", "net.cfg", "--epochs", "2"]
    return train.run(train.parser().parse_args([*flags, *words]))


def test_every_best_and_last_is_left_as_darknet_reads_it_too(place, tmp_path):
    record = run("--darknet")
    assert sorted(path.name for path in Path("weights").iterdir() if path.name[0] != ".") == FILES
    assert {path.name for path in record.paths()} >= set(FILES)
    x = torch.rand(1, 3, 64, 64)
    for name in ("best", "last"):
        own, again = load_model(f"weights/{name}.pt"), load_model(f"weights/{name}.weights", f"weights/{name}.cfg")
        with torch.no_grad():
            mine, theirs = own.predictor(x), again.predictor(x)
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
        assert own.size == again.size and own.resize == again.resize
    checkpoint = load_checkpoint("weights/last.pt")
    seen = read_weights("weights/last.weights", checkpoint.network.spec).header.seen
    assert seen == 2 * 4  # epochs x images, as Darknet counts
    found = opencv_outputs(again.network, x, tmp_path, ["conv_6", "conv_12"])
    for a, b in zip(mine, found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_files_of_darknet_that_are_there_are_not_written_over(place):
    Path("weights").mkdir()
    Path("weights/best.weights").write_bytes(b"somebody's")
    run("--darknet", "--notest")
    assert Path("weights/best.weights").read_bytes() == b"somebody's"
    assert Path("weights/last-2.weights").is_file() and Path("weights/last-2.cfg").is_file()


def test_integers_have_no_form_there(place):
    with pytest.raises(InputError, match=r"^--quantized and --darknet: its files have no integers"):
        run("--darknet", "--quantized", "pow2")
