"""Classes and images under the numbers of whoever made the set; a class is never measured under another's name."""

from __future__ import annotations

import contextlib
import io
import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from models import Darknet
from pipeline.session import open_session
from tests.data.conftest import write_set
from tests.detection.test_coco import content, oracle, write
from tests.scenes import write_scenes
from utils.config.measure import TestConfig as MeasureConfig
from utils.darknet.cfg import read_cfg
from utils.darknet.network import Checkpoint, Network, save_checkpoint
from utils.data.manifest import in_order, read_list
from utils.data.source_ids import IDS
from utils.detection.coco import convert
from utils.detection.dataset import DetectionDataset
from utils.detection.evaluate import DetectionMetrics, Detections, Timing, measure
from utils.detection.open_data import read_manifest
from utils.detection.results import save_results
from utils.detection.task import DetectionTask
from utils.errors import InputError

TASK = DetectionTask()


def perfect(dataset: DetectionDataset, names: tuple[str, ...]) -> DetectionMetrics:
    """Metrics of a detector that finds what is there, letterboxed as evaluation has it."""
    found = []
    for index in range(len(dataset)):
        sample = dataset[index]
        label, cx, cy, w, h = sample.boxes.T
        size = torch.tensor([dataset.size[1], dataset.size[0]] * 2)
        corners = torch.stack([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 1) * size
        boxes = torch.cat([corners, torch.full((len(corners), 1), 0.9), label[:, None]], 1)
        found.append(Detections(index, boxes, torch.cat([label[:, None], corners], 1), sample.letterbox))
    return measure(found, names, timing=Timing(1, 1, 2))


def ap(truth: COCO, results: Path) -> float:
    """AP at IoU .5 as pycocotools has it."""
    ids = sorted({row["image_id"] for row in json.loads(results.read_text())})
    with contextlib.redirect_stdout(io.StringIO()):
        run = COCOeval(truth, truth.loadRes(str(results)), "bbox")
        run.params.imgIds = ids
        run.evaluate()
        run.accumulate()
        run.summarize()
    return float(run.stats[1])


def test_results_have_the_ids_of_the_json_that_the_set_was_made_of(tmp_path):
    path = write(tmp_path, content(12))  # ids 500, 499 …; categories 3, 18, 90
    convert([path], [tmp_path / "pictures"], tmp_path / "out", valid=0.4, seed=4)
    manifest = read_manifest(tmp_path / "out.data")
    dataset = DetectionDataset(manifest.valid, manifest, (128, 128), cache="off")
    found = perfect(dataset, manifest.names)
    results = TASK.results_json(tmp_path / "r.json", found, dataset.images, manifest)
    rows = json.loads(results.read_text())
    assert {row["category_id"] for row in rows} == {3, 18, 90} and min(row["image_id"] for row in rows) > 480
    assert ap(oracle(path), results) == pytest.approx(1.0)
    without = TASK.results_json(tmp_path / "n.json", found, dataset.images)
    assert {row["category_id"] for row in json.loads(without.read_text())} == {0, 1, 2}


def test_ids_follow_the_names_where_classes_were_chosen_or_reordered(tmp_path):
    path = write(tmp_path, content(12))
    convert([path], [tmp_path / "pictures"], tmp_path / "out", classes=["toothbrush", "car"])
    manifest = read_manifest(tmp_path / "out.data")
    dataset = DetectionDataset(manifest.train, manifest, (128, 128), cache="off")
    results = save_results(tmp_path / "r.json", perfect(dataset, manifest.names), dataset.images, manifest)
    assert {row["category_id"] for row in json.loads(results.read_text())} == {90, 3}
    assert json.loads((tmp_path / "out" / IDS).read_text())["categories"] == {"car": 3, "dog": 18, "toothbrush": 90}


@pytest.mark.parametrize("text", ["{", "[]", '{"categories": {}, "images": {}}', "null"])
def test_damaged_file_of_ids_is_one_line(tmp_path, text):
    path = write(tmp_path, content(6))
    convert([path], [tmp_path / "pictures"], tmp_path / "out")
    manifest = read_manifest(tmp_path / "out.data")
    (tmp_path / "out" / IDS).write_text(text)
    dataset = DetectionDataset(manifest.valid, manifest, (64, 64), cache="off")
    with pytest.raises(InputError, match=r"coco_ids\.json: no ids for this set .*; delete it, or convert") as caught:
        save_results(tmp_path / "r.json", perfect(dataset, manifest.names), dataset.images, manifest)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["001.jpg", "1.jpg", "7.jpg"], ["001", "1", "7"]),
        (["001.jpg", "2.jpg", "x.jpg"], [1, 2, "x"]),
        (["a/1.jpg", "b/1.jpg"], ["a/1.jpg", "b/1.jpg"]),
        (["²³.jpg", "3.jpg"], ["²³", 3]),
    ],
)
def test_no_two_images_have_one_id(tmp_path, names, ids):
    boxes = torch.tensor([[1.0, 2.0, 3.0, 4.0, 0.5, 0.0]])
    truth = torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0]])
    found = measure([Detections(i, boxes, truth, None) for i in range(len(names))], ["a"], timing=Timing(1, 1, 2))
    rows = json.loads(save_results(tmp_path / "r.json", found, [Path(name) for name in names]).read_text())
    assert [row["image_id"] for row in rows] == ids


def test_classes_in_another_order_are_mapped_by_name_and_measured_alike(tmp_path, caplog):
    manifest = write_set(tmp_path / "set")
    with caplog.at_level(logging.WARNING):
        mapped = in_order(manifest, ("dog", "cat"), "w.pt")
    assert "in another order than those of w.pt; mapped by name" in caplog.text
    assert mapped.names == ("dog", "cat") and mapped.numbers == (1, 0)
    plain, swapped = (DetectionDataset(m.train, m, (64, 64), cache="off") for m in (manifest, mapped))
    for a, b in zip(plain.boxes, swapped.boxes, strict=True):
        np.testing.assert_array_equal(1 - a[:, 0], b[:, 0])
        np.testing.assert_array_equal(a[:, 1:], b[:, 1:])
        assert manifest.names[int(a[0, 0])] == mapped.names[int(b[0, 0])]


def test_classes_of_the_same_names_stay_as_they_are(tmp_path, caplog):
    manifest = write_set(tmp_path / "set")
    with caplog.at_level(logging.WARNING):
        assert in_order(manifest, ("cat", "dog"), "w.pt") is manifest
        assert in_order(manifest, ("Cat", "DOG"), "w.pt") is manifest
    assert not caplog.text


@pytest.mark.parametrize("names", [("cat", "horse"), ("horse", "cow")])
def test_other_names_are_refused_and_never_measured_under_them(tmp_path, names):
    manifest = write_set(tmp_path / "set")
    with pytest.raises(
        InputError, match=rf"w\.pt: knows {', '.join(names)}, .*set\.data has '(cat|dog)'; call"
    ) as caught:
        in_order(manifest, names, "w.pt")
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="has 'same'"):
        in_order(replace(manifest, names=("same", "same")), ("same", "other"), "w.pt")


def test_two_json_of_a_set_each_keep_their_images_ids(tmp_path):
    values = content(5)
    train = write(tmp_path, values | {"images": values["images"][:3], "annotations": []}, "a.json")
    rest = [row for row in values["annotations"] if row["image_id"] <= 497]
    val = write(tmp_path, values | {"images": values["images"][3:], "annotations": rest}, "b.json")
    convert([train, val], [tmp_path / "pictures"], tmp_path / "out")
    ids = json.loads((tmp_path / "out" / IDS).read_text())["images"]
    manifest = read_manifest(tmp_path / "out.data")
    assert [ids[p.stem] for p in read_list(manifest.valid)] == [497, 496] and len(ids) == 5


def test_network_is_measured_alike_on_data_in_another_order_and_not_at_all_on_other_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = write_scenes(tmp_path)
    torch.manual_seed(0)
    spec, names = read_cfg(Path("net.cfg")), read_manifest(data).names
    save_checkpoint(Path("w.pt"), Checkpoint(Network(spec, Darknet(spec).state_dict()), names))
    config = MeasureConfig(data="set.data", weights="w.pt", device="cpu", workers=0)
    session = open_session(config)
    before = session.score(session.loaded.predictor)
    Path("set.names").write_text("".join(f"{name}\n" for name in names[::-1]))
    for path in Path("labels").rglob("*.txt"):
        path.write_text("".join(f"{1 - int(row[0])}{row[1:]}\n" for row in path.read_text().splitlines()))
    session = open_session(config)
    after = session.score(session.loaded.predictor)
    assert session.manifest.names == names and after.record() == before.record()
    for a, b in zip(after.detections, before.detections, strict=True):
        assert torch.equal(a.truth, b.truth) and torch.equal(a.boxes, b.boxes)
    (tmp_path / "set.names").write_text("red\ngreen\n")
    with pytest.raises(InputError, match=r"w\.pt: knows .*, .*set\.data has 'red'; call the classes alike"):
        open_session(config)
