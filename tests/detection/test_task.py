"""The task of boxes computes what its parts compute, and says what it said."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import torch

from tests.data.conftest import write_set
from tests.detection.helpers import ANCHORS
from utils.darknet.cfg import parse_cfg
from utils.data.loader import make_loader
from utils.data.transforms import fit
from utils.detection.decode import decode
from utils.detection.evaluate import evaluate
from utils.detection.loss import YoloLoss, prior_biases
from utils.detection.nms import non_max_suppression
from utils.detection.task import DetectionTask, heads_of
from utils.errors import InputError
from utils.thresholds import Thresholds

TASK = DetectionTask()
PAIRS = ", ".join(f"{w:g},{h:g}" for w, h in ANCHORS[:2])
CFG = (
    "[net]\nwidth=64\nheight=64\nchannels=3\n[convolutional]\nfilters=4\nsize=3\nstride=8\npad=1\nactivation=relu\n"
    "[convolutional]\nfilters=14\nsize=1\nactivation=linear\n"
    f"[yolo]\nmask=0,1\nanchors={PAIRS}\nclasses=2\nnum=2\n"
)
SPEC = parse_cfg(CFG)
SIZE = (64, 64)


def network(images: torch.Tensor) -> list[torch.Tensor]:
    """Raw maps [N, 14, 8, 8] that depend on the images alone."""
    seed = torch.Generator().manual_seed(int(images.double().sum().item() * 1e3) % 2**31)
    return [torch.randn(len(images), 14, 8, 8, generator=seed) * 2]


@pytest.fixture
def loader(tmp_path):
    manifest = write_set(tmp_path / "set", count=9)
    return make_loader(TASK.dataset(manifest, manifest.valid, SIZE), 4, workers=0)


NAMES = ("cat", "dog")


def test_evaluate_is_evaluate_with_the_thresholds_given(loader):
    for given, options in ((None, {}), (Thresholds(confidence=0.3, overlap=0.2), {"conf": 0.3, "iou": 0.2})):
        found = TASK.evaluate(network, loader, SPEC, NAMES, thresholds=given, progress=False)
        expected = evaluate(network, loader, heads_of(SPEC), NAMES, progress=False, **options)
        assert found.record() == expected.record()
        assert set(found.record()) == {column.name for column in TASK.columns} >= {TASK.primary, TASK.headline}
        for a, b in zip(found.detections, expected.detections, strict=True):
            assert a.index == b.index and torch.equal(a.boxes, b.boxes) and torch.equal(a.truth, b.truth)


def test_metrics_merged_from_several_processes_are_those_of_one(tmp_path):
    manifest = write_set(tmp_path / "set", count=9)
    dataset = TASK.dataset(manifest, manifest.valid, SIZE)

    def images_alone(images):  # an image's maps do not depend on its batch
        return [torch.cat([network(image[None])[0] for image in images])]

    def of(k: int, n: int):
        part = make_loader(dataset, 4, workers=0, share=(k, n))
        return TASK.evaluate(images_alone, part, SPEC, NAMES, progress=False)

    whole, first, second = of(0, 1), of(0, 2), of(1, 2)
    merged = TASK.merged(first, NAMES, lambda own: [*own, *second.detections])
    assert merged.record() == whole.record() and merged.timing == first.timing
    assert [each.index for each in merged.detections] == list(range(9))
    assert (merged.confusion == whole.confusion).all()


def test_inputs_in_training_are_those_of_evaluation_to_the_bit(loader):
    batch = next(iter(loader))
    seen = []
    evaluate(lambda images: seen.append(images) or network(images), [batch], heads_of(SPEC), NAMES, progress=False)
    inputs = TASK.inputs(batch, torch.device("cpu"))
    assert torch.equal(inputs, seen[0]) and inputs.dtype == torch.float32
    assert inputs.is_contiguous(memory_format=torch.channels_last) and batch.images.dtype == torch.uint8


def test_loss_is_the_yolo_loss_of_all_heads_by_the_names_that_it_tells(loader):
    batch = next(iter(loader))
    raw = network(batch.images.float())
    terms = TASK.loss(SPEC)(raw, batch)
    expected = YoloLoss(heads_of(SPEC))(raw, batch.targets, SIZE).terms()
    assert tuple(terms) == TASK.losses and all(torch.equal(terms[name], expected[name]) for name in terms)


def test_answers_are_in_px_of_each_picture_and_in_every_form():
    boxes = [fit((120, 200), SIZE), fit((64, 64), SIZE)]
    raw = network(torch.rand(2, 3, *SIZE))
    least = Thresholds(confidence=0.3, overlap=0.5, classes=(1,))
    answers = TASK.postprocess(raw, SPEC, boxes, least)
    found = non_max_suppression(decode(raw, heads_of(SPEC), SIZE), conf=0.3, iou=0.5, classes=(1,))
    for answer, inside, box in zip(answers, found, boxes, strict=True):
        assert len(inside) and answer.labels() == [1] * len(inside)
        np.testing.assert_array_equal(answer.boxes[:, :4].numpy(), box.to_original(inside[:, :4].numpy()))
        row, words = answer.rows(NAMES)[0], answer.text(*box.original).splitlines()[0].split()
        x, y, w, h = row["bbox"]
        assert list(row) == ["category_id", "name", "bbox", "score"] and row["name"] == "dog"
        shares = [
            (x + w / 2) / box.original[1],
            (y + h / 2) / box.original[0],
            w / box.original[1],
            h / box.original[0],
        ]
        np.testing.assert_allclose([float(word) for word in words[1:5]], shares, atol=1e-3)
        assert words[0] == "1" and float(words[5]) == pytest.approx(row["score"], abs=1e-5)
        for channels in (1, 3):
            picture = np.full((*box.original, channels), 90, np.uint8)
            drawn = answer.draw(picture, NAMES)
            assert drawn.shape[2] == 3 and (drawn != 90).any() and (picture == 90).all()


def test_golden_boxes_are_those_that_the_maps_mean():
    raw = network(torch.rand(3, 3, *SIZE))
    golden = TASK.golden(raw, SPEC, SIZE, NAMES)
    found = non_max_suppression(decode(raw, heads_of(SPEC), SIZE), conf=0.25, iou=0.45)
    assert golden.name == "boxes.json" and len(golden.contents) == 3
    for content, boxes in zip(golden.contents, found, strict=True):
        assert json.loads(json.dumps(content)) == content and (content["confidence"], content["iou"]) == (0.25, 0.45)
        assert [row["xyxy"] for row in content["boxes"]] == boxes[:, :4].tolist()
        assert [row["name"] for row in content["boxes"]] == [NAMES[int(label)] for label in boxes[:, 5]]


def test_distance_is_zero_to_itself_and_grows_with_what_is_moved():
    raw = network(torch.rand(2, 3, *SIZE))
    far = TASK.distance(SPEC, SIZE, raw)
    moved = [far([raw[0] + step * torch.ones_like(raw[0])]) for step in (0.0, 0.1, 0.5)]
    assert moved[0] == pytest.approx(0, abs=1e-9) and moved[0] < moved[1] < moved[2]


def test_fresh_heads_are_for_the_datas_classes_and_start_at_their_priors(tmp_path):
    manifest = write_set(tmp_path / "set")
    other = parse_cfg(CFG.replace("filters=14", "filters=20").replace("classes=2", "classes=5"))
    assert TASK.adapt(SPEC, manifest, "a.cfg", fresh=False) == SPEC and (TASK.classes(other), TASK.classes(SPEC)) == (
        5,
        2,
    )
    with pytest.raises(
        InputError, match=r"a\.cfg: heads for 5 classes, set\.data has 2; add -pt to give it fresh heads for 2"
    ):
        TASK.adapt(other, manifest, "a.cfg", fresh=False)
    made = TASK.adapt(other, manifest, "a.cfg", fresh=True)
    (head,) = heads_of(made)
    assert head.classes == 2 and head.scale_x_y == 2.0
    state = TASK.initial_state(made)
    assert list(state) == ["layers.1.conv.bias"] and torch.equal(state["layers.1.conv.bias"], prior_biases(head))


def test_data_of_other_classes_are_refused_with_the_remedy(tmp_path):
    manifest = write_set(tmp_path / "set")
    TASK.check_classes(SPEC, manifest, "w.pt")
    other = parse_cfg(CFG.replace("filters=14", "filters=20").replace("classes=2", "classes=5"))
    with pytest.raises(
        InputError, match=r"w\.pt: detects 5 classes, .*set\.data has 2; .*train\.py -pt --weights w\.pt"
    ):
        TASK.check_classes(other, manifest, "w.pt")


def test_augmentation_is_the_manifests_unless_mosaic_is_given(tmp_path):
    manifest = write_set(tmp_path / "set")
    usual, given = TASK.augmentation(manifest, None), TASK.augmentation(manifest, 0.25)
    assert (usual.mosaic, usual.flip, usual.scale) == (manifest.mosaic, manifest.flip, manifest.scale)
    assert given.mosaic == 0.25 and given.moves


def test_every_picture_and_table_is_written_where_it_is_asked_for(tmp_path, loader):
    found = TASK.evaluate(network, loader, SPEC, NAMES, progress=False)
    dataset = loader.dataset
    paths = [
        TASK.training_picture(tmp_path / "train.jpg", dataset, NAMES),
        TASK.validation_picture(tmp_path / "valid.jpg", dataset, found, NAMES, "epoch 1"),
        TASK.comparison(tmp_path / "detections.jpg", dataset, {"float": found, "spiking": found}, NAMES),
        *TASK.separate(tmp_path / "detections", dataset, {"fine tuned": found}, NAMES),
        *TASK.plots(tmp_path, {"float": found}, NAMES),
    ]
    assert [path.name for path in paths[-3:]] == ["pr_curves.png", "pr_curves.csv", "confusion.png"]
    assert {path.name for path in paths[3:5]} == {"1-0-ground_truth.jpg", "1-1-fine_tuned.jpg"}
    for path in paths:
        assert path.suffix == ".csv" or cv2.imread(str(path)).std() > 1
    tables = TASK.tables({"float": found, "spiking": found})
    assert [f"{chart.table}.csv" for chart in TASK.charts] == list(tables)
    assert [len(rows) for rows in tables.values()] == [101, 2]
    for chart, rows in zip(TASK.charts, tables.values(), strict=True):
        assert list(rows[0]) == [chart.x, *([chart.count] if chart.count else []), "float", "spiking"]
    assert "AP@.5:.95" in TASK.class_table(found)
    entries = json.loads(TASK.results_json(tmp_path / "r.json", found, dataset.images).read_text())
    assert {row["image_id"] for row in entries} <= set(range(9)) and entries
