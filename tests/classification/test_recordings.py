"""Recordings with classes as a data set, and a spiking network that is trained on them from the command line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import test as measuring
import train
from tests.data.test_events import Events, as_nmnist
from tests.scenes import undrawn_runs, write_scenes
from utils.classification.open_data import open_data
from utils.classification.recordings import EventDataset
from utils.data.event_frames import FrameRule
from utils.data.loader import make_loader
from utils.detection.task import DetectionTask
from utils.errors import InputError
from utils.spiking.energy import FP32

CFG = """\
[net]
batch=4
width=16
height=16
channels=2
timesteps=4
input=frames
[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=lif
[convolutional]
filters=2
size=1
activation=linear
[softmax]
"""


def moving(right: bool, seed: int) -> bytes:
    """A bar that moves to the right or to the left: the frames of both, without their order, are the same."""
    rng = np.random.default_rng(seed)
    n = 400
    t = np.sort(rng.integers(0, 40_000, n))
    along = 2 + 10 * t // 40_000
    x = along if right else 14 - along
    return as_nmnist(Events(t, x, rng.integers(0, 16, n), np.ones(n, int)))


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    undrawn_runs(monkeypatch)
    for split, count in (("Train", 8), ("Test", 4)):
        for label in ("left", "right"):
            folder = tmp_path / "bars" / split / label
            folder.mkdir(parents=True)
            for n in range(count // 2):
                (folder / f"{n}.bin").write_bytes(moving(label == "right", n + 10 * (split == "Test")))
    (tmp_path / "net.cfg").write_text(CFG)
    return tmp_path


def data(place: Path, **options) -> EventDataset:
    manifest = open_data(place / "bars")
    return EventDataset(manifest.train, manifest, (16, 16), **{"frames": FrameRule(4), **options})


def test_a_folder_with_train_and_test_is_a_data_set_as_it_stands(place):
    manifest = open_data(place / "bars")
    assert manifest.names == ("left", "right") and manifest.flip == 0
    found = data(place)
    assert [found[i].label for i in range(4)] == [0, 1, 0, 1], "the first so many are of all classes"
    assert found[0].frames.shape == (4, 2, 16, 16) and set(found[0].frames.unique().tolist()) == {0, 255}
    assert found[0].image.shape == (3, 16, 16)
    assert len({frame.numpy().tobytes() for frame in found[0].frames}) == 4


def test_a_batch_is_frames_in_order(place):
    batch = next(iter(make_loader(data(place), 4, workers=0)))
    assert batch.images.shape == (4, 4, 2, 16, 16) and batch.images.dtype == torch.uint8
    assert torch.equal(batch.images[1], data(place)[1].frames)


def test_what_changes_a_recording_depends_on_seed_and_epoch_alone(place):
    one, other = data(place, augment=True), data(place, augment=True, cache="off")
    assert torch.equal(one[0].frames, other[0].frames)
    other.set_epoch(1)
    assert not torch.equal(one[0].frames, other[0].frames)
    assert one[0].frames.sum() < data(place)[0].frames.sum()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": None}, "recordings of events need a network with input=frames"),
        ({"channels": 3}, "recordings of events need a network with input=frames"),
    ],
)
def test_a_network_for_images_is_refused(place, options, message):
    with pytest.raises(InputError, match=message):
        data(place, **options)


def test_a_recording_that_is_too_large_is_named(place):
    manifest = open_data(place / "bars")
    with pytest.raises(InputError, match=r"left.0\.bin: an event at x \d+, y \d+ lies outside of 8x8 px"):
        EventDataset(manifest.train, manifest, (8, 8), frames=FrameRule(4))


@pytest.mark.usefixtures("place")
def test_a_spiking_network_learns_recordings_and_is_measured():
    words = ["--data", "bars", "--device", "cpu", "--workers", "0"]
    run = [*words, "--cfg", "net.cfg", "--epochs", "2", "--adam", "--notest"]
    record = train.run(train.parser().parse_args(run))
    assert 0 <= record.metrics["top1"] <= 1
    found = measuring.run(measuring.parser().parse_args([*words, "--weights", "weights/last.pt"]))
    assert found.metrics["top1"] == record.metrics["top1"]
    assert found.metrics["spikes"] > 0
    pixels = 4 * (8 * 8 * 9 - 2 * 8 * 3 + 1) * 2 * 8  # four frames; a kernel of stride 2 hangs over on two sides
    accumulates = found.metrics["sops"] * FP32.accumulate
    assert found.metrics["energy_pj"] == pytest.approx(pixels * FP32.mac + accumulates)


def test_frames_and_images_are_not_mixed_up(place):
    (place / "still.cfg").write_text(CFG.replace("input=frames\n", ""))
    words = ["--data", "bars", "--device", "cpu", "--workers", "0", "--epochs", "1", "--cfg", "still.cfg"]
    with pytest.raises(InputError, match="need a network with input=frames"):
        train.run(train.parser().parse_args(words))
    write_scenes(place, train=2, valid=2)
    manifest = DetectionTask().open_data("set.data")
    with pytest.raises(
        InputError, match=r"the network takes frames \(input=frames in \[net\]\), these are still images"
    ):
        DetectionTask().dataset(manifest, manifest.train, (64, 64), frames=FrameRule(4))
