"""The digits as masks: what is drawn, to the pixel."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from utils.data.manifest import read_manifest
from utils.data.sample_scenes import Material, Recipe, materials, scenes
from utils.data.sample_set import ROOT
from utils.segmentation.dataset import MaskDataset
from utils.segmentation.sample import RECIPE, prepare_sample

WHEELS = ROOT / ".wheels"
SMALL = replace(RECIPE, train=12, valid=6)
EXPECTED = "a3ee2fe87567fff0f2d50ffac8518f49cd5274786f4c1a3ad66b8919ff486f42"


@pytest.fixture(scope="module")
def masks(tmp_path_factory) -> Path:
    return prepare_sample(tmp_path_factory.mktemp("masks"), SMALL, WHEELS)


def test_a_mask_is_the_pixels_that_are_drawn(masks):
    digits = materials(SMALL, WHEELS)["train"].digits
    flat = Material({"flat": [np.full((160, 160, 3), 100, np.uint8)]}, digits)
    for scene in scenes(flat, 40, Recipe(), 0):
        assert np.array_equal(scene.mask > 0, (scene.image != 100).any(2))
        assert {int(each) + 1 for each in scene.boxes[:, 0]} == {*np.unique(scene.mask)} - {0}


def test_the_set_is_the_same_each_time_and_its_masks_are_those_of_its_scenes(masks):
    folder = masks.parent / "digit-masks"
    assert json.loads((folder / "stamp.json").read_text())["sha256"] == EXPECTED
    manifest = read_manifest(masks)
    data = MaskDataset(manifest.valid, manifest, (96, 96))
    for sample, scene in zip(
        (data[i] for i in range(len(data))), scenes(materials(SMALL, WHEELS)["valid"], 6, SMALL, 1), strict=True
    ):
        assert np.array_equal(sample.mask.numpy(), scene.mask)
        assert np.abs(sample.image.permute(1, 2, 0).numpy().astype(int) - scene.image[..., ::-1]).mean() < 3  # JPEG
