from __future__ import annotations

import contextlib
import io
import json
import logging
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from tests.detection.test_voc import annotation, labels
from utils.data.__main__ import main
from utils.data.manifest import read_list
from utils.detection.coco import convert
from utils.detection.dataset import DetectionDataset
from utils.detection.labels import read_labels
from utils.detection.open_data import read_manifest
from utils.errors import InputError

WIDTH, HEIGHT = 100, 60
CATEGORIES = [{"id": 18, "name": "dog"}, {"id": 3, "name": "car"}, {"id": 90, "name": "toothbrush"}]


def content(count: int = 6) -> dict:
    """As COCO writes it: ids with gaps, out of order, boxes as x, y, width, height in px."""
    rng = np.random.default_rng(3)
    images = [{"id": 500 - i, "file_name": f"{i}.png", "width": WIDTH, "height": HEIGHT} for i in range(count)]
    annotations = []
    for number in range(4 * count):
        x, y = rng.uniform(0, 60), rng.uniform(0, 30)
        box = [round(float(v), 2) for v in (x, y, rng.uniform(5, 39), rng.uniform(5, 29))]
        image = 500 - int(rng.integers(count - 1))  # the last image has none
        row = {"id": number + 1, "image_id": image, "category_id": int(rng.choice([3, 18, 90])), "bbox": box}
        annotations.append(row | {"iscrowd": int(number % 7 == 0), "area": box[2] * box[3]})
    return {"images": images, "annotations": annotations, "categories": [dict(row) for row in CATEGORIES]}


def write(folder: Path, values: dict, name: str = "instances.json") -> Path:
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for row in values["images"]:
        cv2.imwrite(str(folder / "pictures" / row["file_name"]), np.full((HEIGHT, WIDTH, 3), 90, np.uint8))
    path = folder / name
    path.write_text(json.dumps(values))
    return path


def oracle(path: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def test_boxes_of_every_image_are_those_that_pycocotools_reads(tmp_path):
    path = write(tmp_path, content(12))
    found = convert([path], [tmp_path / "pictures"], tmp_path / "out", valid=0.25)
    manifest, truth = read_manifest(tmp_path / "out.data"), oracle(path)
    listed = [*read_list(manifest.train), *read_list(manifest.valid)]
    by_name = {image["file_name"]: number for number, image in truth.imgs.items()}
    assert sorted(path.name for path in listed) == sorted(by_name) and found.splits == {"train": 9, "val": 3}
    total = 0
    for image in listed:
        rows = labels(tmp_path / "out", image.stem)
        theirs = truth.loadAnns(truth.getAnnIds(imgIds=[by_name[image.name]], iscrowd=False))
        assert [manifest.names[int(row[0])] for row in rows] == [truth.cats[a["category_id"]]["name"] for a in theirs]
        boxes = [(WIDTH * (r[1] - r[3] / 2), HEIGHT * (r[2] - r[4] / 2), WIDTH * r[3], HEIGHT * r[4]) for r in rows]
        np.testing.assert_allclose(
            np.reshape(boxes, (-1, 4)), np.reshape([a["bbox"] for a in theirs], (-1, 4)), atol=1e-3
        )
        total += len(theirs)
    assert found.boxes == total == 48 - found.crowd and found.crowd == len(truth.getAnnIds(iscrowd=True)) == 7


def test_classes_are_the_categories_in_the_order_of_their_ids(tmp_path):
    convert([write(tmp_path, content())], [tmp_path / "pictures"], tmp_path / "out")
    assert read_manifest(tmp_path / "out.data").names == ("car", "dog", "toothbrush")


def test_image_without_boxes_stays_with_an_empty_label_file(tmp_path):
    convert([write(tmp_path, content())], [tmp_path / "pictures"], tmp_path / "out")
    assert (tmp_path / "out/labels/5.txt").read_text() == ""
    assert "5.png" in (tmp_path / "out/train.txt").read_text() + (tmp_path / "out/val.txt").read_text()


def test_crowd_shapeless_and_empty_boxes_are_counted_and_left_out(tmp_path, caplog):
    values = content(2)
    common = {"image_id": 500, "category_id": 3}
    values["annotations"] = [
        {"id": 1, "bbox": [10, 6, 50, 30], **common},
        {"id": 2, "bbox": [0, 0, 100, 60], "iscrowd": 1, **common},
        {"id": 3, "segmentation": [[1, 1, 9, 1, 9, 9]], **common},
        {"id": 4, "bbox": [20, 20, 0, 12.5], **common},
        {"id": 5, "bbox": [90, 50, 30, 30], **common},
    ]
    with caplog.at_level(logging.WARNING):
        found = convert([write(tmp_path, values)], [tmp_path / "pictures"], tmp_path / "out")
    assert (found.boxes, found.crowd, found.shapeless, found.empty, found.clipped) == (2, 1, 1, 1, 1)
    assert "annotation 4: a box without area (20 20 20 32.5)" in caplog.text
    for message in ("1 crowd regions (skipped)", "1 with a segmentation but no box", "1 without area (skipped)"):
        assert message in str(found)
    np.testing.assert_allclose(
        labels(tmp_path / "out", "0"), [[0, 0.35, 0.35, 0.5, 0.5], [0, 0.95, 55 / 60, 0.1, 10 / 60]], atol=1e-6
    )


def test_two_files_are_the_two_splits(tmp_path):
    values = content(5)
    train = write(
        tmp_path, values | {"images": values["images"][:3], "annotations": values["annotations"][:0]}, "a.json"
    )
    rest = [a for a in values["annotations"] if a["image_id"] <= 497]
    val = write(tmp_path, values | {"images": values["images"][3:], "annotations": rest}, "b.json")
    words = ["coco", str(train), str(val), "--images", str(tmp_path / "pictures"), "--out", str(tmp_path / "out.data")]
    assert main(words) == 0
    manifest = read_manifest(tmp_path / "out.data")
    assert [p.name for p in read_list(manifest.train)] == ["0.png", "1.png", "2.png"]
    assert [p.name for p in read_list(manifest.valid)] == ["3.png", "4.png"]
    assert len(DetectionDataset(manifest.valid, manifest, (64, 64))) == 2


def test_an_image_scaled_after_it_was_annotated_keeps_its_shares(tmp_path):
    values = content(2)
    values["annotations"] = [{"id": 1, "image_id": 500, "category_id": 3, "bbox": [20, 12, 100, 60]}]
    for row in values["images"]:
        row |= {"width": 2 * WIDTH, "height": 2 * HEIGHT}
    found = convert([write(tmp_path, values)], [tmp_path / "pictures"], tmp_path / "out")
    assert found.resized == 2
    np.testing.assert_allclose(labels(tmp_path / "out", "0"), [[0, 0.35, 0.35, 0.5, 0.5]], atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("categories"), "no list 'categories', so no COCO detection json"),
        (
            lambda v: v["annotations"][1].update(category_id=7),
            "annotation 2: category_id 7 is not among the categories",
        ),
        (lambda v: v["annotations"][1].update(image_id=7), "annotation 2: is of no image in the file"),
        (lambda v: v["annotations"][1].update(bbox=[1, 2, 3]), "annotation 2: bbox .1, 2, 3. is not four numbers"),
        (lambda v: v["annotations"][1].update(bbox=[1, 2, float("nan"), 4]), "annotation 2: bbox .* is not four"),
        (lambda v: v["images"].append(dict(v["images"][0])), "two of 'images' have the id 500"),
        (lambda v: v["categories"].append({"id": 4, "name": "dog"}), "two categories have one name"),
        (lambda v: v.update(annotations=[]), "no object in any annotation"),
    ],
)
def test_file_that_contradicts_itself_is_one_line(tmp_path, change, message):
    values = content()
    change(values)
    path = write(tmp_path, values | {"images": values["images"]})
    with pytest.raises(InputError, match=message) as caught:
        convert([path], [tmp_path / "pictures"], tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists() and not (tmp_path / "out.data").exists()


def test_missing_image_json_and_a_taken_name_are_refused(tmp_path, capsys):
    path, out = write(tmp_path, content()), tmp_path / "out"
    (tmp_path / "pictures/3.png").rename(tmp_path / "3.png")
    with pytest.raises(InputError, match=r"its image 3\.png is not in .*pictures; add it"):
        convert([path], [tmp_path / "pictures"], out)
    path.write_text("{")
    assert main(["coco", str(path), "--images", str(tmp_path), "--out", str(out)]) == 2
    assert "no valid json" in capsys.readouterr().err
    (tmp_path / "out.names").write_text("mine")
    assert main(["coco", str(path), "--images", str(tmp_path), "--out", str(out)]) == 2
    assert "out.names: exists already; choose another --out" in capsys.readouterr().err


@pytest.mark.parametrize(("difficult", "kept"), [("keep", 2), ("skip", 1)])
def test_difficult_objects_are_kept_or_skipped_as_asked(tmp_path, difficult, kept, capsys):
    folder = tmp_path / "set"
    for name in ("Annotations", "JPEGImages"):
        (folder / name).mkdir(parents=True)
    for i in range(4):
        cv2.imwrite(str(folder / f"JPEGImages/{i}.jpg"), np.full((60, 100, 3), 90, np.uint8))
        text = annotation(f"{i}.jpg", [("dog", 20, 12, 70, 42), ("dog", 0, 0, 50, 30, 1)])
        (folder / f"Annotations/{i}.xml").write_text(text)
    assert main(["voc", str(folder), "--out", str(tmp_path / "out"), "--difficult", difficult]) == 0
    assert len(labels(tmp_path / "out", "0")) == kept
    said = {"keep": "4 marked difficult (kept)", "skip": "4 marked difficult (skipped)"}[difficult]
    assert said in capsys.readouterr().out


def test_labels_of_real_photographs_survive_the_way_through_json(shared_data, tmp_path):
    """Inverse: the labels of coco128 written as COCO's json come back as they were."""
    folder = shared_data / "coco128"
    names = (folder / "coco.names").read_text().splitlines()
    values: dict = {
        "images": [],
        "annotations": [],
        "categories": [{"id": i + 1, "name": n} for i, n in enumerate(names)],
    }
    images = sorted((folder / "images/val").glob("*.jpg"))[:20]
    for number, image in enumerate(images):
        height, width = cv2.imread(str(image)).shape[:2]
        values["images"].append({"id": number, "file_name": image.name, "width": width, "height": height})
        for label, cx, cy, w, h in read_labels(folder / f"labels/val/{image.stem}.txt", 80).tolist():
            box = [(cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height]
            row = {"id": len(values["annotations"]), "image_id": number, "category_id": int(label) + 1, "bbox": box}
            values["annotations"].append(row)
    path = tmp_path / "val.json"
    path.write_text(json.dumps(values))
    found = convert([path], [folder / "images/val"], tmp_path / "out", seed=1)
    assert found.boxes == len(values["annotations"]) > 50 and found.resized == found.empty == 0
    for image in images:
        ours = read_labels(tmp_path / f"out/labels/{image.stem}.txt", 80)
        theirs = read_labels(folder / f"labels/val/{image.stem}.txt", 80)
        np.testing.assert_allclose(ours, theirs, atol=3e-6)
