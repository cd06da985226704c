"""One small set in every layout that other tools leave: opened as it is, it is the same images, classes and boxes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.detection.test_voc import annotation
from utils.data.manifest import Manifest, read_list
from utils.detection.labels import label_path, read_labels
from utils.detection.open_data import open_data
from utils.errors import InputError

NAMES = ("cat", "dog")
WIDTH, HEIGHT = 100, 60
TRAIN, VALID = ("a0", "a1", "a2", "a3"), ("b0", "b1")
BOXES = {stem: (int(stem[1]) % 2, 20 + 2 * i, 12, 70, 42) for i, stem in enumerate(TRAIN + VALID)}  # class, x1 y1 x2 y2


def image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    level = 40 * int(path.stem[1]) + (20 if path.stem[0] == "b" else 0)
    cv2.imwrite(str(path), np.full((HEIGHT, WIDTH, 3), level, np.uint8))


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def xml(path: Path) -> None:
    label, *corners = BOXES[path.stem]
    text(path, annotation(f"{path.stem}.jpg", [(NAMES[label], *corners)], (WIDTH, HEIGHT)))


def txt(path: Path) -> None:
    label, x1, y1, x2, y2 = BOXES[path.stem]
    cx, cy = (x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT
    text(path, f"{label} {cx:.6f} {cy:.6f} {(x2 - x1) / WIDTH:.6f} {(y2 - y1) / HEIGHT:.6f}\n")


def corners(path: Path) -> None:
    """The same box as its corners, the first one again at the end."""
    label, x1, y1, x2, y2 = BOXES[path.stem]
    points = ((x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1))
    text(path, f"{label} {' '.join(f'{x / WIDTH:.6f} {y / HEIGHT:.6f}' for x, y in points)}\n")


def coco(path: Path, stems: tuple[str, ...], *, root: bool = False) -> None:
    categories = [{"id": i + root, "name": name, "supercategory": "pets"} for i, name in enumerate(NAMES)]
    categories = [{"id": 0, "name": "pets", "supercategory": "none"}] * root + categories
    images = [{"id": i, "file_name": f"{s}.jpg", "width": WIDTH, "height": HEIGHT} for i, s in enumerate(stems)]
    rows = []
    for i, stem in enumerate(stems):
        label, x1, y1, x2, y2 = BOXES[stem]
        rows.append({"id": i, "image_id": i, "category_id": label + root, "bbox": [x1, y1, x2 - x1, y2 - y1]})
    text(path, json.dumps({"info": {}, "categories": categories, "images": images, "annotations": rows}))


def parts(folder: Path, images: str, labels: str, write: Callable[[Path], None], suffix: str, valid: str = "valid"):
    """Both parts, each in its folder; ``{}`` stands for the part's name."""
    for part, stems in (("train", TRAIN), (valid, VALID)):
        for stem in stems:
            image(folder / images.format(part) / f"{stem}.jpg")
            write(folder / labels.format(part) / f"{stem}{suffix}")


def together(folder: Path, images: str, labels: str, write: Callable[[Path], None], suffix: str) -> None:
    """Both parts in one folder, and lists of them."""
    for stem in TRAIN + VALID:
        image(folder / images / f"{stem}.jpg")
        write(folder / labels / f"{stem}{suffix}")
    for name, stems in (("train", TRAIN), ("val", VALID)):
        text(folder / f"{name}.txt", "".join(f"{images}/{stem}.jpg\n" for stem in stems))


def other_names_of_voc(folder: Path) -> None:
    together(folder, "photos", "annots", xml, ".xml")


def voc_in_labels(folder: Path) -> None:
    together(folder, "images", "labels", xml, ".xml")


def voc_parts(folder: Path) -> None:
    parts(folder, "JPEGImages/{}", "Annotations/{}", xml, ".xml", "val")


def roboflow_voc(folder: Path) -> None:
    parts(folder, "{}", "{}", xml, ".xml")


def ultralytics(folder: Path) -> None:
    parts(folder, "images/{}", "labels/{}", txt, ".txt", "val")
    text(folder / "pets.yaml", "path: .\ntrain: images/train\nval: images/val  # both\nnames:\n  0: cat\n  1: dog\n")


def ultralytics_lists(folder: Path) -> None:
    together(folder, "images", "labels", txt, ".txt")
    text(folder / "data.yaml", "train: train.txt\nval: [val.txt]\nnames: [cat, dog]\nnc: 2\ndownload: |\n  print(1)\n")


def roboflow_yolo(folder: Path) -> None:
    parts(folder, "{}/images", "{}/labels", txt, ".txt")
    text(
        folder / "data.yaml",
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\nnames: ['cat', 'dog']\n",
    )


def of_another_machine(folder: Path) -> None:
    parts(folder, "{}/images", "{}/labels", txt, ".txt")
    text(folder / "data.yaml", "train: /content/set/train/images\nval: C:\\set\\valid\\images\nnames: [cat, dog]\n")


def polygons(folder: Path) -> None:
    parts(folder, "{}/images", "{}/labels", corners, ".txt")
    text(folder / "data.yaml", "train: ../train/images\nval: ../valid/images\nnames: ['cat', 'dog']\n")


def cvat_lists(folder: Path) -> None:
    for part, stems in (("Train", TRAIN), ("Validation", VALID)):
        for stem in stems:
            image(folder / f"images/{part}/{stem}.jpg")
            txt(folder / f"labels/{part}/{stem}.txt")
        text(folder / f"{part}.txt", "".join(f"data/images/{part}/{stem}.jpg\n" for stem in stems))
    text(folder / "data.yaml", "Train: Train.txt\nValidation: Validation.txt\npath: .\nnames: {0: cat, 1: dog}\n")


def label_studio(folder: Path) -> None:
    together(folder, "images", "labels", txt, ".txt")
    text(folder / "classes.txt", "cat\ndog\n")
    text(folder / "notes.json", '{"categories": [{"id": 0, "name": "cat"}], "info": {"contributor": "Label Studio"}}')


def roboflow_darknet(folder: Path) -> None:
    parts(folder, "{}", "{}", txt, ".txt")
    for part in ("train", "valid"):
        text(folder / part / "_darknet.labels", "cat\ndog\n")


def cvat_yolo(folder: Path) -> None:
    together(folder, "obj_train_data", "obj_train_data", txt, ".txt")
    for name, stems in (("train", TRAIN), ("val", VALID)):
        text(folder / f"{name}.txt", "".join(f"data/obj_train_data/{stem}.jpg\n" for stem in stems))
    text(folder / "obj.names", "cat\ndog\n")
    text(folder / "obj.data", "classes = 2\ntrain = data/train.txt\nnames = data/obj.names\nbackup = backup/\n")


def coco_years(folder: Path) -> None:
    for part, stems in (("train2017", TRAIN), ("val2017", VALID)):
        coco(folder / f"annotations/instances_{part}.json", stems)
        text(folder / f"annotations/captions_{part}.json", '{"images": [], "annotations": []}')
        for stem in stems:
            image(folder / part / f"{stem}.jpg")


def roboflow_coco(folder: Path) -> None:
    for part, stems in (("train", TRAIN), ("valid", VALID)):
        coco(folder / part / "_annotations.coco.json", stems, root=True)
        for stem in stems:
            image(folder / part / f"{stem}.jpg")


def cvat_coco(folder: Path) -> None:
    for part, stems in (("train", TRAIN), ("val", VALID)):
        coco(folder / f"annotations/instances_{part}.json", stems)
        for stem in stems:
            image(folder / f"images/{part}/{stem}.jpg")


def cvat_coco_of_a_task_with_folders(folder: Path) -> None:
    for part, stems in (("train", TRAIN), ("val", VALID)):
        path = folder / f"annotations/instances_{part}.json"
        coco(path, stems)
        path.write_text(path.read_text().replace('"file_name": "', '"file_name": "camera/'))
        for stem in stems:
            image(folder / f"images/{part}/camera/{stem}.jpg")


def cvat_xml(folder: Path) -> None:
    rows = []
    for i, stem in enumerate(TRAIN + VALID):
        image(folder / f"images/{stem}.jpg")
        label, x1, y1, x2, y2 = BOXES[stem]
        box = f'<box label="{NAMES[label]}" xtl="{x1}" ytl="{y1}" xbr="{x2}" ybr="{y2}" occluded="0"/>'
        about = f'id="{i}" name="{stem}.jpg" subset="{"Train" if stem in TRAIN else "Validation"}"'
        rows.append(f'<image {about} width="{WIDTH}" height="{HEIGHT}">{box}<polygon points="1,2;3,4"/></image>')
    text(folder / "annotations.xml", f"<annotations><version>1.1</version>{''.join(rows)}</annotations>")


def roboflow_csv(folder: Path) -> None:
    for part, stems in (("train", TRAIN), ("valid", VALID)):
        rows = [f"{s}.jpg,{WIDTH},{HEIGHT},{NAMES[BOXES[s][0]]},{','.join(map(str, BOXES[s][1:]))}\n" for s in stems]
        text(folder / part / "_annotations.csv", "filename,width,height,class,xmin,ymin,xmax,ymax\n" + "".join(rows))
        for stem in stems:
            image(folder / part / f"{stem}.jpg")


WAYS = {
    other_names_of_voc: "Pascal VOC (annots/, photos/)",
    voc_in_labels: "Pascal VOC (labels/, images/)",
    voc_parts: "Pascal VOC (Annotations/train/, JPEGImages/train/, Annotations/val/, JPEGImages/val/)",
    roboflow_voc: "Pascal VOC (train/, valid/)",
    ultralytics: "YOLO (pets.yaml)",
    ultralytics_lists: "YOLO (data.yaml)",
    roboflow_yolo: "YOLO (data.yaml)",
    of_another_machine: "YOLO (data.yaml)",
    polygons: "YOLO (data.yaml)",
    cvat_lists: "YOLO (data.yaml)",
    label_studio: "YOLO (classes.txt)",
    roboflow_darknet: "YOLO (train/_darknet.labels)",
    cvat_yolo: "YOLO (obj.names)",
    coco_years: "COCO (annotations/instances_train2017.json, annotations/instances_val2017.json)",
    roboflow_coco: "COCO (train/_annotations.coco.json, valid/_annotations.coco.json)",
    cvat_coco: "COCO (annotations/instances_train.json, annotations/instances_val.json)",
    cvat_coco_of_a_task_with_folders: "COCO (annotations/instances_train.json, annotations/instances_val.json)",
    cvat_xml: "CVAT's xml",
    roboflow_csv: "Roboflow's tables (_annotations.csv)",
}


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path / "pets"


def seen(manifest: Manifest) -> dict[str, dict[str, list[float]]]:
    """Part -> image -> its class and box."""
    return {
        part: {
            path.stem: [round(float(v), 5) for v in read_labels(label_path(path, manifest.labels), 2)[0]]
            for path in read_list(place)
        }
        for part, place in (("train", manifest.train), ("valid", manifest.valid))
    }


def wanted() -> dict[str, dict[str, list[float]]]:
    def share(stem: str) -> list[float]:
        label, x1, y1, x2, y2 = BOXES[stem]
        half = [(x1 + x2) / 2 / WIDTH, (y1 + y2) / 2 / HEIGHT, (x2 - x1) / WIDTH, (y2 - y1) / HEIGHT]
        return [round(float(value), 5) for value in (label, *half)]

    return {"train": {stem: share(stem) for stem in TRAIN}, "valid": {stem: share(stem) for stem in VALID}}


@pytest.mark.parametrize("write", WAYS, ids=lambda way: way.__name__)
def test_a_folder_opens_as_it_is_and_says_in_one_line_what_it_is(place, caplog, write):
    write(place)
    before = {path: path.stat().st_mtime_ns for path in place.rglob("*")}
    caplog.set_level("INFO", "utils.detection.open_data")
    manifest = open_data(place)
    assert manifest.names == NAMES
    np.testing.assert_equal(seen(manifest), wanted())
    lines = [each.getMessage() for each in caplog.records if "recognised" in each.getMessage()]
    counts = "4 images to train on, 2 to validate on, 2 classes"
    assert lines == [f"{place}: recognised as {WAYS[write]}: {counts}"]
    assert {path: path.stat().st_mtime_ns for path in place.rglob("*")} == before
    assert open_data(place) == manifest


def test_a_yaml_may_be_named_itself(place):
    roboflow_yolo(place)
    assert open_data(place / "data.yaml").names == NAMES


def test_without_a_file_of_names_classes_are_numbers_and_that_is_told(place, caplog):
    caplog.set_level("INFO")
    parts(place, "images/{}", "labels/{}", txt, ".txt", "val")
    assert open_data(place).names == ("0", "1") and "no file of names: classes are numbers" in caplog.text


def test_a_turned_box_of_cvat_is_the_upright_one_round_it(place):
    cvat_xml(place)
    path = place / "annotations.xml"
    path.write_text(path.read_text().replace('occluded="0"', 'rotation="90"'))
    manifest = open_data(place)
    box = read_labels(label_path(read_list(manifest.train)[0], manifest.labels), 2)[0]
    _, x1, y1, x2, y2 = BOXES["a0"]
    np.testing.assert_allclose(box[1:], [0.45, 0.45, (y2 - y1) / WIDTH, (x2 - x1) / HEIGHT], atol=1e-5)


@pytest.mark.parametrize(
    ("row", "box"),
    [
        ("0 0.2 0.1 0.6 0.3 0.4 0.5", [0, 0.4, 0.3, 0.4, 0.4]),
        ("1 0.5 0.2 0.8 0.5 0.5 0.8 0.2 0.5", [1, 0.5, 0.5, 0.6, 0.6]),
    ],
)
def test_a_row_of_corners_is_the_upright_box_round_them_and_that_is_told(place, caplog, row, box):
    text(place / "labels/1.txt", f"{row}\n{row}\n")
    np.testing.assert_allclose(read_labels(place / "labels/1.txt", 2), [box] * 2, atol=1e-6)
    assert caplog.messages == [f"{place}/labels: holds polygons; the upright boxes round them count"]


@pytest.mark.parametrize("row", ["0 0.2 0.1 0.6 0.3 0.4", "0 0.2 0.1 0.6 0.3 0.4 0.5 0.7", "0 0.2 0.1 0.6 0.3 0.4 1.5"])
def test_a_row_of_other_numbers_is_none(place, row):
    text(place / "labels/1.txt", f"{row}\n")
    with pytest.raises(InputError, match=r"1\.txt:1: (.* is not 'class cx cy w h'|y = 1\.5 is outside 0\.\.1)"):
        read_labels(place / "labels/1.txt", 2)


def test_a_corrupt_image_of_a_converted_set_is_told_and_left_to_who_reads_it(place, caplog):
    """A set of label files is no other: there the loader passes it over, under one in a hundred."""
    for n, (write, photo) in enumerate({other_names_of_voc: "photos/a0.jpg", coco_years: "train2017/a0.jpg"}.items()):
        folder = place / str(n)
        write(folder)
        (folder / photo).write_bytes(b"<html>404</html>")
        manifest = open_data(folder)
        np.testing.assert_equal(seen(manifest), wanted())
        assert "1 images that can not be read (still listed)" in caplog.messages[-1]
    other_names_of_voc(place / "unsaid")
    (place / "unsaid/photos/a0.jpg").write_bytes(b"")
    path = place / "unsaid/annots/a0.xml"
    path.write_text(path.read_text().replace("<width>100</width>", ""))
    with pytest.raises(InputError, match=r"a0\.jpg: a corrupt image, its head can not be read"):
        open_data(place / "unsaid")


def spoil(path: str, old: str, new: str) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = (folder / path).read_text()
        assert old in content
        (folder / path).write_text(content.replace(old, new, 1))

    return apply


def nameless(folder: Path) -> None:
    for i, path in enumerate(sorted((folder / "annotations").iterdir())):
        path.rename(path.with_name(f"{i}.json"))


@pytest.mark.parametrize(
    ("write", "damage", "message"),
    [
        (ultralytics, spoil("pets.yaml", "train: images/train", "train: [a"), r"pets\.yaml: no valid yaml"),
        (ultralytics, spoil("pets.yaml", "images/train", "pictures"), r"pets\.yaml: pictures: no such folder or list"),
        (ultralytics, spoil("pets.yaml", "1: dog", "2: dog"), r"pets\.yaml: names: are numbered \[0, 2\]"),
        (roboflow_yolo, spoil("data.yaml", "nc: 2", "nc: 3"), r"data\.yaml: nc: 3, but names: has 2"),
        (roboflow_yolo, spoil("data.yaml", "train: ../train/images", "x: 1"), r"data\.yaml: no 'train:' in it"),
        (roboflow_yolo, spoil("data.yaml", "../valid", "../none"), r"images: no such folder.*; .* leave 'val:' away"),
        (roboflow_yolo, spoil("data.yaml", "nc: 2", "kpt_shape: [17, 3]"), r"its labels are key points .*; export the"),
        (roboflow_yolo, spoil("data.yaml", "'dog'", "no"), r"yaml takes yes, no, .* for no text; quote them"),
        (cvat_xml, spoil("annotations.xml", 'name="a0.jpg"', 'name="z.jpg"'), r"its image z\.jpg is not in .*images"),
        (cvat_xml, spoil("annotations.xml", "<version>", "<track/><version>"), "has the tracks of a video; export"),
        (cvat_xml, spoil("annotations.xml", 'xtl="20"', 'xtl="x"'), r"a0\.jpg: a box without four numbers"),
        (roboflow_csv, spoil("train/_annotations.csv", ",xmin", ",left"), r"no column xmin; a row is filename,width"),
        (roboflow_csv, spoil("train/_annotations.csv", "cat,20", "cat,x"), r"_annotations\.csv:2: xmin, ymin"),
        (cvat_coco, nameless, "2 json files, none of them called train .*; choose: python3 -m utils.data coco"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_it_is_one_line_with_its_place(place, write, damage, message):
    write(place)
    damage(place)
    with pytest.raises(InputError, match=message) as caught:
        open_data(place)
    assert "\n" not in str(caught.value)
