"""VOC's and COCO's folders of masks as they are published; COCO's drawing beside pycocotools'."""

from __future__ import annotations

import json
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from tests.conftest import ROOT
from utils.darknet.cfg import read_cfg
from utils.data.__main__ import main
from utils.detection.open_data import open_data as open_boxes
from utils.errors import InputError
from utils.segmentation.dataset import MaskDataset
from utils.segmentation.metrics import MaskAnswer, MaskAnswers, measure
from utils.segmentation.open_data import is_of_masks, mask_path, open_data, read_mask
from utils.segmentation.published_sets import CAMVID, VOC, mask_of
from utils.segmentation.results import save_results
from utils.task import Timing
from utils.tasks import task_of

SIDE = (40, 60)
RING = [10.0, 5.0, 50.0, 5.0, 50.0, 35.0, 10.0, 35.0]


def write_picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((*SIDE, 3), 90, np.uint8))
    return path


def coco_json(images, annotations):
    rows = [{"id": n, "file_name": name, "height": SIDE[0], "width": SIDE[1]} for n, name in enumerate(images)]
    categories = [{"id": 7, "name": "cat"}, {"id": 3, "name": "bus"}]
    return json.dumps({"images": rows, "annotations": annotations, "categories": categories})


def region(number, category, shape, area=100.0, crowd=0, image=0):
    return {"id": number, "image_id": image, "category_id": category, "segmentation": shape, "area": area,
            "iscrowd": crowd}  # fmt: skip


@pytest.fixture
def coco(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "coco"
    small = [region(1, 7, [[20, 10, 30, 10, 30, 20, 20, 20]], 100), region(0, 3, [RING], 1200)]
    crowd = {"size": [*SIDE], "counts": [40 * 58, 80]}
    for part, rows in (("train2017", [*small, region(2, 3, crowd, 80, crowd=1)]), ("val2017", small)):
        write_picture(folder / part / "0.jpg")
        write_picture(folder / part / "1.jpg")
        (folder / "annotations").mkdir(exist_ok=True)
        (folder / "annotations" / f"instances_{part}.json").write_text(coco_json(["0.jpg", "1.jpg"], rows))
    return folder


def test_a_folder_of_coco_is_drawn_once_with_what_is_no_object_as_a_class(coco, caplog):
    manifest = open_data(coco)
    assert manifest.names == ("background", "bus", "cat")
    mask = read_mask(mask_path(coco / "train2017/0.jpg", manifest))
    assert (mask[20, 15], mask[15, 25], mask[2, 2]) == (1, 2, 0), "the smaller object lies over the larger one"
    assert (mask[:, 58:] == 255).all(), "a crowd does not count"
    assert not read_mask(mask_path(coco / "val2017/1.jpg", manifest)).any(), "a picture without objects is background"
    assert len(MaskDataset(manifest.valid, manifest, (32, 32))) == 2
    assert open_data(coco) == manifest and caplog.text.count("drawn as PNG") == 1


@pytest.mark.parametrize("first", ["boxes", "masks"])
def test_boxes_and_masks_of_one_folder_of_coco_are_two_sets(coco, first, capsys):
    for part in ("train2017", "val2017"):
        rows = [region(1, 7, [RING]) | {"bbox": [10, 5, 40, 30]}]
        write_picture(coco / part / f"{part}.jpg")
        (coco / f"annotations/instances_{part}.json").write_text(coco_json([f"{part}.jpg"], rows))
    assert main(["check", str(coco), "--of", "masks"]) == 0 and "background" in capsys.readouterr().out
    assert main(["check", str(coco)]) == 0 and "boxes" in capsys.readouterr().out
    readers = {"boxes": open_boxes, "masks": open_data}
    for kind in (first, *readers):
        assert readers[kind](coco).names == (("background",) if kind == "masks" else ()) + ("bus", "cat")


def test_results_on_a_set_of_coco_have_its_numbers_and_pycocotools_measures_them(coco, tmp_path):
    api, run = pytest.importorskip("pycocotools.coco"), pytest.importorskip("pycocotools.cocoeval")
    manifest = open_data(coco)
    dataset = MaskDataset(manifest.valid, manifest, SIDE)
    found = [MaskAnswer.of(n, dataset[n].mask.numpy(), dataset[n].letterbox) for n in range(2)]
    metrics = measure(MaskAnswers(np.eye(3, dtype=np.int64), tuple(found)), manifest.names, timing=Timing(1, 1, 2))
    path = save_results(tmp_path / "masks.json", metrics, dataset.images, manifest)
    assert {(row["image_id"], row["category_id"]) for row in json.loads(path.read_text())} == {(0, 3), (0, 7)}
    content = json.loads((coco / "annotations/instances_val2017.json").read_text())
    for row in content["annotations"]:
        row["id"] += 1  # 0 stands for no match there
    (tmp_path / "truth.json").write_text(json.dumps(content))
    truth = api.COCO(str(tmp_path / "truth.json"))
    measured = run.COCOeval(truth, truth.loadRes(str(path)), "segm")
    measured.evaluate()
    measured.accumulate()
    measured.summarize()
    assert measured.stats[1] == pytest.approx(1.0), "AP at IoU .5 of the truth itself"


def test_outlines_and_runs_are_what_pycocotools_makes_of_them():
    masks, rng = pytest.importorskip("pycocotools.mask"), np.random.default_rng(0)
    for n in range(20):
        angle = np.sort(rng.uniform(0, 2 * np.pi, 9))
        outline = np.stack([30 + rng.uniform(8, 25) * np.cos(angle), 20 + rng.uniform(8, 18) * np.sin(angle)], 1)
        shape = [outline.ravel().tolist()]
        theirs = masks.decode(masks.merge(masks.frPyObjects(shape, *SIDE))).astype(bool)
        image = {"height": SIDE[0], "width": SIDE[1]}
        ours = mask_of(ROOT, image, [region(n, 3, shape)], {3: 1}) == 1
        assert (ours & theirs).sum() / (ours | theirs).sum() > 0.9
        assert ours[cv2.erode(theirs.astype(np.uint8), np.ones((3, 3))) == 1].all(), "they differ at the border alone"
        code = masks.encode(np.asfortranarray(theirs))
        runs = {"size": [*SIDE], "counts": code["counts"].decode()}
        assert np.array_equal(mask_of(ROOT, image, [region(n, 3, runs)], {3: 1}) == 1, theirs)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([region(4, 9, [RING])], "annotation 4: its category_id is not among the categories; add it"),
        ([region(5, 3, [[1, 2, 3]])], "annotation 5: its segmentation is no outline and no runs"),
        ([region(6, 3, {"size": [1, 1], "counts": [3]})], "annotation 6: its segmentation is no outline"),
        ([{"id": 1}], "no list 'annotations' whose rows have category_id, id, image_id, segmentation"),
    ],
)
def test_a_json_that_contradicts_itself_is_refused_and_nothing_is_left(coco, rows, message):
    (coco / "annotations/instances_val2017.json").write_text(coco_json(["0.jpg"], rows))
    with pytest.raises(InputError, match=message):
        open_data(coco)
    assert not [path for path in (coco.parent / "runs/data").iterdir() if path.name != ".lock"]


def test_camvid_as_segnets_authors_gave_it_out_is_the_set_of_the_same_images_and_masks(tmp_path, caplog):
    for part, masks in (("train", "trainannot"), ("val", "valannot"), ("test", "testannot")):
        for number in range(2):
            write_picture(tmp_path / f"camvid/{part}/{number}.png")
            write_picture(tmp_path / f"other/images/{part}/{number}.png")
            for mask in (f"camvid/{masks}/{number}.png", f"other/masks/{part}/{number}.png"):
                (tmp_path / mask).parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(np.full(SIDE, number + 9 * (part == "val"), np.uint8)).save(tmp_path / mask)
    (tmp_path / "other/names.txt").write_text("\n".join(CAMVID))
    assert is_of_masks(tmp_path / "camvid")
    caplog.set_level("INFO")
    one, other = open_data(tmp_path / "camvid"), open_data(tmp_path / "other")
    assert "camvid: no names.txt, so CamVid's names: sky, building, pole" in caplog.text
    assert one.names == other.names and len(one.names) == 11
    for mine, theirs in ((one.train, other.train), (one.valid, other.valid)):
        sets = [MaskDataset(part, manifest, SIDE) for part, manifest in ((mine, one), (theirs, other))]
        assert [each[i].mask.unique().tolist() for each in sets for i in range(2)] == 2 * [
            [9 * (mine == one.valid)],
            [1 + 9 * (mine == one.valid)],
        ]
    (tmp_path / "camvid/names.txt").write_text("a\nb\n")
    assert open_data(tmp_path / "camvid").names == ("a", "b")
    for part in ("val", "test"):
        shutil.rmtree(tmp_path / f"camvid/{part}annot")
    with pytest.raises(
        InputError, match="train/ and trainannot/, but no val/ and valannot/ beside them; part the images"
    ):
        open_data(tmp_path / "camvid")


def test_a_folder_of_voc_is_read_by_its_lists_and_has_21_classes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lists = tmp_path / "voc/ImageSets/Segmentation"
    lists.mkdir(parents=True)
    for stem in ("a", "b", "c", "unlabelled"):
        write_picture(tmp_path / f"voc/JPEGImages/{stem}.jpg")
    (tmp_path / "voc/SegmentationClass").mkdir()
    for number, stem in enumerate("abc"):
        picture = Image.fromarray(np.full(SIDE, number, np.uint8), mode="P")
        picture.putpalette([*range(256)] * 3)
        picture.save(tmp_path / f"voc/SegmentationClass/{stem}.png")
    (lists / "train.txt").write_text("a\nc\n")
    (lists / "val.txt").write_text("b\n")
    manifest = open_data(tmp_path / "voc")
    assert manifest.names == ("background", *VOC) and manifest.classes == 21
    task_of(spec := read_cfg(ROOT / "cfg/masks/deeplabv1-vgg9.cfg")).check_classes(spec, manifest, "deeplab")
    train, valid = (MaskDataset(part, manifest, SIDE) for part in (manifest.train, manifest.valid))
    assert [int(train[i].mask.unique()) for i in range(2)] == [0, 2] and int(valid[0].mask.unique()) == 1
    (lists / "val.txt").write_text("b\nd\n")
    with pytest.raises(InputError, match=r"val\.txt: d is not in .*JPEGImages; add it, or take it from the list"):
        open_data(tmp_path / "voc")
