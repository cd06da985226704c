"""A folder with one of everything that a script reads, a few kB each; every fault starts from a copy of it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

import export
import pipeline.train
import train
from models import Darknet, network_of
from tests.faults.other_tasks import EVENTS, LABELS, MASKS, SHADES, SUMS, write_masks, write_recordings
from tests.scenes import undrawn_runs, write_scenes
from utils.darknet.cfg import parse_cfg, read_cfg
from utils.darknet.network import Checkpoint, Network, save_checkpoint
from utils.darknet.neuron_cfg import with_neurons
from utils.darknet.spec import ModelSpec
from utils.darknet.weights import write_weights
from utils.quantization.calibrate import calibrate
from utils.quantization.lower import lower
from utils.quantization.scheme import Scheme
from utils.spiking.choices import STREAM
from utils.spiking.rate import normalise
from utils.spiking.snn_checkpoint import ExecutionMode, save_integers, save_rate

NAMES = ("blue", "green")
SIDE = 64

XML = """<annotation><folder>JPEGImages</folder><filename>{name}.png</filename>
<size><width>64</width><height>64</height><depth>3</depth></size>
<object><name>blue</name><difficult>0</difficult>
<bndbox><xmin>5</xmin><ymin>6</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object></annotation>
"""


HERE = ("--data", "set.data", "--device", "cpu", "--workers", "0")


def make_place(folder: Path, patch: pytest.MonkeyPatch) -> Path:
    """Data in three forms, a network in every form, a cut training run, a hand-off for an FPGA."""
    write_scenes(folder, train=4, valid=2)
    network = _network(folder)
    write_weights(folder / "net.weights", network)
    (folder / "bits.txt").write_text("# layer weight-bits activation-bits\n0 8 4\n")
    _voc(folder / "voc")
    _coco(folder)
    _pictures(folder / "pictures")
    (folder / "notes.txt").write_text("hello\n")
    _other_tasks(folder)
    undrawn_runs(patch)
    patch.chdir(folder)
    _cut_run(folder, patch)
    _handed_over(folder)
    shutil.rmtree(folder / "runs/export")
    return folder


def _network(folder: Path) -> Network:
    torch.manual_seed(0)
    network = network_of(Darknet(read_cfg(folder / "net.cfg")))
    weights, images = folder / "weights", [torch.rand(2, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))]
    meta = {"size": [SIDE, SIDE]}
    save_checkpoint(weights / "net.pt", Checkpoint(network, NAMES, meta=meta))
    integer = lower(calibrate(network, images, Scheme()))
    save_integers(weights / "net.int.pt", integer, names=NAMES, meta=meta)
    save_integers(weights / "net.snn.pt", integer, "spiking", names=NAMES, meta=meta, run=ExecutionMode())
    run = ExecutionMode(STREAM, 4)
    save_integers(weights / "stream.snn.pt", integer, "spiking", names=NAMES, meta=meta, run=run)
    save_rate(weights / "rate.snn.pt", normalise(network, images, timesteps=4), names=NAMES, meta=meta)
    return network


def _voc(folder: Path) -> None:
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (folder / part).mkdir(parents=True)
    for number in range(4):
        cv2.imwrite(str(folder / f"JPEGImages/p{number}.png"), np.full((SIDE, SIDE, 3), 40 * number, np.uint8))
        (folder / f"Annotations/p{number}.xml").write_text(XML.format(name=f"p{number}"))
    (folder / "ImageSets/Main/train.txt").write_text("p0\np1\np2\n")
    (folder / "ImageSets/Main/val.txt").write_text("p3\n")


def _coco(folder: Path) -> None:
    for split, numbers in (("train", (0, 1, 2)), ("valid", (3,))):
        images = [{"id": n, "file_name": f"p{n}.png", "width": SIDE, "height": SIDE} for n in numbers]
        boxes = [{"id": n, "image_id": n, "category_id": 7, "bbox": [5, 6, 20, 30], "iscrowd": 0} for n in numbers]
        content = {"images": images, "annotations": boxes, "categories": [{"id": 7, "name": "blue"}]}
        (folder / f"coco-{split}.json").write_text(json.dumps(content, indent=1))


def _pictures(folder: Path) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    cv2.imwrite(str(folder / "photo.jpg"), rng.integers(0, 255, (40, 60, 3), dtype=np.uint8))


def _other_tasks(folder: Path) -> None:
    """masks/ and bars/, sets of masks and of recordings of events, with their cfgs; a network of each."""
    write_masks(folder / "masks")
    write_recordings(folder / "bars")
    lif = with_neurons(read_cfg(folder / "net.cfg"), "lif", 3)
    for name, text, size, names in (("mask", MASKS, 32, SHADES), ("event", EVENTS, 16, LABELS)):
        (folder / f"{name}.cfg").write_text(text)
        save_checkpoint(folder / f"weights/{name}.pt", _random(parse_cfg(text), names, size))
    save_checkpoint(folder / "weights/lif.pt", _random(lif, NAMES, SIDE))
    (folder / "sums.cfg").write_text(SUMS)


def _random(spec: ModelSpec, names: tuple[str, ...], size: int) -> Checkpoint:
    return Checkpoint(network_of(Darknet(spec)), names, meta={"size": [size, size]})


def _cut_run(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """weights/last_cut.pt: a training run of 2 epochs that was cut after the first."""

    def cut(run: Any, epoch: int) -> None:
        if epoch:
            raise KeyboardInterrupt
        one_epoch(run, epoch)

    one_epoch = pipeline.train.one_epoch
    with patch.context() as inner:
        inner.setattr(pipeline.train, "one_epoch", cut)
        with pytest.raises(KeyboardInterrupt):
            train.run(train.parser().parse_args(["--cfg", "net.cfg", "--epochs", "2", "--name", "cut", *HERE]))


def _handed_over(folder: Path) -> None:
    """handed/: the integers for hardware, and their verifier."""
    words = ["c", "--weights", "weights/net.int.pt", "--golden", "1", "--out", "handed", *HERE]
    export.run(export.parser().parse_args(words))
