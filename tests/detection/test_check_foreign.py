"""``python3 -m utils.data check FOLDER`` finds what other programs left, and names the files."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.detection.test_foreign_labels import turned_image
from tests.detection.test_splits import doubled
from tests.detection.test_voc import annotation, voc
from utils.data.__main__ import main

__all__ = ["voc"]


def looked_at(place: Path, capsys, code: int = 0) -> str:
    assert main(["check", str(place)]) == code
    return capsys.readouterr().out


@pytest.fixture
def here(tmp_path, monkeypatch, voc) -> Path:
    """A VOC set, each picture of its own noise, in a folder from which the commands are run."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for path in (voc / "JPEGImages").iterdir():
        cv2.imwrite(str(path), rng.integers(0, 255, (60, 100, 3), dtype=np.uint8))
    return voc


def test_what_a_conversion_found_is_told_again_and_again(here, capsys):
    (here / "Annotations/1.xml").write_text(annotation("0.jpg", [("dog", 20, 12, 70, 42)]))
    (here / "Annotations/2.xml").write_text(annotation("2.jpg", [("dog", 0.2, 0.2, 0.7, 0.7)]))
    (here / "Annotations/3.xml").write_text(annotation("3.jpg", [("dog", 30, 20, 30, 20), ("cat", 0, 0, 50, 30)]))
    (here / "Annotations/4.xml").write_text(annotation("4.jpg", [("dog", 20, 12, 70, 42)], (999, 60)))
    turned_image(here / "JPEGImages/5.jpg", 6)
    turned_image(here / "JPEGImages/6.jpg", 3)
    for _ in range(2):
        lines = [line for line in looked_at(here, capsys).splitlines() if line.startswith("warning: ")]
        for text in (
            "1.xml: names the image 0.jpg, and is taken as of 1.jpg",
            "2.xml: its boxes are in 0..1, taken as shares",
            "3.xml: a box without area (30 20 30 20)",
            "4.xml: says 999 x 60 px, the image has 100 x 60",
            "5.xml: EXIF turns 5.jpg (orientation 6); its boxes are turned with it",
            "6.xml: EXIF turns 6.jpg (orientation 3) and no size says",
        ):
            assert sum(text in line for line in lines) == 1, (text, lines)


def test_every_annotation_that_is_none_is_named_in_one_line(here, capsys):
    for i in (2, 5, 8):
        (here / f"Annotations/{i}.xml").write_text("<annotations><image/></annotations>")
    assert main(["check", str(here)]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "is another tool's xml" in message and "(of 3 such: " in message
    assert all(f"{i}.xml" in message for i in (2, 5, 8))


@pytest.mark.parametrize(("first", "second"), [("a/1.jpg", "b/1.jpg"), ("images/1.jpg", "images/1.png")])
def test_images_that_share_a_label_file_are_an_error_with_their_names(tmp_path, monkeypatch, capsys, first, second):
    monkeypatch.chdir(tmp_path)
    manifest = doubled(tmp_path, first, second)
    errors = [line for line in looked_at(manifest.path, capsys, 2).splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "labels/1.txt: the label file of 2 images" in errors[0]
    assert first in errors[0] and second in errors[0]


def test_images_in_both_lists_are_counted(here, capsys):
    (here / "train.txt").write_text("0\n1\n2\n3\n4\n")
    (here / "val.txt").write_text("4\n5\n6\n7\n")
    (here / "JPEGImages/6.jpg").write_bytes((here / "JPEGImages/2.jpg").read_bytes())
    out = looked_at(here, capsys)
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in out.splitlines() if line.startswith("|")]
    assert ["images in the other list too", "2", "2"] in cells
    assert out.count("train and valid share an image") == 2 and "JPEGImages/6.jpg" in out
    record = json.loads(Path("runs/check-set/record.json").read_text())
    assert record["metrics"]["splits"]["valid"]["images in the other list too"] == 2


def test_turned_photographs_of_label_files_are_named(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / "mine" / kind / split).mkdir(parents=True)
        for i in range(3):
            cv2.imwrite(
                str(tmp_path / f"mine/images/{split}/{i}.jpg"), rng.integers(0, 255, (60, 100, 3), dtype=np.uint8)
            )
            (tmp_path / f"mine/labels/{split}/{i}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "mine/set.names").write_text("cat\n")
    turned_image(tmp_path / "mine/images/train/1.jpg", 8)
    warnings = [line for line in looked_at(Path("mine"), capsys).splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1 and "train/1.jpg: EXIF turns it (orientation 8)" in warnings[0]
