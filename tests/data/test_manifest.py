from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from utils.data.manifest import Manifest, read_list
from utils.detection.labels import label_path, read_all, read_labels
from utils.detection.open_data import read_manifest
from utils.errors import InputError


def rewrite(manifest: Manifest, old: str, new: str) -> Path:
    text = manifest.path.read_text()
    assert old in text
    manifest.path.write_text(text.replace(old, new))
    return manifest.path


def test_manifest_finds_its_files_beside_itself(tiny):
    assert (tiny.classes, tiny.names, tiny.flip, tiny.labels) == (2, ("cat", "dog"), 0.5, None)
    assert tiny.train == tiny.path.parent / "list.txt"
    assert len(read_list(tiny.train)) == 6


def test_paths_may_be_relative_to_the_current_folder(tiny, monkeypatch):
    monkeypatch.chdir(tiny.path.parent.parent)
    rewrite(tiny, "train = list.txt", "train = tiny/list.txt")
    assert read_manifest(tiny.path).train.samefile(tiny.train)


def test_shipped_manifests_agree_with_their_names():
    root = Path(__file__).parents[2] / "data"
    names = (root / "coco.names").read_text().splitlines()
    assert len(names) == 80 and names[0] == "person" and names[-1] == "toothbrush" and len(set(names)) == 80
    assert (root / "digits.names").read_text().split() == [str(n) for n in range(10)]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("classes = 2", "clases = 2", r"set.data:1: unknown key 'clases'; did you mean 'classes'"),
        ("classes = 2", "classes = two", r"set.data:1: classes = two: must be a whole number"),
        ("classes = 2", "classes = 3", r"set.data:1: classes = 3, but set.names names 2"),
        ("classes = 2", "", r"no 'classes =' line"),
        ("train = list.txt", "train = lost.txt", r"set.data:2: train = lost.txt: no such file"),
        (
            "train = list.txt",
            "{" + "x" * 9999,
            r"set.data:2: '\{x{39}' is not 'key = value' .*; or give the folder",
        ),
        ("train = list.txt", "train list.txt", r"set.data:2: 'train list.txt' is not 'key = value'"),
        ("names = set.names", "names = lost.names", r"set.data:4: names = lost.names: no such file"),
        ("flip = 0.5", "flip = 2", r"set.data:5: flip = 2: must be a number from 0 to 1"),
    ],
)
def test_mistake_in_a_manifest_names_the_line(tiny, old, new, message):
    with pytest.raises(InputError, match=message) as caught:
        read_manifest(rewrite(tiny, old, new))
    assert "\n" not in str(caught.value)


def test_missing_manifest_says_how_to_pass_one(tmp_path):
    with pytest.raises(InputError, match=r"no such .data file; pass --data"):
        read_manifest(tmp_path / "none.data")


def test_folder_that_is_no_set_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"a folder given as --data needs Annotations/"):
        read_manifest(tmp_path)


def test_empty_list_is_refused(tiny):
    tiny.train.write_text("# nothing\n\n")
    with pytest.raises(InputError, match=r"list.txt: the list of images is empty"):
        read_list(tiny.train)


def test_list_may_be_a_folder(tiny):
    assert [p.name for p in read_list(tiny.path.parent / "images")] == [f"{i}.png" for i in range(6)]
    with pytest.raises(InputError, match="no image in this folder"):
        read_list(tiny.path.parent / "labels")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("0 0.5 0.5 0.2", r"0.txt:2: '0 0.5 0.5 0.2' is not 'class cx cy w h'"),
        ("0 0.5 half 0.2 0.2", r"0.txt:2: .* is not 'class cx cy w h'"),
        ("0.5 0.5 0.5 0.2 0.2", r"0.txt:2: .* is not 'class cx cy w h'"),
        ("0 nan 0.5 0.2 0.2", r"0.txt:2: cx = nan is outside 0..1"),
        ("nan 0.5 0.5 0.2 0.2", r"0.txt:2: .* is not 'class cx cy w h'"),
        ("2 0.5 0.5 0.2 0.2", r"0.txt:2: class 2 of 2 \(0 to 1\): wrong class count"),
        ("-1 0.5 0.5 0.2 0.2", r"0.txt:2: class -1 of 2"),
        ("0 1.5 0.5 0.2 0.2", r"0.txt:2: cx = 1.5 is outside 0..1"),
        ("0 0.5 0.5 0.2 30", r"0.txt:2: h = 30 is outside 0..1"),
        ("0 0.5 -0.1 0.2 0.2", r"0.txt:2: cy = -0.1 is outside 0..1"),
    ],
)
def test_wrong_label_names_file_line_and_value(tmp_path, row, message):
    path = tmp_path / "0.txt"
    path.write_text(f"1 0.5 0.5 0.2 0.2\n{row}\n")
    with pytest.raises(InputError, match=message):
        read_labels(path, 2)


def test_box_without_area_is_reported_and_skipped(tmp_path, caplog):
    path = tmp_path / "0.txt"
    path.write_text("1 0.5 0.5 0.2 0.2\n1 0.5 0.5 0 0.2\n")
    with caplog.at_level(logging.WARNING):
        assert len(read_labels(path, 2)) == 1
    assert "0.txt:2: a box without area" in caplog.text


def test_box_over_the_edge_is_cut_and_others_stay_bit_for_bit(tmp_path):
    path = tmp_path / "0.txt"
    path.write_text("0 0.05 0.5 0.2 0.4\n1 0.123456 0.345678 0.2 0.3\n")
    rows = read_labels(path, 2)
    np.testing.assert_allclose(rows[0], [0, 0.075, 0.5, 0.15, 0.4], atol=1e-6)
    assert (rows[1] == np.array([1, 0.123456, 0.345678, 0.2, 0.3], np.float32)).all()


def test_only_the_last_folder_named_images_becomes_labels():
    assert label_path(Path("/images/set/images/train/a.jpg")) == Path("/images/set/labels/train/a.txt")
    assert label_path(Path("/my-images/set/a.b.jpg")) == Path("/my-images/set/a.b.txt")
    assert label_path(Path("/x/images/a.jpg"), Path("/y")) == Path("/y/a.txt")


def test_image_without_label_file_has_no_objects(tiny):
    (tiny.path.parent / "labels/3.txt").unlink()
    boxes, missing = read_all(read_list(tiny.train), tiny, tiny.train)
    assert missing == 1 and [len(rows) for rows in boxes] == [1, 1, 1, 0, 1, 1]


def test_no_label_file_at_all_explains_the_rule(tiny):
    (tiny.path.parent / "labels").rename(tiny.path.parent / "elsewhere")
    with pytest.raises(InputError, match=r"none of 6 images .*'images' replaced by 'labels'.*labels = FOLDER"):
        read_all(read_list(tiny.train), tiny, tiny.train)
    tiny.path.write_text(tiny.path.read_text() + "labels = elsewhere\n")
    assert read_all(read_list(tiny.train), read_manifest(tiny.path), tiny.train)[1] == 0


def test_coco128_has_its_boxes_and_no_more(shared_data):
    manifest = read_manifest(shared_data / "coco128")
    counts = [read_all(read_list(part), manifest, part) for part in (manifest.train, manifest.valid)]
    assert [sum(map(len, boxes)) for boxes, _ in counts] == [929, 898]
    assert sum(not len(rows) for rows in counts[0][0]) == 2
