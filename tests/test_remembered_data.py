"""A checkpoint remembers its --data: the next script takes it, says so, and compares another one by names."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import convert_snn
import detect
import quantize
import slim_prune
import test as measure
import train
from tests.scenes import undrawn_runs, write_scenes
from utils.darknet.network import load_checkpoint, save_checkpoint
from utils.errors import InputError

HERE = ["--device", "cpu", "--workers", "0"]


def run(script: object, *words: str):
    here = HERE[:-2] if script is detect else HERE  # it reads one picture after the other
    return script.run(script.parser().parse_args([*here, *words]))  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("remembered")
    write_scenes(folder, train=4, valid=12)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        undrawn_runs(patch)
        run(train, "--data", "set.data", "--cfg", "net.cfg", "--epochs", "1")
    yield folder


@pytest.fixture
def here(trained, tmp_path, monkeypatch) -> Path:
    place = shutil.copytree(trained, tmp_path / "copy")
    for name in ("train.txt", "valid.txt"):
        text = (place / name).read_text()
        (place / name).write_text(text.replace(str(trained), str(place)))
    monkeypatch.chdir(place)
    return place


def test_what_follows_takes_the_data_of_the_training_and_says_so(here, caplog):
    caplog.set_level("INFO")
    assert load_checkpoint("weights/last.pt").meta["data"] == "set.data"
    pruned = run(slim_prune, "--weights", "weights/last.pt", "--percent", "0.1", "--force")
    assert "--data set.data, which it was trained on" in caplog.text
    small = str(pruned.paths("*.pt")[0])
    made = [pruned, run(measure, "--weights", small), run(quantize, "--weights", small, "--calibration", "4")]
    made.append(run(convert_snn, "--weights", str(made[-1].paths("*.int.pt")[0]), "--mode", "layerwise"))
    assert [record.args["data"] for record in made] == ["set.data"] * 4
    assert {load_checkpoint(path).meta["data"] for path in Path("weights").glob("*.pt")} == {"set.data"}


def test_detect_looks_at_ten_of_its_validation_images(here):
    record = run(detect, "--weights", "weights/last.pt", "--save-json", "--conf-thres", "0")
    assert record.metrics["images"] == 10
    seen = {row["image_id"] for row in json.loads((record.folder / "detections.json").read_text())}
    assert seen <= set((here / "valid.txt").read_text().split())


def test_data_that_is_gone_is_told_and_a_picture_needs_none(here):
    (here / "set.data").rename(here / "moved.data")
    with pytest.raises(InputError, match=r"^weights/last.pt: was trained on set.data, which is not here; give --data"):
        run(measure, "--weights", "weights/last.pt")
    assert run(measure, "--weights", "weights/last.pt", "--data", "moved.data").args["data"] == "moved.data"
    assert run(detect, "--weights", "weights/last.pt", "--source", "images/valid/0.png").finished


@pytest.mark.parametrize("script", [measure, detect])
def test_other_data_are_compared_by_names(here, script, caplog):
    text = (here / "set.data").read_text()
    (here / "other.data").write_text(text.replace("set.names", "other.names"))
    words = ["--weights", "weights/last.pt", "--data", "other.data"]
    words += ["--source", "images/valid/0.png"] if script is detect else []
    (here / "other.names").write_text("green\nred\n")
    with pytest.raises(InputError, match=r"knows blue, green, .*other.data has 'red'"):
        run(script, *words)
    (here / "other.names").write_text("Green\nblue\n")
    assert run(script, *words).finished and "mapped by name" in caplog.text


def test_a_checkpoint_of_before_knows_of_no_data(here, caplog):
    caplog.set_level("INFO")
    old = load_checkpoint("weights/last.pt")
    del old.meta["data"]
    save_checkpoint("weights/old.pt", old)
    assert run(measure, "--weights", "weights/old.pt", "--data", "set.data").finished
    assert "which it was trained on" not in caplog.text
