from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.data.conftest import write_set
from utils.data.__main__ import main
from utils.detection.dataset_stats import survey
from utils.detection.open_data import read_manifest

ROWS = {"train": 6, "valid": 3}


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    """Six images to train on and three to validate on, each of its own noise."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for split, count in ROWS.items():
        folder = tmp_path / "images" / split
        folder.mkdir(parents=True)
        (tmp_path / "labels" / split).mkdir(parents=True)
        for i in range(count):
            cv2.imwrite(str(folder / f"{i}.jpg"), rng.integers(0, 255, (60, 100, 3), dtype=np.uint8))
            (tmp_path / f"labels/{split}/{i}.txt").write_text(f"{i % 2} 0.45 0.45 0.5 0.5\n0 0.1 0.1 0.02 0.02\n")
        (tmp_path / f"{split}.txt").write_text("".join(f"images/{split}/{i}.jpg\n" for i in range(count)))
    (tmp_path / "set.names").write_text("cat\ndog\n")
    (tmp_path / "set.data").write_text("classes = 2\ntrain = train.txt\nvalid = valid.txt\nnames = set.names\n")
    return tmp_path


def check(capsys, code: int = 0) -> str:
    assert main(["check", "set.data"]) == code
    return capsys.readouterr().out


def test_clean_set_is_counted_and_drawn(place, capsys):
    message = check(capsys)
    assert "0 errors, 0 warnings; pictures and all of them in runs/check-set" in message
    record = json.loads((place / "runs/check-set/record.json").read_text())
    numbers = record["metrics"]["splits"]
    assert [numbers[s]["images"] for s in ROWS] == [6, 3] and [numbers[s]["boxes"] for s in ROWS] == [12, 6]
    assert numbers["train"]["boxes under 32x32 px"] == 6 and numbers["train"]["boxes from 32x32 px"] == 6
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in message.splitlines() if line.startswith("|")]
    assert ["cat", "9", "6", "5", "3"] in cells and ["dog", "3", "3", "1", "1"] in cells
    assert ["images, px (median)", "100x60", "100x60"] in cells
    for name in ("classes.png", "boxes.png", "samples.jpg"):
        picture = cv2.imread(str(place / "runs/check-set" / name))
        assert picture is not None and picture.std() > 5
    check(capsys)
    assert (place / "runs/check-set-2/record.json").is_file()  # nothing is overwritten


def spoil_labels(place: Path) -> None:
    (place / "labels/train/0.txt").write_text("2 0.5 0.5 0.1 0.1\n0 0.5 0.5 0.1 0.1\n0 0.5 1.5 0.1 0.1\nx 1 2\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (spoil_labels, ["0.txt:1: class 2 of 2", "0.txt:3: cy = 1.5 is outside 0..1", "0.txt:4: 'x 1 2' is not"]),
        (lambda place: (place / "images/valid/1.jpg").write_bytes(b"no"), ["valid/1.jpg: a corrupt image"]),
        (
            lambda place: (place / "images/train/0.jpg").write_bytes((place / "images/train/0.jpg").read_bytes()[:-9]),
            ["train/0.jpg: a corrupt image"],
        ),
        (lambda place: (place / "images/valid/1.jpg").unlink(), ["valid/1.jpg: no such image"]),
        (lambda place: shutil.rmtree(place / "labels/valid"), ["valid: none of 3 images has a label file"]),
        (
            lambda place: [path.write_text("") for path in (place / "labels/valid").iterdir()],
            ["valid: not one box in 3 images"],
        ),
    ],
)
def test_what_would_stop_a_training_is_an_error_and_all_of_it_is_told(place, capsys, damage, message):
    damage(place)
    out = check(capsys, code=2)
    for text in message:
        assert any(line.startswith("error: ") and text in line for line in out.splitlines()), text
        assert text in (place / "runs/check-set/problems.txt").read_text()
    assert f"{len(message)} errors" in out


def test_right_rows_of_a_wrong_file_are_counted(place):
    spoil_labels(place)
    found = survey(read_manifest(place / "set.data"))
    assert found.count("train")[0] == 9 - 2 + 1 and len(found.errors) == 3


def copy(place: Path) -> None:
    shutil.copy(place / "images/train/2.jpg", place / "images/valid/1.jpg")


def recode(place: Path) -> None:
    """The same pixels in another format."""
    image = cv2.imread(str(place / "images/train/2.jpg"))
    cv2.imwrite(str(place / "images/valid/1.png"), image)
    (place / "valid.txt").write_text("images/valid/0.jpg\nimages/valid/1.png\nimages/valid/2.jpg\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (copy, ["train and valid share an image (the same bytes): ", "train/2.jpg", "valid/1.jpg"]),
        (recode, ["train and valid share an image (the same pixels): ", "train/2.jpg", "valid/1.png"]),
        (
            lambda place: (place / "valid.txt").write_text(
                "images/valid/0.jpg\nimages/valid/1.jpg\nimages/train/2.jpg\n"
            ),
            ["train and valid share an image (the same bytes): ", "train/2.jpg, in both lists"],
        ),
        (
            lambda place: shutil.copy(place / "images/train/2.jpg", place / "images/train/4.jpg"),
            ["twice in train (the same bytes): ", "train/2.jpg", "train/4.jpg"],
        ),
        (
            lambda place: (place / "train.txt").write_text((place / "train.txt").read_text() + "images/train/1.jpg\n"),
            ["train: ", "train/1.jpg is listed 2 times"],
        ),
        (
            lambda place: (place / "labels/train/3.txt").unlink(),
            ["train: 1 of 6 images have no label file (no objects), first ", "train/3.jpg"],
        ),
        (
            lambda place: (place / "labels/train/3.txt").write_text("0 0.5 0.5 0 0.1\n1 0.5 0.5 0.1 0.1\n"),
            ["train/3.txt:1: a box without area"],
        ),
        (
            lambda place: (place / "labels/train/3.txt").write_text("1 0.5 0.5 0.1 0.1\n1 0.5 0.5 0.1 0.1\n"),
            ["train/3.txt:2: the same box as in line 1"],
        ),
        (
            lambda place: (place / "labels/train/3.txt").write_text("1 0.1 0.1 0.9 0.9\n"),
            ["train/3.txt:1: 63% of the box lies outside the image; are its numbers corners?"],
        ),
        (
            lambda place: (place / "labels/valid/1.txt").write_text("0 0.5 0.5 0.1 0.1\n"),
            ["class 1 (dog): no box in valid"],
        ),
    ],
)
def test_what_somebody_should_know_is_one_warning(place, capsys, damage, message):
    damage(place)
    warnings = [line for line in check(capsys).splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 1 and all(text in warnings[0] for text in message), warnings


def test_a_list_that_is_missing_is_one_line(place, capsys):
    (place / "valid.txt").unlink()
    assert main(["check", "set.data"]) == 2
    assert "set.data:3: valid = valid.txt: no such file" in capsys.readouterr().err
    assert not (place / "runs").exists()


def test_many_problems_are_cut_on_the_terminal_but_not_in_the_file(place, capsys):
    (place / "labels/train/0.txt").write_text("9 0.5 0.5 0.1 0.1\n" * 50)
    out = check(capsys, code=2)
    assert out.count("error: ") == 21 and "error: 30 more, see problems.txt" in out
    assert (place / "runs/check-set/problems.txt").read_text().count("error: ") == 50


def test_grey_set_of_one_list_reports_every_image_as_shared(tmp_path):
    found = survey(write_set(tmp_path / "set", count=2))
    assert not found.errors and sum("share an image" in message for message in found.warnings) == 1


def test_real_photographs_have_the_published_counts(shared_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["voc", str(shared_data / "bccd"), "--out", "bccd"]) == 0
    assert main(["check", "bccd.data"]) == 0
    numbers = json.loads((tmp_path / "runs/check-bccd/record.json").read_text())["metrics"]["splits"]
    rows = [row for path in (tmp_path / "bccd/labels").iterdir() for row in path.read_text().splitlines()]
    assert numbers["train"]["images"] + numbers["valid"]["images"] == 24
    assert numbers["train"]["boxes"] + numbers["valid"]["boxes"] == len(rows)
    assert "0 errors" in capsys.readouterr().out
