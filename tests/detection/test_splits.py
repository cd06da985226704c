"""Which images are trained on and which are validated on: the lists of a set decide, and what was made of them is told."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.data.conftest import write_set
from tests.detection.test_foreign_labels import turned_image
from tests.detection.test_voc import voc
from utils.data.manifest import Manifest, read_list
from utils.data.overlaps import leaks, shared
from utils.data.set_apart import set_apart
from utils.detection.labels import label_of
from utils.detection.open_data import open_data, read_manifest
from utils.detection.voc import convert
from utils.errors import InputError

__all__ = ["voc"]

EVERY = set("0123456789")


def parts(folder: Path) -> tuple[list[str], list[str]]:
    train, valid = ((folder / f"{name}.txt").read_text().split() for name in ("train", "val"))
    return [Path(row).stem for row in train], [Path(row).stem for row in valid]


@pytest.mark.parametrize("place", ["", "ImageSets/Main", "ImageSets"])
@pytest.mark.parametrize(
    ("lists", "train", "valid", "told"),
    [
        (
            {"train": "123", "val": "45", "test": "67"},
            "123",
            "45",
            "train.txt to train, val.txt to validate on, test.txt left out",
        ),
        ({"train": "123", "test": "67"}, "123", "67", "train.txt to train, test.txt to validate on"),
        ({"train": "123", "valid": "67"}, "123", "67", "train.txt to train, valid.txt to validate on"),
        ({"trainval": "12345", "test": "67"}, "12345", "67", "trainval.txt to train, test.txt to validate on"),
        (
            {"trainval": "12345", "val": "45", "test": "67"},
            "123",
            "45",
            "trainval.txt to train, val.txt to validate on",
        ),
        ({"trainval": "12345", "train": "12", "val": "345"}, "12", "345", "train.txt to train, val.txt to validate on"),
        ({"test": "67"}, "01234589", "67", "what no list names to train, test.txt to validate on"),
        (
            {"val": "45", "test": "67"},
            "012389",
            "45",
            "what no list names to train, val.txt to validate on, test.txt left",
        ),
    ],
)
def test_lists_that_there_are_decide_and_no_test_image_is_trained_on(voc, tmp_path, place, lists, train, valid, told):
    (voc / place).mkdir(parents=True, exist_ok=True)
    for kind, stems in lists.items():
        (voc / place / f"{kind}.txt").write_text("".join(f"{stem}\n" for stem in stems))
    found = convert(voc, tmp_path / "out")
    assert parts(tmp_path / "out") == (list(train), list(valid)) and told in str(found)
    assert not set(parts(tmp_path / "out")[0]) & set(lists.get("test", ""))


@pytest.mark.parametrize("kind", ["train", "trainval"])
def test_list_to_train_on_alone_is_split_and_nothing_else_is_touched(voc, tmp_path, kind):
    (voc / f"{kind}.txt").write_text("1\n2\n3\n4\n5\n")
    found = convert(voc, tmp_path / "out")
    train, valid = parts(tmp_path / "out")
    assert sorted(train + valid) == list("12345") and len(valid) == 1
    assert f"split: {kind}.txt, so 20% by seed 0 to validate on" in str(found)


def test_set_without_lists_is_split_as_ever_and_says_so(voc, tmp_path):
    found = convert(voc, tmp_path / "out")
    assert parts(tmp_path / "out") == (list("012345689"), list("7"))
    assert "split: no list, so 20% by seed 0" in str(found)


def test_lists_that_are_not_read_are_named(voc, tmp_path):
    for path in ("ImageSets/Main/cat_train.txt", "ImageSets/Segmentation/val.txt", "notes.txt"):
        (voc / path).parent.mkdir(parents=True, exist_ok=True)
        (voc / path).write_text("1\n")
    said = "split: no list (not ImageSets/Main/cat_train.txt and 1 more: call them train.txt and val.txt), so 20%"
    assert said in str(convert(voc, tmp_path / "out"))


@pytest.mark.parametrize("seed", [0, 1])
def test_an_image_that_is_taken_away_moves_no_other(seed):
    names = [f"raccoon-{i}.jpg" for i in range(200)]
    train, valid = ({names[i] for i in part} for part in set_apart(names, 0.2, seed))
    assert train | valid == set(names) and not train & valid
    for gone in names:
        left = [name for name in reversed(names) if name != gone]  # in another order, too
        now = [{left[i] for i in part} for part in set_apart(left, 0.2, seed)]
        assert now == [train - {gone}, valid - {gone}]
    assert set_apart(names, 0.2, seed) != set_apart(names, 0.2, seed + 1)
    assert set_apart([f"elsewhere/{name}" for name in names], 0.2, seed) == set_apart(names, 0.2, seed)


def test_about_the_share_is_set_apart_and_neither_part_is_ever_empty():
    names = [f"{i}.png" for i in range(200)]
    counts = [len(set_apart(names, 0.2, seed)[1]) for seed in range(100)]
    assert np.mean(counts) == pytest.approx(40, abs=2) and np.std(counts) < 8
    for count in (2, 3, 10):
        for seed in range(50):
            train, valid = set_apart(names[:count], 0.01 if seed % 2 else 0.99, seed)
            assert train and valid and sorted(train + valid) == list(range(count))


def test_lists_that_leave_nothing_to_train_on_are_refused(voc, tmp_path):
    (voc / "test.txt").write_text("".join(f"{i}\n" for i in range(10)))
    with pytest.raises(
        InputError, match=r"test\.txt: names every image, so none is left to train on; add a train\.txt"
    ):
        convert(voc, tmp_path / "out")


def yolo_folder(folder: Path, *, where: str = "images", labels: str = "labels", count: int = 10) -> Path:
    for i in range(count):
        image = folder / where / f"{i}.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(image), np.full((60, 100, 3), 10 * i, np.uint8))
        (folder / labels).mkdir(parents=True, exist_ok=True)
        (folder / labels / f"{i}.txt").write_text("1 0.5 0.5 0.2 0.2\n")
    (folder / "classes.txt").write_text("cat\ndog\n")
    return folder


@pytest.mark.parametrize(("where", "labels"), [("images", "labels"), ("images", "images"), ("", "")])
def test_folder_without_a_split_gets_a_seeded_one_that_is_kept(tmp_path, monkeypatch, caplog, where, labels):
    monkeypatch.chdir(tmp_path)
    folder = yolo_folder(tmp_path / "mine", where=where, labels=labels)
    with caplog.at_level(logging.WARNING):
        first = open_data(folder)
    assert "9 images to train on, 1 to validate on, split: no list, so 20% by seed 0" in caplog.text
    assert (first.path, first.names) == (tmp_path / "runs/data/mine.data", ("cat", "dog"))
    train, valid = read_list(first.train), read_list(first.valid)
    assert {p.stem for p in [*train, *valid]} == EVERY and (len(train), len(valid)) == (9, 1)
    before = {p: p.read_bytes() for p in (tmp_path / "runs/data").rglob("*") if p.is_file()}
    caplog.clear()
    assert open_data(folder) == first and not caplog.text
    assert {p: p.read_bytes() for p in (tmp_path / "runs/data").rglob("*") if p.is_file()} == before
    cv2.imwrite(str(folder / where / "new.png"), np.zeros((60, 100, 3), np.uint8))
    assert open_data(folder).path == tmp_path / "runs/data/mine-2.data", "a set that grew is split anew, beside the old"


def test_lists_of_a_yolo_folder_are_used(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = yolo_folder(tmp_path / "mine")
    (folder / "trainval.txt").write_text("".join(f"images/{i}.png\n" for i in (1, 2, 3)))
    (folder / "test.txt").write_text("images/7.png\n")
    manifest = open_data(folder)
    assert [[p.stem for p in read_list(part)] for part in (manifest.train, manifest.valid)] == [["1", "2", "3"], ["7"]]


@pytest.mark.parametrize(
    ("pattern", "valid", "labels"),
    [
        ("images/{}", "val", "labels/{}"),
        ("images/{}", "test", "labels/{}"),
        ("{}/images", "valid", "{}/labels"),
        ("{}", "val", "{}"),
    ],
)
def test_folders_of_parts_are_the_split(tmp_path, monkeypatch, pattern, valid, labels):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "mine"
    for part in ("train", valid):
        yolo_folder(folder, where=pattern.format(part), labels=labels.format(part), count=3)
    manifest = open_data(folder)
    assert manifest.train == folder / pattern.format("train") and manifest.valid == folder / pattern.format(valid)
    assert not (tmp_path / "runs").exists()


def doubled(tmp_path: Path, first: str, second: str) -> Manifest:
    """Two images of other pixels that read one file of labels."""
    for i, name in enumerate((first, second)):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(tmp_path / name), np.full((60, 100, 3), 50 * i, np.uint8))
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/1.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "train.txt").write_text(f"{first}\n")
    (tmp_path / "valid.txt").write_text(f"{second}\n")
    (tmp_path / "set.names").write_text("cat\n")
    text = "classes = 1\ntrain = train.txt\nvalid = valid.txt\nnames = set.names\nlabels = labels\n"
    (tmp_path / "set.data").write_text(text)
    return read_manifest(tmp_path / "set.data")


@pytest.mark.parametrize(("first", "second"), [("a/1.jpg", "b/1.jpg"), ("images/1.jpg", "images/1.png")])
def test_two_images_with_one_label_file_are_refused(tmp_path, first, second):
    manifest = doubled(tmp_path, first, second)
    with pytest.raises(
        InputError, match=r"1\.jpg, .*: both would have the boxes of .*labels/1\.txt \(1 such files"
    ) as e:
        open_data(manifest.path)
    assert "\n" not in str(e.value) and first in str(e.value) and second in str(e.value)
    (tmp_path / second).rename(tmp_path / "other.png")
    (tmp_path / "valid.txt").write_text("other.png\n")
    open_data(manifest.path)


def test_link_to_the_same_image_shares_its_labels_rightly(tmp_path):
    manifest = doubled(tmp_path, "a/1.jpg", "b/1.jpg")
    (tmp_path / "b/1.jpg").unlink()
    (tmp_path / "b/1.jpg").symlink_to(tmp_path / "a/1.jpg")
    assert not shared([*read_list(manifest.train), *read_list(manifest.valid)], manifest, label_of)


def test_images_in_both_lists_are_counted_by_content_and_told_once(tmp_path, caplog):
    manifest = write_set(tmp_path / "set", count=6)
    folder = manifest.path.parent
    for i in range(6):
        cv2.imwrite(str(folder / f"images/{i}.png"), np.full((60, 100, 3), 10 * i, np.uint8))
    shutil.copy(folder / "images/0.png", folder / "images/copy.png")
    shutil.copy(folder / "labels/0.txt", folder / "labels/copy.txt")
    (folder / "images/link.png").symlink_to(folder / "images/1.png")
    (folder / "valid.txt").write_text("images/copy.png\nimages/4.png\nimages/5.png\nimages/link.png\n")
    (folder / "list.txt").write_text("".join(f"images/{i}.png\n" for i in range(5)))
    manifest.path.write_text(manifest.path.read_text().replace("valid = list.txt", "valid = valid.txt"))
    with caplog.at_level(logging.WARNING):
        open_data(manifest.path)
        open_data(manifest.path)
    assert caplog.text.count("3 of 4 images to validate on are trained on too, by content, first") == 1
    found = leaks(read_list(folder / "list.txt"), read_list(folder / "valid.txt"))
    assert [path.stem for path in found] == ["copy", "4", "link"]


def test_photographs_that_exif_turns_are_told_once_where_no_annotation_said_which_way(tmp_path, caplog):
    manifest = write_set(tmp_path / "set", count=3)
    turned_image(tmp_path / "set/images/1.jpg", 6)
    (tmp_path / "set/images/1.png").unlink()
    manifest.train.write_text(manifest.train.read_text().replace("1.png", "1.jpg"))
    (tmp_path / "set/images/0.png").rename(tmp_path / "set/images/x.png")  # not there: told where it is read
    (tmp_path / "set/other.txt").write_text("images/2.png\n")
    manifest.path.write_text(manifest.path.read_text().replace("valid = list.txt", "valid = other.txt"))
    with caplog.at_level(logging.WARNING):
        open_data(manifest.path)
        open_data(manifest.path)
    assert caplog.text.count("EXIF turns 1 images, first") == 1 and "images/1.jpg" in caplog.text


@pytest.mark.parametrize("name", [b"\xe4\xbd.png", b"two\nlines.png"])
def test_name_that_no_list_can_hold_is_one_line(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    folder = yolo_folder(tmp_path / "mine")
    (folder / "images/3.png").rename(folder / "images" / os.fsdecode(name))
    with pytest.raises(InputError, match="its name is not UTF-8, or two lines; rename it") as caught:
        open_data(folder)
    assert "\n" not in str(caught.value) and str(caught.value).isascii() and not (tmp_path / "runs/data/mine").exists()


def test_lists_that_share_nothing_are_silent(tmp_path, caplog, shared_data):
    with caplog.at_level(logging.WARNING):
        open_data(shared_data / "coco128")
    assert not caplog.text
