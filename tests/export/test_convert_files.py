"""convert.py: Darknet's files into a checkpoint and back, as they are typed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import convert
import test
from models import Darknet, load_model, network_of
from tests.scenes import write_scenes
from utils.darknet.cfg import read_cfg
from utils.darknet.network import Checkpoint, load_checkpoint, save_checkpoint
from utils.darknet.weights import write_weights
from utils.errors import InputError
from utils.quantization.calibrate import calibrate
from utils.quantization.int_checkpoint import to_checkpoint
from utils.quantization.lower import lower


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    write_scenes(tmp_path, train=2, valid=2)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    network = network_of(Darknet(read_cfg("net.cfg")))
    write_weights("net.weights", network)
    save_checkpoint("weights/own.pt", Checkpoint(network, ("blue", "green"), meta={"resize": "stretch"}))
    integer = lower(calibrate(network, [torch.rand(2, 3, 64, 64)]))
    save_checkpoint("weights/own.int.pt", to_checkpoint(integer, "quantised", ("blue", "green")))
    return tmp_path


def typed(*words: str):
    return convert.run(convert.parser().parse_args([*words]))


def answers(weights: str, cfg: str | None = None) -> list[torch.Tensor]:
    with torch.no_grad():
        return load_model(weights, cfg).predictor(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)))


def test_there_and_back_is_the_same_network_and_the_same_bytes(place):
    record = typed("--cfg", "net.cfg", "--weights", "net.weights", "--data", "set.data")
    assert record.paths() == [Path("weights/net.pt")]
    made = load_checkpoint("weights/net.pt")
    assert made.names == ("blue", "green") and made.meta["size"] == [64, 64] and made.meta["data"] == "set.data"
    typed("--weights", "weights/net.pt", "--output", "again/x.weights")
    assert Path("again/x.weights").read_bytes() == Path("net.weights").read_bytes()
    assert Path("again/x.names").read_text() == "blue\ngreen\n"
    for a, b in zip(answers("net.weights", "net.cfg"), answers("again/x.weights", "again/x.cfg"), strict=True):
        assert torch.equal(a, b)


def test_how_images_are_fitted_goes_with_both_kinds_of_file(place):
    typed("--weights", "weights/own.pt", "--output", "x.weights")
    assert load_model("x.weights", "x.cfg").resize == load_model("weights/own.pt").resize == "stretch"
    typed("--cfg", "x.cfg", "--weights", "x.weights", "--resize", "letterbox", "--gray-scale")
    again = load_model("weights/x.pt")
    assert again.resize == "letterbox" and again.grey and again.names == ()


def test_classes_that_nobody_named_are_named_by_the_next_data_set(place):
    typed("--weights", "weights/own.pt", "--output", "x.weights")
    typed("--cfg", "x.cfg", "--weights", "x.weights")
    words = ["--weights", "weights/x.pt", "--data", "set.data", "--device", "cpu", "--workers", "0"]
    assert test.run(test.parser().parse_args(words)).metrics["map50"] >= 0


def test_nothing_is_written_over(place):
    typed("--weights", "weights/own.pt")
    typed("--weights", "weights/own.pt")
    assert {"own.weights", "own.cfg", "own-2.weights", "own-2.cfg"} <= {path.name for path in Path("weights").iterdir()}
    Path("x.cfg").write_text("mine")
    with pytest.raises(InputError, match=r"^x\.cfg: exists; choose another --output"):
        typed("--weights", "weights/own.pt", "--output", "x.weights")
    assert Path("x.cfg").read_text() == "mine" and not Path("x.weights").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--weights", "net.weights"], r"net\.weights: Darknet weights need their structure; add --cfg"),
        (["--weights", "weights/own.int.pt"], r"own\.int\.pt: a quantised network, and Darknet has floats; give the"),
        (["--weights", "nowhere.pt"], r"nowhere\.pt: no such weights file"),
        ([], r"no finished run of train\.py in runs/"),
    ],
)
def test_what_has_no_such_form_is_refused(place, words, message):
    with pytest.raises(InputError, match=message):
        typed(*words)
    assert not list(Path("runs").rglob("record.json")) if Path("runs").exists() else True
