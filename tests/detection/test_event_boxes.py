"""Boxes in recordings of events: Prophesee's folders and their protocol, samples, and scripts from end to end."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import detect as detecting
import test as measuring
import train
from models import load_model
from pipeline.detect import open_detector
from tests.scenes import undrawn_runs, write_scenes
from utils.config.measure import DetectConfig
from utils.data.event_clips import Clip, ClipFrames
from utils.data.event_frames import FrameRule
from utils.data.event_sources import load_recordings
from utils.data.events import Events
from utils.data.loader import make_loader
from utils.data.manifest import read_list
from utils.data.prophesee import BOX, boxes_path, write_boxes, write_dat
from utils.data.recordings import read_events
from utils.data.sources import load_images
from utils.detection.boxes import cxcywh_to_xyxy
from utils.detection.evaluate import _large_enough
from utils.detection.open_data import open_data
from utils.detection.recordings import EventBoxDataset, counts_as, labelled
from utils.detection.task import DetectionTask
from utils.errors import InputError

GEN1 = (240, 304)  # px
RULE = FrameRule(4, "time", window=200_000)
SIZE = (256, 320)
CFG = """\
[net]
batch=4
width=64
height=64
channels=2
timesteps=4
input=frames
event_bins=time
event_window=40000
[convolutional]
batch_normalize=1
filters=8
size=3
stride=4
pad=1
activation=lif
[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=lif
[convolutional]
filters=7
size=1
activation=linear
[yolo]
mask=0
anchors=16,16
classes=2
num=1
"""


def recording(path: Path, boxes, size=GEN1, until=1_000_000, seed=0) -> None:
    """Events all over a sensor, and boxes (t, x, y, w, h, class)."""
    rng = np.random.default_rng(seed)
    n = 4000
    t = np.sort(rng.integers(0, until, n))
    write_dat(path, Events(t, rng.integers(0, size[1], n), rng.integers(0, size[0], n), rng.integers(0, 2, n)), size)
    write_boxes(boxes_path(path), np.array([(*box, 1, 0) for box in boxes], BOX))


BOXES = [
    (400_000, 10, 10, 60, 60, 0),  # in the first half second
    (500_000, 10, 10, 60, 60, 0),  # at its end
    (600_000, 10, 10, 60, 60, 0),
    (600_000, 100, 50, 20, 22, 1),  # a diagonal of 29.7 px
    (600_000, 100, 50, 20, 23, 1),  # of 30.5
    (700_000, 5, 5, 9, 40, 1),  # a side below 10
    (800_000, -20, 200, 60, 80, 1),  # over the edge
    (900_000, 320, 10, 40, 40, 0),  # outside
]


@pytest.fixture
def gen1(tmp_path) -> Path:
    for split in ("train", "val", "test"):
        (tmp_path / "gen1" / split).mkdir(parents=True)
        for n in range(2):
            recording(tmp_path / "gen1" / split / f"17-04-{n}_td.dat", BOXES, seed=n)
    return tmp_path / "gen1"


def test_a_folder_as_it_is_published_is_a_set_with_its_classes_and_its_protocol(gen1):
    manifest = open_data(gen1)
    assert manifest.names == ("car", "pedestrian")
    assert manifest.train == gen1 / "train" and manifest.valid == gen1 / "val"
    assert (manifest.diagonal, manifest.side, manifest.skip) == (30, 10, 500_000)


def test_the_protocol_leaves_out_what_is_small_or_early_and_cuts_what_hangs_over(gen1):
    found = labelled(gen1 / "val/17-04-0_td.dat", open_data(gen1), 200_000)
    assert [clip.end for clip in found.clips] == [600_000, 800_000]
    assert [clip.end - clip.begin for clip in found.clips] == [200_000] * 2
    assert found.boxes[0].tolist() == [[0, 10, 10, 70, 70], [1, 100, 50, 120, 73]]
    assert found.boxes[1].tolist() == [[1, 0, 200, 40, 240]]
    assert (found.early, found.small) == (2, 2)


def test_a_found_box_that_is_too_small_does_not_count_either(gen1):
    dataset = EventBoxDataset(open_data(gen1).valid, open_data(gen1), SIZE, frames=RULE)
    batch = next(iter(make_loader(dataset, 2, workers=0)))
    assert batch.least == (30, 10)
    boxes = torch.tensor([[0.0, 0, 20, 22, 1, 0], [0, 0, 20, 23, 1, 0], [0, 0, 9, 60, 1, 0]])
    assert _large_enough(boxes, None, *batch.least).tolist() == [False, True, False]
    halved = dataset.letterbox(0).__class__(GEN1, (120, 152), (0, 0), (128, 160))
    assert _large_enough(boxes / 2, halved, *batch.least).tolist() == [False, True, False]


def test_limits_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    w, h = rng.uniform(0, 60, (2, 200)).astype(np.float32)
    expected = [(a * a + b * b) ** 0.5 >= 30 and min(a, b) >= 10 for a, b in zip(w.tolist(), h.tolist(), strict=True)]
    assert counts_as(w, h, 30, 10).tolist() == expected and 0 < sum(expected) < 200


def test_a_sample_is_the_window_before_its_boxes_in_bins_of_its_own(gen1):
    dataset = EventBoxDataset(open_data(gen1).valid, open_data(gen1), SIZE, frames=RULE)
    assert len(dataset) == 4
    sample = dataset[1]
    assert sample.frames.shape == (4, 2, *SIZE) and len({frame.numpy().tobytes() for frame in sample.frames}) == 4
    events = read_events(gen1 / "val/17-04-0_td.dat").between(600_000, 800_000)
    for n in range(4):
        part = events.between(600_000 + 50_000 * n, 650_000 + 50_000 * n)
        expected = np.zeros((2, *SIZE), bool)
        expected[1 - part.p, part.y, part.x] = True
        assert np.array_equal(sample.frames[n].numpy() > 0, expected)
    corners = cxcywh_to_xyxy(sample.boxes[:, 1:]) * torch.tensor([320.0, 256, 320, 256])
    torch.testing.assert_close(corners, torch.tensor([[0.0, 200, 40, 240]]))


def test_a_changed_sample_has_its_boxes_where_its_events_are(tmp_path):
    (tmp_path / "t").mkdir()
    inside = [(100_000, 20, 30, 25, 15, 1)]
    recording(tmp_path / "t/0_td.dat", inside, (64, 64))
    rng = np.random.default_rng(0)
    t = np.sort(rng.integers(0, 100_000, 3000))
    x, y = rng.integers(20, 45, 3000), rng.integers(30, 45, 3000)
    write_dat(tmp_path / "t/0_td.dat", Events(t, x, y, rng.integers(0, 2, 3000)), (64, 64))
    (tmp_path / "x.names").write_text("a\nb\n")
    (tmp_path / "x.data").write_text("classes=2\ntrain=t\nvalid=t\nnames=x.names\nflip=0.5\n")
    manifest = open_data(tmp_path / "x.data")
    rule = FrameRule(3, "time", window=100_000, shift=0.2)
    dataset = EventBoxDataset(manifest.train, manifest, (64, 64), frames=rule, augment=True, seed=1)
    places = set()
    for epoch in range(20):
        dataset.set_epoch(epoch)
        sample = dataset[0]
        _, rows, columns = np.nonzero(sample.frames.numpy().max(0))
        x1, y1, x2, y2 = (cxcywh_to_xyxy(sample.boxes[:, 1:]) * 64)[0].tolist()
        assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == pytest.approx((x1, y1, x2, y2))
        places.add((x1, y1))
    assert len(places) > 15


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda place: boxes_path(place / "train/17-04-0_td.dat").unlink(), r"17-04-0_bbox\.npy: no such file"),
        (lambda place: recording(place / "train/17-04-0_td.dat", [(6e5, 1, 1, 50, 50, 2)]), r"class 2 of 2 \(0 to 1\)"),
        (lambda place: (place / "train/17-04-1_td.dat").write_bytes(b"% x"), "its header has no end"),
    ],
)
def test_what_is_wrong_with_a_recording_is_told_by_its_name(gen1, change, message):
    manifest = open_data(gen1)
    change(gen1)
    with pytest.raises(InputError, match=message):
        EventBoxDataset(manifest.train, manifest, SIZE, frames=RULE)


def test_a_set_in_which_no_box_counts_is_refused_with_the_numbers(gen1):
    manifest = open_data(gen1)
    with pytest.raises(InputError, match="no box counts, of 16 early and 0 small ones; check event_window="):
        EventBoxDataset(manifest.train, manifest, SIZE, frames=FrameRule(4, window=2_000_000))


def test_a_set_of_recordings_and_pictures_is_told_what_it_holds(gen1, tmp_path, caplog):
    picture = np.zeros((8, 8, 3), np.uint8)
    for split in ("train", "val"):
        for n in range(3):
            cv2.imwrite(str(gen1 / split / f"{n}.png"), picture)
    both = r"train: holds 2 recordings of events \(17-04-0_td\.dat\) and 3 images \(0\.png\); a set is of one kind"
    with pytest.raises(InputError, match=both):
        open_data(gen1)
    (tmp_path / "l.txt").write_text("gen1/train/0.png\ngen1/train/17-04-0_td.dat\n")
    (tmp_path / "v.txt").write_text("gen1/val/0.png\n")
    (tmp_path / "r.txt").write_text("gen1/val/17-04-0_td.dat\n")
    (tmp_path / "x.names").write_text("a\nb\n")
    for lists, message in (
        (("l", "v"), "holds 1 recordings of events"),
        (("r", "v"), "recordings of events to train on, im"),
    ):
        (tmp_path / "x.data").write_text("classes=2\nnames=x.names\ntrain={}.txt\nvalid={}.txt\n".format(*lists))
        with pytest.raises(InputError, match=message):
            open_data(tmp_path / "x.data")
    loose = tmp_path / "loose"
    loose.mkdir()
    recording(loose / "0.dat", [], (8, 8))
    with pytest.raises(InputError, match=r"holds 1 recordings of events \(0\.dat\), without boxes"):
        boxes_path(loose / "0.dat").unlink()
        open_data(loose)


def test_few_recordings_among_pictures_are_no_part_of_a_set_and_that_is_told(tmp_path, caplog):
    for n in range(11):
        cv2.imwrite(str(tmp_path / f"{n}.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "weights.bin").write_bytes(b"12345")
    assert len(read_list(tmp_path)) == 11
    assert "holds 1 recordings of events (weights.bin) and 11 images; the images alone are taken" in caplog.text


def test_folders_that_are_not_whole_are_refused(gen1, tmp_path):
    (tmp_path / "half/train").mkdir(parents=True)
    recording(tmp_path / "half/train/0_td.dat", BOXES)
    with pytest.raises(
        InputError, match=r"recordings with boxes in train alone; train/ and val/ \(or test/\) are needed"
    ):
        open_data(tmp_path / "half")
    for split in ("train", "val"):
        recording(gen1 / split / "17-04-0_td.dat", BOXES, (100, 100))
    with pytest.raises(InputError, match=r"recordings of 100x100 px, whose classes are not known; put a \.names file"):
        open_data(gen1)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": None}, "recordings of events need a network with input=frames"),
        ({"channels": 3}, r"and channels=2 in \[net\]"),
        ({"frames": FrameRule(2, frame="voxel"), "channels": 2}, r"and channels=1 in \[net\]"),
        ({"grey": True}, "--gray-scale: .* holds recordings of events, which have no colours"),
    ],
)
def test_a_network_or_flag_for_images_is_refused(gen1, options, message):
    manifest = open_data(gen1)
    with pytest.raises(InputError, match=message):
        DetectionTask().dataset(manifest, manifest.train, SIZE, **{"frames": RULE, "channels": 2, **options})
    with pytest.raises(InputError, match="--mosaic: four recordings side by side"):
        DetectionTask().augmentation(manifest, 1.0)


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    undrawn_runs(monkeypatch)
    for split, count in (("train", 6), ("val", 2)):
        (tmp_path / "set" / split).mkdir(parents=True)
        for n in range(count):
            recording(tmp_path / "set" / split / f"{n}_td.dat", [(80_000, 10, 12, 30, 30, n % 2)], (60, 64), 100_000, n)
    (tmp_path / "set/set.names").write_text("a\nb\n")
    (tmp_path / "net.cfg").write_text(CFG)
    return tmp_path


def test_a_spiking_detector_learns_recordings_is_measured_and_looks_at_them(place):
    words = ["--data", "set", "--device", "cpu", "--workers", "0"]
    record = train.run(train.parser().parse_args([*words, "--cfg", "net.cfg", "--epochs", "2", "--adam", "--notest"]))
    found = measuring.run(measuring.parser().parse_args([*words, "--weights", "weights/last.pt"]))
    assert found.metrics["map50"] == record.metrics["map50"] and found.metrics["spikes"] > 0
    look = ["--weights", "weights/last.pt", "--device", "cpu", "--conf-thres", "0", "--save-txt"]
    shown = detecting.run(detecting.parser().parse_args([*look, "--source", "set/val"]))
    assert shown.metrics["images"] == 4, "two windows of 40 ms each"
    films = sorted(shown.paths("*.mp4"))
    assert [path.name for path in films] == ["0_td.mp4", "1_td.mp4"]
    capture = cv2.VideoCapture(str(films[0]))
    assert capture.get(cv2.CAP_PROP_FRAME_COUNT) == 2 and capture.get(cv2.CAP_PROP_FPS) == pytest.approx(25)


def test_looking_at_a_recording_is_what_measuring_it_is(place):
    words = ["--data", "set", "--device", "cpu", "--workers", "0"]
    train.run(train.parser().parse_args([*words, "--cfg", "net.cfg", "--epochs", "1", "--adam", "--notest"]))
    detector = open_detector(
        DetectConfig(weights="weights/last.pt", device="cpu", conf_thres=0.0), load_model(Path("weights/last.pt"), None)
    )
    manifest = open_data("set")
    rule = FrameRule(4, "time", window=40_000)
    dataset = EventBoxDataset(manifest.valid, manifest, (64, 64), frames=rule)
    frames = [*load_recordings("set/val", rule, (64, 64))]
    assert np.array_equal(frames[1].steps, dataset[0].frames.numpy()), (
        "its second window ends at the moment of the boxes"
    )
    assert frames[1].image.shape == (60, 64, 3)
    task, batch = DetectionTask(), dataset.collate([dataset[0]])
    with torch.inference_mode():
        raw = detector.loaded.predictor(task.inputs(batch, torch.device("cpu")))
    expected = task.postprocess(raw, detector.loaded.spec, batch.letterboxes, detector.thresholds)[0]
    assert torch.equal(detector.look(frames[1]).boxes, expected.boxes) and len(expected.boxes)


def test_windows_begin_with_the_first_event_and_not_with_the_cameras_clock(tmp_path):
    t = np.arange(50) * 1000 + 3_600_000_000  # an hour after it was switched on
    write_dat(tmp_path / "0_td.dat", Events(t, t % 60, t % 50, t % 2), (64, 64))
    rule = FrameRule(2, "time", window=10_000)
    frames = [*load_recordings(tmp_path / "0_td.dat", rule, (64, 64))]
    assert len(frames) == 4 and all(frame.steps.any() for frame in frames)
    assert [frame.number for frame in frames] == [0, 1, 2, 3]


@pytest.mark.parametrize("bins", ["time", "number"])
def test_a_recording_shorter_than_the_window_looks_as_it_is_trained_on(tmp_path, bins):
    recording(tmp_path / "0_td.dat", [], (64, 64), until=60_000)
    rule = FrameRule(4, bins, window=100_000)
    (frame,) = load_recordings(tmp_path / "0_td.dat", rule, (64, 64))
    trained = ClipFrames([Clip(tmp_path / "0_td.dat")], (64, 64), rule).shown(0)[1]
    assert np.array_equal(frame.steps, trained)


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.dat", "no such recording"),
        ("net.cfg", r"the network takes recordings of events \(input=frames in \[net\]\); known are"),
        ("set/*.h5", "no recording of events there"),
    ],
)
def test_a_source_that_holds_no_recording_is_refused(source, message):
    with pytest.raises(InputError, match=message):
        load_recordings(source, RULE, (64, 64))


def test_a_recording_is_refused_where_images_are_looked_at(place):
    with pytest.raises(InputError, match="a recording of events, and the network takes images"):
        load_images(place / "set/val/0_td.dat")


def test_check_tells_what_counts_and_what_is_wrong(gen1, monkeypatch, capsys):
    from utils.data.__main__ import main

    monkeypatch.chdir(gen1.parent)
    assert main(["check", "gen1"]) == 0
    said = capsys.readouterr().out
    rows = {
        line.split("|")[1].strip(): [each.strip() for each in line.split("|")[2:4]]
        for line in said.splitlines()
        if "|" in line
    }
    assert rows["recordings"] == ["2", "2"] and rows["boxes"] == ["16", "16"] and rows["sensor, px"] == ["304x240"] * 2
    assert rows["moments with boxes that count"] == ["4", "4"] and rows["boxes that are too early"] == ["4", "4"]
    assert rows["boxes that are too small"] == ["4", "4"] and rows["pedestrian"] == ["4", "4"]
    assert "boxes count from a diagonal of 30 px and a side of 10 px on, after the first 0.5 s" in said
    assert "17-04-0_bbox.npy: 1 boxes are outside of the sensor" in said
    assert "train and valid share an image (the same bytes)" in said
    assert (gen1.parent / "runs/check-gen1/samples.jpg").is_file()
    (gen1 / "val/17-04-1_td.dat").write_bytes(b"% no end")
    recording(gen1 / "val/17-04-0_td.dat", BOXES, (100, 100))
    header = (gen1 / "train/17-04-1_td.dat").read_bytes().split(b"\x0c\x08")[0]
    content = (gen1 / "val/17-04-0_td.dat").read_bytes().split(b"\x0c\x08", 1)[1]
    (gen1 / "train/17-04-1_td.dat").write_bytes(header.replace(b"240", b"50") + b"\x0c\x08" + content)
    assert main(["check", "gen1"]) == 2
    said = capsys.readouterr().out
    assert "17-04-1_td.dat: its header has no end" in said
    assert "outside of its sensor of 304x50 px" in said


def test_anchors_of_recordings_are_refused_by_name(gen1, tmp_path):
    from utils.detection.fit_anchors import refit

    (tmp_path / "net.cfg").write_text(CFG)
    with pytest.raises(InputError, match="recordings of events, and anchors are fitted to images' labels"):
        refit(gen1, tmp_path / "net.cfg", None, generations=1, seed=0)


@pytest.mark.parametrize(("key", "kind"), [("scale = 0.2", "images"), ("diagonal = 30", "recordings of events")])
def test_a_key_of_data_that_cannot_act_is_refused(gen1, tmp_path, key, kind):
    (tmp_path / "x.names").write_text("a\nb\n")
    if kind == "images":
        (tmp_path / "x.data").write_text(f"classes=2\ntrain=gen1/train\nvalid=gen1/val\nnames=x.names\n{key}\n")
    else:
        write_scenes(tmp_path, train=2, valid=2)
        with (tmp_path / "set.data").open("a") as file:
            file.write(f"{key}\n")
    with pytest.raises(InputError, match=rf"'{key.split()[0]} =' acts on {kind}, these are"):
        open_data(tmp_path / ("x.data" if kind == "images" else "set.data"))
