from __future__ import annotations

import logging
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from utils.data.__main__ import main
from utils.data.manifest import read_list
from utils.detection.dataset import DetectionDataset
from utils.detection.open_data import read_manifest
from utils.detection.voc import convert
from utils.errors import InputError

OBJECT = "<object><name>{}</name><difficult>{}</difficult><bndbox>{}</bndbox></object>"


def annotation(name: str, objects: list[tuple], size: tuple[int, int] = (100, 60)) -> str:
    """VOC xml of one image; objects are (class, xmin, ymin, xmax, ymax[, difficult])."""
    keys = ("xmin", "ymin", "xmax", "ymax")
    body = "".join(
        OBJECT.format(
            o[0], o[5] if len(o) > 5 else 0, "".join(f"<{k}>{v}</{k}>" for k, v in zip(keys, o[1:5], strict=True))
        )
        for o in objects
    )
    shape = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    return f"<annotation><filename>{name}</filename>{shape}{body}</annotation>"


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    folder = tmp_path / "set"
    (folder / "Annotations").mkdir(parents=True)
    (folder / "JPEGImages").mkdir()
    for i in range(10):
        cv2.imwrite(str(folder / f"JPEGImages/{i}.jpg"), np.full((60, 100, 3), 90, np.uint8))
        (folder / f"Annotations/{i}.xml").write_text(
            annotation(f"{i}.jpg", [("dog", 20, 12, 70, 42), ("cat", 0, 0, 50, 30)])
        )
    return folder


def labels(out: Path, stem: str) -> list[list[float]]:
    return [[float(word) for word in row.split()] for row in (out / f"labels/{stem}.txt").read_text().splitlines()]


def test_converted_boxes_are_the_annotated_ones(voc, tmp_path):
    found = convert(voc, tmp_path / "out")
    manifest = read_manifest(tmp_path / "out.data")
    assert manifest.names == ("cat", "dog") and (found.images, found.boxes) == (10, 20)
    assert found.splits == {"train": 9, "val": 1}
    np.testing.assert_allclose(labels(tmp_path / "out", "3"), [[1, 0.45, 0.45, 0.5, 0.5], [0, 0.25, 0.25, 0.5, 0.5]])
    listed = [*read_list(manifest.train), *read_list(manifest.valid)]
    assert sorted(listed) == sorted((voc / "JPEGImages").iterdir())


def test_an_image_without_an_annotation_is_named_and_counts_as_empty_where_a_list_has_it(voc, tmp_path, caplog):
    (voc / "Annotations/3.xml").unlink()
    (voc / "Annotations/4.xml").rename(voc / "Annotations/four.xml")  # names its image, 4.jpg
    found = convert(voc, tmp_path / "out")
    assert (found.images, found.unlabelled) == (9, 1)
    assert "JPEGImages: left out for want of an annotation: 3.jpg; a train.txt" in caplog.text
    (voc / "train.txt").write_text("".join(f"{i}\n" for i in (0, 1, 2, 3, 5, 6, 7, 8, 9)))
    found = convert(voc, tmp_path / "listed")
    assert (found.images, found.unlabelled) == (9, 0) and labels(tmp_path / "listed", "3") == []


def test_source_is_only_read(voc, tmp_path):
    before = {p: p.stat().st_mtime_ns for p in voc.rglob("*")}
    convert(voc, tmp_path / "out")
    assert {p: p.stat().st_mtime_ns for p in voc.rglob("*")} == before
    assert not list((tmp_path / "out").rglob("*.jpg"))


def test_lists_of_the_set_decide_its_split(voc, tmp_path):
    (voc / "ImageSets/Main").mkdir(parents=True)
    (voc / "ImageSets/Main/train.txt").write_text("1\n2\n")
    (voc / "ImageSets/Main/val.txt").write_text("7.jpg\n")
    convert(voc, tmp_path / "out")
    manifest = read_manifest(tmp_path / "out.data")
    assert [p.name for p in read_list(manifest.train)] == ["1.jpg", "2.jpg"]
    assert [p.name for p in read_list(manifest.valid)] == ["7.jpg"]


def test_a_seeded_split_depends_on_names_and_seed_alone(voc, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        convert(voc, tmp_path / name, seed=seed, valid=0.5)
    first, again, other = ((tmp_path / name / "val.txt").read_text() for name in "abc")
    assert first == again != other


def test_box_without_area_is_named_and_skipped_a_difficult_one_kept_and_one_over_the_edge_cut(voc, tmp_path, caplog):
    boxes = [("dog", 30, 20, 30, 20), ("dog", 20, 12, 70, 42, 1), ("dog", 90, 50, 130, 70)]
    (voc / "Annotations/4.xml").write_text(annotation("4.jpg", boxes))
    with caplog.at_level(logging.WARNING):
        found = convert(voc, tmp_path / "out")
    assert (found.empty, found.difficult, found.clipped) == (1, 1, 1)
    assert "4.xml: a box without area (30 20 30 20)" in caplog.text
    np.testing.assert_allclose(
        labels(tmp_path / "out", "4"), [[1, 0.45, 0.45, 0.5, 0.5], [1, 0.95, 0.91667, 0.1, 0.16667]], atol=1e-5
    )


def test_scaled_image_keeps_the_shares_and_a_wrong_size_the_pixels(voc, tmp_path):
    (voc / "Annotations/0.xml").write_text(annotation("0.jpg", [("dog", 40, 24, 140, 84)], (200, 120)))
    (voc / "Annotations/1.xml").write_text(annotation("1.jpg", [("dog", 20, 12, 70, 42)], (999, 60)))
    (voc / "Annotations/2.xml").write_text(annotation("2.jpg", [("dog", 20, 12, 70, 42)], (0, 0)))
    found = convert(voc, tmp_path / "out")
    assert found.resized == 2
    for stem in "012":
        np.testing.assert_allclose(labels(tmp_path / "out", stem), [[1, 0.45, 0.45, 0.5, 0.5]])


def test_chosen_classes_keep_their_order_and_leave_others_out(voc, tmp_path):
    found = convert(voc, tmp_path / "out", classes=["dog"])
    assert read_manifest(tmp_path / "out.data").names == ("dog",)
    assert (found.boxes, found.other_class) == (10, 10)
    with pytest.raises(InputError, match=r"no object of class 'dig'.*did you mean 'dog'"):
        convert(voc, tmp_path / "other", classes=["dig"])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda v: (v / "JPEGImages/3.jpg").unlink(), r"3.xml: its image 3.jpg is not in"),
        (
            lambda v: [  # where nobody says its size, its boxes are shares of nothing known
                (v / "JPEGImages/3.jpg").write_bytes(b"no"),
                (v / "Annotations/3.xml").write_text(annotation("3.jpg", [("dog", 1, 2, 3, 4)], (0, 0))),
            ],
            r"3.jpg: a corrupt image",
        ),
        (lambda v: (v / "Annotations/3.xml").write_text("<annotation>"), r"3.xml: no valid xml"),
        (
            lambda v: (v / "Annotations/3.xml").write_text(annotation("3.jpg", [("dog", 1, 2, "", 4)])),
            r"3.xml: an object \(dog\) without a <bndbox> of four numbers",
        ),
        (lambda v: shutil.rmtree(v / "JPEGImages"), r"no folder JPEGImages or images in it"),
        (lambda v: [p.unlink() for p in (v / "Annotations").glob("[1-9].xml")], r"1 annotations; at least two"),
        (lambda v: [(v / f"{s}.txt").write_text("\n") for s in ("train", "val")], r"train.txt: the list is empty"),
    ],
)
def test_mistake_in_a_voc_set_is_one_line_and_nothing_is_written(voc, tmp_path, spoil, message):
    spoil(voc)
    with pytest.raises(InputError, match=message) as caught:
        convert(voc, tmp_path / "out")
    assert "\n" not in str(caught.value) and [p.name for p in tmp_path.iterdir()] == ["set"]


def test_earlier_conversion_is_never_overwritten(voc, tmp_path):
    convert(voc, tmp_path / "out")
    with pytest.raises(InputError, match=r"exists already; choose another --out"):
        convert(voc, tmp_path / "out")


def test_folder_as_data_is_converted_once_and_again_when_it_changed(voc, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first = read_manifest(voc)
    assert first.path == tmp_path / "runs/data/set.data" == read_manifest(voc).path
    (voc / "Annotations/3.xml").write_text(annotation("3.jpg", [("dog", 20, 12, 70, 42)]))
    assert read_manifest(voc).path == tmp_path / "runs/data/set-2.data"
    assert first.path.exists()


def test_raccoon_has_its_published_split_and_boxes(shared_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manifest = read_manifest(shared_data / "raccoon")
    assert manifest.names == ("raccoon",)
    train, valid = (
        DetectionDataset(part, manifest, (96, 96), cache="off") for part in (manifest.train, manifest.valid)
    )
    assert (len(train), len(valid)) == (160, 40)
    assert sum(map(len, train.boxes)) + sum(map(len, valid.boxes)) == 217
    assert [p.name for p in valid.images] == (shared_data / "raccoon/val.txt").read_text().split()


def test_bccd_names_its_two_boxes_without_area(shared_data, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        found = convert(shared_data / "bccd", tmp_path / "bccd")
    assert (found.images, found.boxes, found.empty) == (24, 309, 2)
    assert "BloodImage_00338.xml" in caplog.text and "BloodImage_00343.xml" in caplog.text
    manifest = read_manifest(tmp_path / "bccd.data")
    assert manifest.names == ("Platelets", "RBC", "WBC")
    assert sum(map(len, DetectionDataset(manifest.train, manifest, (64, 64), cache="off").boxes)) > 200


def test_command_line_converts_and_says_what_it_found(voc, tmp_path, capsys):
    assert main(["voc", str(voc), "--out", str(tmp_path / "mine.data")]) == 0
    assert "mine.data: 10 images (9 train, 1 val), 20 boxes" in capsys.readouterr().out
    assert main(["voc", str(tmp_path / "lost"), "--out", str(tmp_path / "x")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
