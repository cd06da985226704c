"""Sets that a person fetches by hand: get.py writes their lists once they are unpacked."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from data import get
from tests.conftest import ROOT
from tests.detection.test_voc import annotation
from utils.data.manifest import read_list
from utils.detection.labels import read_labels
from utils.detection.open_data import read_manifest


def picture(path: Path, shape: tuple[int, int] = (60, 100)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((*shape, 3), 90, np.uint8))


def plant_visdrone(place: Path) -> None:
    for split in ("train", "val"):
        folder = place / f"VisDrone2019-DET-{split}"
        picture(folder / f"images/{split}_1.jpg")
        (folder / "annotations").mkdir()
        rows = "20,12,50,30,1,4,0,0\n0,0,99,9,0,0,0,0\n5,5,9,9,1,11,0,1,\n"
        (folder / f"annotations/{split}_1.txt").write_text(rows)


def plant_bdd100k(place: Path) -> None:
    for split in ("train", "val"):
        picture(place / f"images/100k/{split}/{split}_1.jpg")
        box = {"category": "car", "box2d": {"x1": 20, "y1": 12, "x2": 70, "y2": 42}}
        frames = [{"name": f"{split}_1.jpg", "labels": [box, {"category": "lane", "poly2d": []}]}]
        (place / "labels").mkdir(exist_ok=True)
        (place / f"labels/bdd100k_labels_images_{split}.json").write_text(json.dumps(frames))


def plant_dior(place: Path) -> None:
    for split, folder in (("train", "trainval"), ("val", "trainval"), ("test", "test")):
        picture(place / f"JPEGImages-{folder}/{split}_1.jpg")
        for path, text in {
            f"Annotations/Horizontal Bounding Boxes/{split}_1.xml": annotation(
                f"{split}_1.jpg", [("ship", 20, 12, 70, 42)]
            ),
            f"ImageSets/Main/{split}.txt": f"{split}_1\n",
        }.items():
            (place / path).parent.mkdir(parents=True, exist_ok=True)
            (place / path).write_text(text)


@pytest.mark.parametrize(
    ("name", "plant", "label"),
    [("visdrone", plant_visdrone, "car"), ("bdd100k", plant_bdd100k, "car"), ("dior", plant_dior, "ship")],
)
def test_set_that_was_fetched_by_hand_gets_its_lists(name, plant, label, tmp_path, monkeypatch, capsys):
    for kind in ("data", "names"):
        shutil.copy(ROOT / f"data/{name}.{kind}", tmp_path)
    monkeypatch.setattr(get, "DATA", tmp_path)
    assert get.main([name, "--dir", str(tmp_path / "disk")]) == 2
    assert f"unpack it so that {tmp_path / 'disk'} holds" in capsys.readouterr().err
    plant(tmp_path / "disk")
    assert get.main([name, "--dir", str(tmp_path / "disk")]) == 0
    manifest = read_manifest(tmp_path / f"{name}.data")
    images = [*read_list(manifest.train), *read_list(manifest.valid)]
    assert len(images) == (3 if name == "dior" else 2) and all(path.is_file() for path in images)
    for image in images:
        rows = read_labels(manifest.labels / f"{image.stem}.txt", manifest.classes)
        np.testing.assert_allclose(rows, [[manifest.names.index(label), 0.45, 0.45, 0.5, 0.5]], atol=1e-6)
