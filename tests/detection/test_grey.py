"""Grey images: networks of one channel, and --gray-scale on networks of three."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import detect
import test as measure
import train
from models import Darknet, load_model, network_of
from pipeline.detect import open_detector
from tests.scenes import CFG, write_scenes
from utils.config.measure import DetectConfig
from utils.darknet.cfg import parse_cfg
from utils.darknet.network import Checkpoint, load_checkpoint, save_checkpoint
from utils.data.sources import load_images
from utils.detection.augment import Augment
from utils.detection.dataset import DetectionDataset
from utils.detection.open_data import read_manifest
from utils.errors import InputError

SIZE = (64, 64)
HERE = ["--device", "cpu", "--workers", "0"]


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_scenes(tmp_path, train=4, valid=2)
    return tmp_path


def network(place: Path, channels: int) -> Path:
    torch.manual_seed(0)
    spec = parse_cfg(CFG.replace("channels=3", f"channels={channels}"))
    path = place / f"weights/{channels}.pt"
    return save_checkpoint(path, Checkpoint(network_of(Darknet(spec)), ("blue", "green")))


@pytest.mark.parametrize("augment", [False, True, Augment(mosaic=0.0, degrees=10)])
@pytest.mark.parametrize("cache", ["off", "ram"])
def test_grey_images_are_those_of_one_channel_repeated(place, augment, cache):
    manifest = read_manifest(place / "set.data")
    options = {"augment": augment, "cache": cache, "seed": 3}
    one = DetectionDataset(manifest.train, manifest, SIZE, channels=1, **options)
    three = DetectionDataset(manifest.train, manifest, SIZE, grey=True, **options)
    for i in range(len(one)):
        a, b = one[i], three[i]
        assert a.image.shape == (1, *SIZE) and b.image.shape == (3, *SIZE)
        assert torch.equal(a.image.expand(3, -1, -1), b.image) and torch.equal(a.boxes, b.boxes)


def test_grey_is_the_brightness_opencv_gives(place):
    manifest = read_manifest(place / "set.data")
    shown = DetectionDataset(manifest.valid, manifest, SIZE, grey=True)[1].image
    expected = cv2.imread(str(place / "images/valid/1.png"), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(shown[0].numpy(), expected)


def test_detect_looks_at_what_test_and_train_look_at(place):
    """The image that detect.py feeds is, to the bit, the validation image of --gray-scale."""
    manifest = read_manifest(place / "set.data")
    loaded = load_model(network(place, 3))
    seen = []
    loaded.predictor.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    config = DetectConfig(conf_thres=0.01, iou_thres=0.5, img_size=SIZE, gray_scale=True, device="cpu")
    frame = next(iter(load_images(place / "images/valid/1.png", 1)))
    open_detector(config, loaded).find(frame.image)
    shown = DetectionDataset(manifest.valid, manifest, SIZE, grey=True)[1].image
    assert torch.equal(seen[0][0], shown.float() / 255)


def scores(script: object, words: list[str]) -> dict:
    return script.run(script.parser().parse_args(words)).metrics  # type: ignore[attr-defined]


def summed(place: Path) -> Path:
    """The network of one channel that does to a grey image what that of three does to it repeated."""
    three = load_model(network(place, 3)).network
    spec = parse_cfg(CFG.replace("channels=3", "channels=1"))
    key = next(key for key, value in three.state.items() if value.ndim == 4)
    state = {**three.state, key: three.state[key].sum(1, keepdim=True)}
    return save_checkpoint(place / "weights/one.pt", Checkpoint(type(three)(spec, state), ("blue", "green")))


def test_test_py_scores_three_equal_channels_as_their_sum_in_one(place):
    common = ["--data", "set.data", *HERE]
    grey = scores(measure, [*common, "--weights", str(network(place, 3)), "--gray-scale"])
    one = scores(measure, [*common, "--weights", str(summed(place))])
    colour = scores(measure, [*common, "--weights", str(network(place, 3))])
    path = network(place, 3)
    three = load_checkpoint(path)
    save_checkpoint(place / "weights/grey.pt", replace(three, meta={**three.meta, "gray_scale": True}))
    remembered = scores(measure, [*common, "--weights", "weights/grey.pt"])
    for key in ("map50", "map", "precision", "recall"):
        assert grey[key] == pytest.approx(one[key], abs=1e-6)
        assert remembered[key] == grey[key]
    assert grey["macs"] > one["macs"] and colour["macs"] == grey["macs"]


@pytest.mark.parametrize("channels", [1, 3])
def test_train_test_and_detect_run_in_grey(place, channels):
    (place / "grey.cfg").write_text(CFG.replace("channels=3", f"channels={channels}"))
    words = ["--data", "set.data", *HERE, "--gray-scale"]
    record = train.run(train.parser().parse_args([*words, "--cfg", "grey.cfg", "--epochs", "1"]))
    assert record.finished and record.args["gray_scale"] is True
    assert load_model("weights/last.pt").grey
    again = train.parser().parse_args(["--data", "set.data", *HERE, "--weights", "weights/last.pt", "--epochs", "1"])
    assert train.run(again).args["gray_scale"] is True  # without being told
    look = ["--data", "set.data", "--device", "cpu", "--gray-scale", "--source", "images/valid", "--save-json"]
    found = detect.run(detect.parser().parse_args([*look, "--weights", "weights/last.pt"]))
    assert found.metrics["images"] == 2 and json.loads((found.folder / "detections.json").read_text()) is not None
    picture = cv2.imread(str(found.folder / "0.jpg"))
    assert picture is not None


def test_two_channels_are_refused(place):
    manifest = read_manifest(place / "set.data")
    with pytest.raises(InputError, match=r"channels=2; images have 3 \(RGB\) or 1 \(grey\)"):
        DetectionDataset(manifest.train, manifest, SIZE, channels=2)
