"""The digits as a set of classes: the same everywhere, and no digit in both parts."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from pipeline.chain_start import budget_of, with_data
from utils.classification.dataset import ClassDataset
from utils.classification.sample import prepare_sample
from utils.classification.task import ClassificationTask
from utils.config.as_trained import data_as_trained, data_of_task
from utils.config.pipeline import PipelineConfig
from utils.config.train import TrainConfig
from utils.darknet.cfg import read_cfg
from utils.data.manifest import read_manifest
from utils.data.sample_scenes import Recipe, materials
from utils.data.sample_set import ROOT
from utils.detection.task import DetectionTask
from utils.errors import InputError
from utils.segmentation.task import SegmentationTask
from utils.spiking.spike_schedule import check_spiking_spec
from utils.tasks import task_of

WHEELS = ROOT / ".wheels"
EXPECTED = "2fe2cbd79fbf8ee9552e27d115d708041aff0d79e09defc78d30bfafbb69d38f"


@pytest.fixture(scope="module")
def digits(tmp_path_factory) -> Path:
    return prepare_sample(tmp_path_factory.mktemp("digits"), 25, WHEELS)


def test_the_digits_are_the_same_each_time_and_no_one_is_in_both_parts(digits):
    folder = digits.parent / "digit-classes"
    assert json.loads((folder / "stamp.json").read_text())["sha256"] == EXPECTED
    names = {part: {path.name for path in (folder / part).rglob("*.png")} for part in ("train", "valid")}
    assert (len(names["train"]), len(names["valid"])) == (210, 40) and not names["train"] & names["valid"]


def test_digits_to_validate_on_are_those_of_the_scenes_with_boxes(digits):
    shown = {int(path.stem) for path in (digits.parent / "digit-classes/valid").rglob("*.png")}
    scenes = {number for each in materials(Recipe(), WHEELS)["valid"].digits for number, _ in each}
    assert shown < scenes


def test_a_digit_is_as_it_was_written_and_of_its_class(digits):
    manifest = read_manifest(digits)
    data = ClassDataset(manifest.valid, manifest, (32, 32))
    assert manifest.flip == 0 and sorted(set(data.labels)) == [*range(10)]
    path = data.images[3]
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert picture.shape == (32, 32) and not picture[:2].any() and picture.max() > 200
    assert np.array_equal(data[3].image[0].numpy(), picture) and path.parent.name == str(data.labels[3])


@pytest.mark.parametrize(
    ("cfg", "images"), [("cifar-resnet20", 4200), ("camvid-deeplab", 400), ("yolov3-tiny-digits", 4000)]
)
def test_each_task_has_a_sample_set_where_nobody_says_another(cfg, images, monkeypatch):
    monkeypatch.chdir(ROOT.parent)
    config = with_data(PipelineConfig.from_given({"cfg": f"cfg/{cfg}.cfg"}, {}))
    assert budget_of(config).images == images
    check_spiking_spec(read_cfg(f"cfg/{cfg}.cfg"))  # no stage of the chain would refuse it


def test_data_that_somebody_says_is_never_replaced(tmp_path):
    task = task_of(read_cfg(ROOT.parent / "cfg/cifar-resnet20.cfg"))
    said = TrainConfig.from_given({"data": "data/digits.data"}, {})
    assert data_of_task(said, task).data == "data/digits.data"
    with pytest.raises(InputError, match=r"the sample set has boxes alone.* leave it away for digit-classes\.data"):
        task.open_data(ROOT / "digits.data")
    unsaid = TrainConfig()
    assert data_as_trained(unsaid, str(tmp_path), "a.pt", task).data == str(tmp_path)
    assert data_as_trained(unsaid, "", "a.pt", task).data == "data/digit-classes.data"
    assert {each.sample for each in (DetectionTask(), ClassificationTask(), SegmentationTask())} == {
        f"data/{name}.data" for name in ("digits", "digit-classes", "digit-masks")
    }
