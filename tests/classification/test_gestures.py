"""Recordings with classes as their makers publish them: DVS-Gesture, CIFAR10-DVS; and a look at such sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.data.test_event_files import as_aedat2, as_aedat3
from tests.data.test_events import events, same
from utils.classification.open_data import is_of_classes, open_data
from utils.classification.recordings import EventDataset, clips_of
from utils.data.__main__ import main
from utils.data.event_frames import FrameRule
from utils.data.events import Events
from utils.data.recordings import read_events
from utils.errors import InputError

TABLE = "class,startTime_usec,endTime_usec\n1,1000000,3000000\n3,4000000,5000000\n11,6000000,8000000\n"


@pytest.fixture
def gesture(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    place = tmp_path / "DvsGesture"
    place.mkdir()
    for n, user in enumerate(("user01_led", "user02_lab", "user24_led")):
        (place / f"{user}.aedat").write_bytes(as_aedat3(events(seed=n)))
        (place / f"{user}_labels.csv").write_text(TABLE)
    (place / "trials_to_train.txt").write_text("user01_led.aedat\nuser02_lab.aedat\n")
    (place / "trials_to_test.txt").write_text("user24_led.aedat\n")
    return place


def test_dvs_gesture_is_a_set_as_it_is_unpacked(gesture):
    manifest = open_data(gesture)
    assert is_of_classes(gesture) and manifest.classes == 11 and manifest.names[7] == "forearm roll"
    assert manifest.flip == 0, "a mirrored gesture is another one"
    clips, labels = clips_of(manifest.train, manifest)
    assert labels == [0, 2, 10] * 2 and [clip.path.name for clip in clips[::3]] == [
        "user01_led.aedat",
        "user02_lab.aedat",
    ]
    for clip, begin, end in zip(
        clips[:3], (1_000_000, 4_000_000, 6_000_000), (3_000_000, 5_000_000, 8_000_000), strict=True
    ):
        whole = read_events(clip.path)
        assert same(clip.events(), whole[(whole.t >= begin) & (whole.t < end)])
    dataset = EventDataset(manifest.valid, manifest, (128, 128), frames=FrameRule(4, "time"))
    assert [dataset[n].label for n in range(3)] == [0, 2, 10]
    assert dataset[0].frames.shape == (4, 2, 128, 128)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (TABLE.replace("3,4000000,5000000", "12,4000000,5000000"), r"_labels\.csv:3: class 12 from 4000000 to 5000000"),
        (TABLE.replace("3,4000000,5000000", "3,5000000,4000000"), "class 3 from 5000000 to 4000000 us is no gesture"),
        (TABLE.replace("4000000", "four"), r"_labels\.csv:3: not class, startTime_usec, endTime_usec"),
        (TABLE.replace("startTime_usec", "start"), r"_labels\.csv:2: not class, startTime_usec"),
        (None, "no such file"),
    ],
)
def test_a_damaged_table_of_gestures_is_refused_by_its_line(gesture, table, message):
    path = gesture / "user02_lab_labels.csv"
    path.unlink() if table is None else path.write_text(table)
    manifest = open_data(gesture)
    with pytest.raises(InputError, match=message):
        clips_of(manifest.train, manifest)


@pytest.fixture
def cifar(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for c, label in enumerate(("airplane", "cat")):
        folder = tmp_path / "CIFAR10DVS" / label
        folder.mkdir(parents=True)
        for n in range(10):
            (folder / f"cifar10_{label}_{n}.aedat").write_bytes(as_aedat2(events(60, 10 * c + n)))
    return tmp_path / "CIFAR10DVS"


def test_cifar10_dvs_is_a_folder_a_class_of_which_a_seeded_share_validates(cifar):
    manifest = open_data(cifar)
    assert is_of_classes(cifar) and manifest.names == ("airplane", "cat") and manifest.flip == 0
    parts = [clips_of(place, manifest) for place in (manifest.train, manifest.valid)]
    paths = [{clip.path for clip in clips} for clips, _ in parts]
    assert not paths[0] & paths[1] and len(paths[0] | paths[1]) == 20 and 1 <= len(paths[1]) <= 9
    for clips, labels in parts:
        assert [manifest.names[label] for label in labels] == [clip.path.parent.name for clip in clips]
    assert open_data(cifar).train == manifest.train


def test_check_looks_at_recordings_of_classes(cifar, capsys):
    assert main(["check", "CIFAR10DVS"]) == 0
    said = capsys.readouterr().out
    assert "1,200" not in said and "128x128" in said and "0 errors" in said
    assert (cifar.parent / "runs/check-CIFAR10DVS/samples.jpg").is_file()
    first = next(iter(sorted((cifar / "cat").iterdir())))
    first.write_bytes(first.read_bytes()[:-3])
    second = sorted((cifar / "airplane").iterdir())
    second[1].write_bytes(second[0].read_bytes())
    assert main(["check", "CIFAR10DVS"]) == 2
    said = capsys.readouterr().out
    assert "cifar10_cat_0.aedat: ends inside an event" in said
    assert "cifar10_airplane_0.aedat" in said and "the same bytes" in said


def test_check_looks_at_gestures(gesture, capsys):
    assert main(["check", "DvsGesture"]) == 0
    said = capsys.readouterr().out
    assert "forearm roll): no recording in train nor valid" in said
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in said.splitlines()]
    assert ["left hand wave", "2", "1"] in rows and ["guitar", "0", "0"] in rows


def test_an_empty_recording_is_a_warning_and_frames_without_events(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    nothing = Events(*(np.zeros(0, np.int64) for _ in range(4)))
    for split in ("train", "test"):
        for label in ("a", "b"):
            (tmp_path / "s" / split / label).mkdir(parents=True)
            (tmp_path / "s" / split / label / f"{split}0.aedat").write_bytes(as_aedat2(events(50, len(split + label))))
    (tmp_path / "s/train/a/empty.aedat").write_bytes(as_aedat2(nothing))
    manifest = open_data(tmp_path / "s")
    for bins in ("number", "time"):
        dataset = EventDataset(manifest.train, manifest, (128, 128), frames=FrameRule(3, bins))
        assert sorted(int(dataset[n].frames.sum()) == 0 for n in range(3)) == [False, False, True]
    assert main(["check", "s"]) == 0
