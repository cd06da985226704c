"""A project as DarkMark leaves it for Darknet v3 and later opens as it is: .data, .names, lists, labels, cfg, weights."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest

from benchmarks.random_network import random_network
from models import load_model
from tests.conftest import ROOT
from utils.darknet.cfg import read_cfg
from utils.darknet.weights import read_weights, write_weights
from utils.detection.dataset import DetectionDataset
from utils.detection.open_data import open_data

WORDS = "use_cuda_graph=0\nflip=0\nmosaic=0\ncutmix=0\nmixup=0\nmax_chart_loss=4.000000\nshow_receptive_field=1\n"


@pytest.fixture
def project(tmp_path):
    """Absolute paths, spaces round the equals sign, images in a cache with their labels beside, an image without marks."""
    place = tmp_path / "cars"
    cache = place / "darkmark_image_cache" / "resize"
    cache.mkdir(parents=True)
    paths = [cache / f"{n:08d}.jpg" for n in range(4)]
    for n, path in enumerate(paths):
        cv2.imwrite(str(path), np.full((32, 48, 3), 40 * n, np.uint8))
        path.with_suffix(".txt").write_text("" if n == 3 else f"{n % 2} 0.5000000000 0.5 0.2500000000 0.5\n")
        path.with_suffix(".json").write_text("{}")
    (place / "cars_train.txt").write_text("".join(f"{path}\n" for path in paths[:3]))
    (place / "cars_valid.txt").write_text("".join(f"{path}\n" for path in paths[3:]))
    (place / "cars.names").write_text("car\ntruck\n")
    (place / "cars.data").write_text(
        f"classes = 2\ntrain = {place}/cars_train.txt\nvalid = {place}/cars_valid.txt\nnames = {place}/cars.names\n"
        f"backup = {place}\n"
    )
    text = (ROOT / "cfg" / "yolov4-tiny.cfg").read_text().replace("classes=80", "classes=2").replace("=255", "=21")
    header = "# DarkMark output for Darknet\n# see http://localhost/ = nothing\n\n"
    (place / "cars.cfg").write_text(header + text.replace("[net]\n", f"[net]\n{WORDS}", 1))
    return place


def test_its_images_and_boxes_are_read(project):
    manifest = open_data(project / "cars.data")
    assert manifest.names == ("car", "truck")
    seen = DetectionDataset(manifest.train, manifest, (64, 64))
    assert [int(seen[n].boxes[0, 0]) for n in range(3)] == [0, 1, 0]
    empty = DetectionDataset(manifest.valid, manifest, (64, 64))
    assert len(seen) == 3 and len(empty) == 1 and not len(empty[0].boxes)


def test_its_cfg_keeps_the_words_that_it_always_writes(project):
    spec = read_cfg(project / "cars.cfg")
    said = dict(spec.net)
    assert said["use_cuda_graph"] == "0" and said["max_chart_loss"] == "4.000000"
    assert all(spec.layers[i].classes == 2 for i in spec.heads)


def test_weights_with_the_header_of_later_versions_are_read(project):
    """Three int32 and an int64 of images seen, whichever 0.2.x a version calls itself."""
    net = random_network(read_cfg(project / "cars.cfg"))
    path = write_weights(project / "cars_best.weights", net)
    content = path.read_bytes()
    path.write_bytes(struct.pack("<3iq", 0, 2, 5, 6000 * 64) + content[20:])
    assert read_weights(path, net.spec).header.seen == 6000 * 64
    assert load_model(path, project / "cars.cfg").kind == "float"
