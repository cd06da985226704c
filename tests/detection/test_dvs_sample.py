"""The embedded set of events: whole, the same each time, its boxes round what moves, its lists apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipeline.images import frame_rule
from utils.darknet.cfg import read_cfg
from utils.data.dvs import EventCamera
from utils.data.prophesee import boxes_path, read_boxes
from utils.data.recordings import open_recording
from utils.detection.dvs_sample import (
    DVS_SAMPLE,
    FINE,
    DvsRecipe,
    MovingDigit,
    _backdrop,
    dvs_scenes,
    picture_at,
    prepare_dvs,
)
from utils.detection.open_data import read_manifest
from utils.detection.recordings import EventBoxDataset
from utils.detection.sample import ROOT, Recipe, materials

WHEELS = ROOT / ".wheels"
SMALL = DvsRecipe(train=4, valid=2)
QUIET = replace(SMALL, drift=0.0, camera=EventCamera(noise=0))


@pytest.fixture(scope="module")
def material():
    return materials(Recipe(size=SMALL.size), WHEELS)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return prepare_dvs(tmp_path_factory.mktemp("dvs"), SMALL, WHEELS).parent


def test_it_is_composed_once_and_the_same_each_time(root, tmp_path):
    again = prepare_dvs(tmp_path, SMALL, WHEELS).parent
    files = sorted(path.relative_to(root) for path in (root / "dvs-digits").rglob("*") if path.is_file())
    assert len(files) == 2 * 6 + 1
    assert all((root / path).read_bytes() == (again / path).read_bytes() for path in files)
    before = (root / "dvs-digits/stamp.json").stat().st_mtime_ns
    prepare_dvs(root, SMALL, WHEELS)
    assert (root / "dvs-digits/stamp.json").stat().st_mtime_ns == before


def test_the_shipped_network_is_shown_it_as_it_is_made(root):
    manifest = read_manifest(root / DVS_SAMPLE.name)
    spec = read_cfg(ROOT.parent / "cfg/dvs-digits-lif.cfg")
    rule = frame_rule(spec)
    assert rule and rule.window == SMALL.bins * SMALL.duration and rule.steps == SMALL.bins
    dataset = EventBoxDataset(manifest.train, manifest, (spec.height, spec.width), frames=rule)
    assert len(dataset) == SMALL.train
    for n in range(len(dataset)):
        frames = dataset[n].frames.numpy()
        assert frames.shape == (5, 2, 96, 96) and len({frame.tobytes() for frame in frames}) == 5


def test_at_the_end_of_every_bin_there_are_boxes_inside_the_picture(root):
    for path in sorted((root / "dvs-digits").rglob("*_td.dat")):
        rows = read_boxes(boxes_path(path))
        assert sorted(set(rows["t"].tolist())) == [20_000, 40_000, 60_000, 80_000, 100_000]
        assert (rows["x"] >= 0).all() and (rows["x"] + rows["w"] <= 96).all() and (rows["y"] + rows["h"] <= 96).all()
        assert open_recording(path).size == (96, 96) and open_recording(path).end <= 100_000


def test_without_noise_and_drift_every_event_is_of_a_digit_on_its_way(material):
    for scene in dvs_scenes(material["train"], 6, QUIET, 0):
        for n in range(QUIET.bins):
            part = scene.events.between(n * QUIET.duration, (n + 1) * QUIET.duration)
            ends = scene.boxes[(scene.boxes["t"] == (n + 1) * QUIET.duration)]
            starts = scene.boxes[(scene.boxes["t"] == n * QUIET.duration)]
            inside = np.zeros(len(part), bool)
            for box in ends:
                before = starts[starts["track_id"] == box["track_id"]]
                far = 12 if not len(before) else 0  # px: of the first bin's beginning there is no box
                low = [min(box[a], *(before[a].tolist() or [box[a]])) - far - 1 for a in ("x", "y")]
                high = [
                    max(box[a] + box[b], *((before[a] + before[b]).tolist() or [box[a] + box[b]])) + far + 1
                    for a, b in (("x", "w"), ("y", "h"))
                ]
                inside |= (part.x >= low[0]) & (part.x < high[0]) & (part.y >= low[1]) & (part.y < high[1])
            assert len(part) > 20 and inside.all()


def test_a_box_is_round_the_ink_to_the_sixteenth_of_a_px():
    ink = np.full((30, 20), 255, np.uint8)
    mover = MovingDigit(3, ink, 0, np.array([100, 205]), np.array([100 + 50 * FINE, 205 - 7 * FINE]))
    ground = np.full((104, 104), 200, np.uint8)
    whole = SMALL.bins * SMALL.duration
    for now in range(0, whole + 1, 10_000):
        shown = picture_at(now, ground, np.zeros(2, np.int64), [mover], SMALL)
        covered = (200 - shown.astype(float)) / 200
        x, y, w, h = mover.box(now, whole)
        assert (w, h) == (20, 30)
        assert covered.sum(0) @ (np.arange(96) + 0.5) / covered.sum() == pytest.approx(x + w / 2, abs=0.05)
        assert covered.sum(1) @ (np.arange(96) + 0.5) / covered.sum() == pytest.approx(y + h / 2, abs=0.05)
        rows, columns = np.nonzero(covered)
        assert (columns.min(), columns.max(), rows.min(), rows.max()) == (
            int(x),
            int(np.ceil(x + w)) - 1,
            int(y),
            int(np.ceil(y + h)) - 1,
        )


def test_no_digit_and_no_photograph_is_in_both_lists(material):
    used = {
        split: [(scene.photograph, scene.digits) for scene in dvs_scenes(material[split], 12, SMALL, stream)]
        for stream, split in enumerate(("train", "valid"))
    }
    train, valid = ([{name for name, _ in rows}, {one for _, ones in rows for one in ones}] for rows in used.values())
    assert not train[0] & valid[0] and not train[1] & valid[1] and all((*train, *valid))


def test_a_digit_that_is_wider_than_the_picture_is_left_out(material):
    wide = replace(material["train"], digits=[[(0, np.full((10, 40), 255, np.uint8))]] * 10)
    scenes = [*dvs_scenes(wide, 2, replace(SMALL, height=(56, 56)), 0)]
    assert [len(scene.boxes) for scene in scenes] == [0, 0]


def test_a_backdrop_is_a_square_of_its_photograph(material):
    rng = np.random.default_rng(0)
    for pyramid in material["valid"].photographs.values():
        assert _backdrop(rng, pyramid, 104).shape == (104, 104)
