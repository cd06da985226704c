"""Annotations as other programs leave them: no box ever lands on another image, in another unit or another turn."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.detection.test_coco import content, write
from tests.detection.test_voc import annotation, labels, voc
from utils.data.images import read_image
from utils.data.manifest import read_list
from utils.detection import coco
from utils.detection.box_units import turned_box
from utils.detection.dataset import DetectionDataset
from utils.detection.label_writer import NOTES
from utils.detection.labels import label_path
from utils.detection.open_data import read_manifest
from utils.detection.voc import convert
from utils.errors import InputError

__all__ = ["voc"]


def notes(out: Path) -> list[str]:
    return (out / NOTES).read_text().splitlines()


def test_renamed_file_keeps_its_own_boxes_whatever_its_filename_says(voc, tmp_path):
    """0 and 1 changed names; what is written inside did not change with them."""
    (voc / "Annotations/0.xml").write_text(annotation("1.jpg", [("dog", 0, 0, 50, 30)]))
    (voc / "Annotations/1.xml").write_text(annotation("0.jpg", [("cat", 50, 30, 100, 60)]))
    found = convert(voc, tmp_path / "out")
    assert labels(tmp_path / "out", "0") == [[1, 0.25, 0.25, 0.5, 0.5]]
    assert labels(tmp_path / "out", "1") == [[0, 0.75, 0.75, 0.5, 0.5]]
    assert found.renamed == 2 and "2 annotations that name another image" in str(found)
    assert any("0.xml: names the image 1.jpg, and is taken as of 0.jpg" in note for note in notes(tmp_path / "out"))


def test_annotation_without_an_image_of_its_name_is_of_the_one_it_says_and_of_two_none_is_guessed(voc, tmp_path):
    (voc / "JPEGImages/3.jpg").rename(voc / "JPEGImages/street.jpg")
    (voc / "Annotations/3.xml").write_text(annotation(r"C:\photos\street.jpg", [("dog", 0, 0, 50, 30)]))
    convert(voc, tmp_path / "out")
    assert labels(tmp_path / "out", "street") == [[1, 0.25, 0.25, 0.5, 0.5]]
    (voc / "JPEGImages/4.png").write_bytes((voc / "JPEGImages/4.jpg").read_bytes())
    (voc / "Annotations/4.xml").write_text(annotation("", [("dog", 0, 0, 50, 30)]))
    with pytest.raises(InputError, match=r"4\.xml: 4\.jpg and 4\.png may both be its image; say which in <filename>"):
        convert(voc, tmp_path / "other")
    (voc / "Annotations/4.xml").write_text(annotation("4.png", [("dog", 0, 0, 50, 30)]))
    convert(voc, tmp_path / "other")
    assert "4.png" in (tmp_path / "other/train.txt").read_text() + (tmp_path / "other/val.txt").read_text()


def test_two_annotations_of_one_image_are_refused(voc, tmp_path):
    (voc / "Annotations/copy.xml").write_text(annotation("3.jpg", [("dog", 0, 0, 50, 30)]))
    with pytest.raises(InputError, match=r"3\.jpg: two annotations are of it; take one"):
        convert(voc, tmp_path / "out")


@pytest.mark.parametrize("said", [(100, 60), (0, 0)])
def test_boxes_in_0_to_1_are_shares_of_the_image(voc, tmp_path, said):
    (voc / "Annotations/0.xml").write_text(annotation("0.jpg", [("dog", 0.2, 0.2, 0.7, 0.7)], said))
    (voc / "Annotations/1.xml").write_text(annotation("1.jpg", [("dog", 0.9, 0.5, 1.1, 1.0)], said))  # over the edge
    (voc / "Annotations/2.xml").write_text(annotation("2.jpg", [("dog", 1, 1, 2, 2)], said))  # one pixel
    found = convert(voc, tmp_path / "out")
    np.testing.assert_allclose(labels(tmp_path / "out", "0"), [[1, 0.45, 0.45, 0.5, 0.5]])
    np.testing.assert_allclose(labels(tmp_path / "out", "1"), [[1, 0.95, 0.75, 0.1, 0.5]])
    np.testing.assert_allclose(labels(tmp_path / "out", "2"), [[1, 0.015, 0.025, 0.01, 1 / 60]], atol=1e-6)
    assert found.shares == 2 and "2 images with boxes in 0..1, taken as shares" in str(found)
    assert [note.partition(":")[0].rpartition("/")[2] for note in notes(tmp_path / "out")] == ["0.xml", "1.xml"]


def test_json_with_boxes_in_0_to_1_is_read_as_shares(tmp_path):
    values = content(3)
    for row in values["annotations"]:
        x, y, w, h = row["bbox"]
        row["bbox"] = [x / 100, y / 60, w / 100, h / 60]
    found = coco.convert([write(tmp_path, values)], [tmp_path / "pictures"], tmp_path / "shares")
    coco.convert([write(tmp_path / "px", content(3))], [tmp_path / "px/pictures"], tmp_path / "pixels")
    for stem in "012":
        np.testing.assert_allclose(labels(tmp_path / "shares", stem), labels(tmp_path / "pixels", stem), atol=2e-6)
    assert found.shares == 3


def test_namespace_is_no_part_of_a_tag(voc, tmp_path):
    text = annotation("0.jpg", [("dog", 20, 12, 70, 42)])
    (voc / "Annotations/0.xml").write_text(text.replace("<annotation>", '<annotation xmlns="http://a.b/voc">'))
    prefixed = text.replace("<", "<v:").replace("<v:/", "</v:").replace("<v:annotation>", '<v:annotation xmlns:v="u">')
    (voc / "Annotations/1.xml").write_text(prefixed.replace("0.jpg", "1.jpg"))
    convert(voc, tmp_path / "out")
    for stem in "01":
        np.testing.assert_allclose(labels(tmp_path / "out", stem), [[1, 0.45, 0.45, 0.5, 0.5]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotations><image name='3.jpg'><box xtl='1'/></image></annotations>", "<annotations> with <image> is"),
        ("<annotation><shapes><shape/></shapes></annotation>", "<annotation> with <shapes> is another tool's xml"),
        ("<project><modules/></project>", "<project> with <modules> is another tool's xml; export the set as Pascal"),
        ("<annotation><object><name>a</name><polygon/></object></annotation>", r"\(a\) without a <bndbox> of four"),
        (annotation("3.jpg", [("", 1, 2, 3, 4)]), "3.xml: an object without a name; repair it"),
        (annotation("3.jpg", [("a", "nan", 2, 3, 4)]), r"3.xml: an object \(a\) without a <bndbox> of four numbers"),
        (annotation("3" * 300 + ".jpg", [("a", 1, 2, 3, 4)]), "3.xml: '3{40}' … is no path"),
        (annotation("3.jpg", [("a", 1, 2, 3, 4)], ("inf", 3)), "3.xml: its <size> is no number of pixels"),
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', "3.xml: no known encoding 'klingon'"),
    ],
)
def test_xml_of_another_tool_is_refused_by_name_and_never_an_image_without_objects(voc, tmp_path, text, message):
    (voc / "Annotations/3.xml").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        convert(voc, tmp_path / "out")
    assert "\n" not in str(caught.value) and "3.xml" in str(caught.value)


def test_voc_annotation_without_objects_is_an_image_without_boxes(voc, tmp_path):
    (voc / "Annotations/3.xml").write_text(annotation("3.jpg", []))
    convert(voc, tmp_path / "out")
    assert labels(tmp_path / "out", "3") == []


@pytest.mark.parametrize(
    ("encoding", "said", "mark"),
    [
        ("gb2312", "GB2312", b""),
        ("gb18030", "gbk", b""),
        ("big5", "Big5", b""),
        ("shift_jis", "Shift_JIS", b""),
        ("utf-8", "utf-16", b""),  # as a string stream of .NET declares it
        ("utf-8", "UTF-8", b"\xef\xbb\xbf"),
        ("utf-16-le", "UTF-16", b"\xff\xfe"),
    ],
)
def test_xml_is_read_in_the_encoding_that_it_says(voc, tmp_path, encoding, said, mark):
    text = f'<?xml version="1.0" encoding="{said}"?>\n' + annotation("0.jpg", [("犬", 20, 12, 70, 42)])
    (voc / "Annotations/0.xml").write_bytes(mark + text.encode(encoding))
    convert(voc, tmp_path / "out")
    assert (tmp_path / "out.names").read_text(encoding="utf-8").split() == ["cat", "dog", "犬"]
    assert labels(tmp_path / "out", "0") == [[2, 0.45, 0.45, 0.5, 0.5]]


def test_xml_in_an_encoding_it_does_not_say_is_refused_only_where_a_class_is_lost(voc, tmp_path):
    harmless = annotation("0.jpg", [("dog", 20, 12, 70, 42)]).replace("<size>", "<path>照片/0.jpg</path><size>")
    (voc / "Annotations/0.xml").write_bytes(harmless.encode("gb2312"))
    convert(voc, tmp_path / "out")
    assert labels(tmp_path / "out", "0") == [[1, 0.45, 0.45, 0.5, 0.5]]
    (voc / "Annotations/0.xml").write_bytes(annotation("0.jpg", [("浣熊", 20, 12, 70, 42)]).encode("gb2312"))
    with pytest.raises(InputError, match=r"0\.xml: an object's name '.*' is in another encoding than it says"):
        convert(voc, tmp_path / "other")


def turned_image(path: Path, turn: int) -> None:
    """100 x 60 px stored, a bright rectangle from (20, 12) to (70, 42), shown as EXIF says."""
    image, exif = np.full((60, 100, 3), 60, np.uint8), Image.Exif()
    image[12:42, 20:70] = 250
    exif[0x112] = turn
    Image.fromarray(image).save(path, exif=exif, quality=100)


def bright(path: Path) -> list[float]:
    """cx, cy, w, h of the bright rectangle in the picture as it is read, 0..1."""
    image = read_image(path)
    ys, xs = np.nonzero(image[..., 0] > 150)
    (height, width), x, y = image.shape[:2], (xs.min(), xs.max() + 1), (ys.min(), ys.max() + 1)
    return [sum(x) / 2 / width, sum(y) / 2 / height, (x[1] - x[0]) / width, (y[1] - y[0]) / height]


@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("turn", range(5, 9))
def test_boxes_of_unturned_pixels_are_turned_with_the_photograph(voc, tmp_path, turn, shares):
    turned_image(voc / "JPEGImages/0.jpg", turn)
    box = (0.2, 0.2, 0.7, 0.7) if shares else (20, 12, 70, 42)
    (voc / "Annotations/0.xml").write_text(annotation("0.jpg", [("dog", *box)], (100, 60)))
    found = convert(voc, tmp_path / "out")
    np.testing.assert_allclose(labels(tmp_path / "out", "0"), [[1, *bright(voc / "JPEGImages/0.jpg")]], atol=0.02)
    assert found.turned == 1 and found.resized == 0 and "1 images turned by EXIF, their boxes with them" in str(found)
    assert f"EXIF turns 0.jpg (orientation {turn}); its boxes are turned" in notes(tmp_path / "out")[-1]


def test_boxes_of_the_photograph_as_shown_stay(voc, tmp_path):
    turned_image(voc / "JPEGImages/0.jpg", 6)  # shown: 60 x 100 px, the rectangle from (18, 20) to (48, 70)
    (voc / "Annotations/0.xml").write_text(annotation("0.jpg", [("dog", 18, 20, 48, 70)], (60, 100)))
    found = convert(voc, tmp_path / "out")
    np.testing.assert_allclose(labels(tmp_path / "out", "0"), [[1, *bright(voc / "JPEGImages/0.jpg")]], atol=0.02)
    assert found.as_shown == 1 and "1 images turned by EXIF, their boxes as they are" in str(found)


@pytest.mark.parametrize(("turn", "said"), [(3, (100, 60)), (6, (0, 0))])
def test_turn_that_no_size_decides_is_told(voc, tmp_path, turn, said):
    turned_image(voc / "JPEGImages/0.jpg", turn)
    (voc / "Annotations/0.xml").write_text(annotation("0.jpg", [("dog", 20, 12, 50, 42)], said))
    found = convert(voc, tmp_path / "out")
    assert found.unsure == 1 and "whose annotation does not say which way" in str(found)
    assert "0.jpg" in notes(tmp_path / "out")[-1]


def test_json_boxes_of_unturned_pixels_are_turned_too(tmp_path):
    values = content(2)
    values["annotations"] = [{"id": 1, "image_id": 500, "category_id": 3, "bbox": [20, 12, 50, 30]}]
    values["images"][0]["file_name"] = "0.jpg"
    path = write(tmp_path, values)
    turned_image(tmp_path / "pictures/0.jpg", 8)
    found = coco.convert([path], [tmp_path / "pictures"], tmp_path / "out")
    np.testing.assert_allclose(labels(tmp_path / "out", "0"), [[0, *bright(tmp_path / "pictures/0.jpg")]], atol=0.02)
    assert found.turned == 1


@pytest.mark.parametrize("turn", range(1, 9))
def test_turned_box_is_round_the_turned_pixels(tmp_path, turn):
    turned_image(tmp_path / "a.jpg", turn)
    x1, y1, x2, y2 = turned_box((0.2, 0.2, 0.7, 0.7), turn)
    box = [(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1]
    np.testing.assert_allclose(box, bright(tmp_path / "a.jpg"), atol=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v["images"][0].update(id=[1]), r"one of 'images' has the id \[1\]; number them"),
        (lambda v: v["annotations"][1].update(image_id={}), "annotation 2: is of no image in the file"),
        (lambda v: v["annotations"][1].update(category_id=[3]), r"annotation 2: category_id \[3\] is not among"),
        (lambda v: v["annotations"][1].update(bbox=[1, 2, 10**400, 4]), "annotation 2: bbox .* is not four numbers"),
        (lambda v: v["images"][0].update(height="tall"), "image 500: its height and width are no numbers"),
        (lambda v: v["images"][0].update(file_name="x" * 300), "instances.json: 'x{40}' … is no path"),
        (lambda v: v["categories"][0].update(name=" "), "a category without a name; give it one"),
    ],
)
def test_json_of_wrong_types_is_one_line(tmp_path, change, message):
    values = content()
    change(values)
    write(tmp_path, content())
    (tmp_path / "instances.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=message) as caught:
        coco.convert([tmp_path / "instances.json"], [tmp_path / "pictures"], tmp_path / "out")
    assert "\n" not in str(caught.value)


def test_deeply_nested_json_is_one_line(tmp_path):
    path = write(tmp_path, content())
    path.write_text("[" * 100_000)
    with pytest.raises(InputError, match="no valid json"):
        coco.convert([path], [tmp_path / "pictures"], tmp_path / "out")


def test_json_with_a_byte_order_mark_is_read(tmp_path):
    path = write(tmp_path, content())
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(content()).encode())
    assert coco.convert([path], [tmp_path / "pictures"], tmp_path / "out").images == 6


def test_labels_beside_the_images_are_found_and_those_in_the_folder_labels_come_first(tiny):
    folder = tiny.path.parent
    for i in range(6):
        (folder / f"labels/{i}.txt").rename(folder / f"images/{i}.txt")
    assert label_path(folder / "images/2.png") == folder / "images/2.txt"
    dataset = DetectionDataset(tiny.train, tiny, (64, 64), cache="off")
    assert dataset.missing == 0 and sum(map(len, dataset.boxes)) == 6
    (folder / "labels/2.txt").write_text("")
    assert label_path(folder / "images/2.png") == folder / "labels/2.txt"


@pytest.mark.parametrize("where", ["", "images"])
def test_xml_beside_the_images_is_a_set(tmp_path, monkeypatch, where):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "set" / where
    folder.mkdir(parents=True)
    for i in range(5):
        cv2.imwrite(str(folder / f"{i}.jpg"), np.full((60, 100, 3), 40 * i, np.uint8))
        (folder / f"{i}.xml").write_text(annotation(f"{i}.jpg", [("dog", 20, 12, 70, 42)]))
    manifest = read_manifest(tmp_path / "set")
    assert manifest.names == ("dog",) and len(read_list(manifest.train)) == 4
    np.testing.assert_allclose(labels(tmp_path / "runs/data/set", "3"), [[0, 0.45, 0.45, 0.5, 0.5]])
