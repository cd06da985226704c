"""Boxes from the files of a folder: numpy's and C's are the pipeline's own, for every kind of head."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.export.nets import lowered
from utils.detection import results
from utils.detection.task import heads_of
from utils.export import decode
from utils.export.decoding import write_decoding
from utils.export.package import HandOffOptions, export_network
from utils.export.schema import fault
from utils.quantization.executor import IntegerExecutor

NAMES = ("blue", 'a "green" one', "größe")
ANCHORS = "4,6, 10,8, 20,16"
YOLO = {"mask": "0,1,2", "anchors": ANCHORS, "classes": 3, "num": 3}
REGION = {"anchors": "1,1.5, 2,2, 3,1", "classes": 3, "num": 3}
HEADS = {
    "yolo": ("yolo", YOLO, "linear"),
    "scaled": ("yolo", YOLO | {"scale_x_y": 1.2}, "linear"),
    "new_coords": ("yolo", YOLO | {"scale_x_y": 2.0, "new_coords": 1}, "logistic"),
    "diou": ("yolo", YOLO | {"nms_kind": "diounms", "beta_nms": 0.6}, "linear"),
    "region": ("region", REGION | {"softmax": 0}, "linear"),
    "softmax": ("region", REGION | {"softmax": 1}, "linear"),
}
TOOLS = pytest.mark.skipif(not (shutil.which("cc") and shutil.which("make")), reason="needs cc and make")


def cfg_of(kind: str) -> str:
    section, head, activation = HEADS[kind]
    conv = {"filters": 8, "size": 3, "stride": 2, "pad": 1, "activation": "leaky"}
    last = {"filters": 24, "size": 1, "stride": 1, "pad": 1, "activation": activation}
    parts = [("net", {"width": 48, "height": 32, "channels": 3}), ("convolutional", conv)]
    parts += [("convolutional", last), (section, head)]
    return "\n".join(f"[{name}]\n" + "".join(f"{key}={value}\n" for key, value in keys.items()) for name, keys in parts)


def folder_of(out: Path, kind: str) -> list[dict]:
    """A hand-off with golden boxes as the pipeline makes them; returns those of each image."""
    images = torch.randint(0, 256, (2, 3, 32, 48), generator=torch.Generator().manual_seed(5)).float() / 255
    network = lowered(cfg_of(kind), images)
    found: list[dict] = []

    def finish(folder: Path, manifest: dict) -> None:
        raw = IntegerExecutor(network)(images)
        golden = results.golden_boxes(raw, heads_of(network.spec), (32, 48), NAMES)
        for k, content in enumerate(golden.contents):
            (folder / f"golden/{k}/{golden.name}").write_text(json.dumps(content, indent=1) + "\n")
        write_decoding(folder, manifest, results.CONFIDENCE, results.OVERLAP)
        found.extend(golden.contents)

    export_network(out, network, images, HandOffOptions(name="test", forms=("npy",), names=NAMES), finish)
    return found


@pytest.fixture(scope="module", params=HEADS)
def made(request, tmp_path_factory) -> tuple[Path, list[dict]]:
    out = tmp_path_factory.mktemp(request.param) / "net"
    return out, folder_of(out, request.param)


def test_numpy_alone_gives_the_golden_boxes(made):
    out, golden = made
    assert sum(len(each["boxes"]) for each in golden) > 10
    done = subprocess.run([sys.executable, out / "decode.py"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == sum(len(each["boxes"]) for each in golden)


@TOOLS
def test_c_alone_gives_the_golden_boxes(made, tmp_path):
    out, golden = made
    flags = "CFLAGS=-O1 -fsanitize=address,undefined -fno-sanitize-recover=all"
    done = subprocess.run(
        ["make", "-s", "-C", out / "c", "boxes", f"BUILD={tmp_path}", flags], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    count = sum(len(each["boxes"]) for each in golden)
    assert done.stdout.splitlines()[-1] == f"C99: {count} boxes of 2 images as in boxes.json"


@TOOLS
@pytest.mark.parametrize("key", ["score", "xyxy", "class"])
def test_a_golden_box_changed_is_named_by_both(key, made, tmp_path):
    out, _ = made
    folder = shutil.copytree(out, tmp_path / "net")
    path = folder / "golden/1/boxes.json"
    content = json.loads(path.read_text())
    box = content["boxes"][2]
    box[key] = [box[key][0] + 0.5, *box[key][1:]] if key == "xyxy" else box[key] + 1
    path.write_text(json.dumps(content, indent=1) + "\n")
    for command in ([sys.executable, folder / "decode.py"], ["make", "-s", "-C", folder / "c", "boxes"]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode != 0 and "golden/1/boxes.json: " in done.stderr


def test_the_manifest_says_all_that_decoding_needs_and_the_readme_works_a_box_out(made):
    out, _ = made
    manifest = json.loads((out / "manifest.json").read_text())
    assert fault(manifest) is None and manifest["version"] == 3 and manifest["names"] == list(NAMES)
    assert manifest["image"] | {"grid": 0} == {
        "shape": [3, 32, 48], "grid": 0, "resize": "letterbox", "colour": "RGB", "mean": [0, 0, 0], "scale": 1 / 255,
    }  # fmt: skip
    head = manifest["layers"][-1]
    assert head["cell"] == [2.0, 2.0] and len(head["anchors_px"]) == 3
    text = (out / "README.md").read_text()
    acc = {i: np.load(out / f"golden/0/{i:03d}_acc.npy") for i in head["inputs"]}
    decoded = decode.decode(manifest, acc)
    score = (decoded[:, 4] * decoded[:, 5:].max(1)).max()
    assert f"= score {score:.4f}" in text and '"requantise": null' in text
    row = next(line for line in text.splitlines() if line.startswith(f"| {head['inputs'][0]} |"))
    anchors = ", ".join(f"{w:g}x{h:g}" for w, h in head["anchors_px"])
    for word in ("24x16", "2x2 px", anchors, f"{head['scale_x_y']:g}, ", manifest["layers"][-2]["activation"]):
        assert word in row, word
    assert f"Classes: 0 {NAMES[0]}, 1 {NAMES[1]}, 2 {NAMES[2]}." in text


def test_suppression_goes_by_the_manifests_numbers(made):
    out, _ = made
    manifest = json.loads((out / "manifest.json").read_text())
    rule = manifest["suppression"]
    acc = {i: np.load(out / f"golden/0/{i:03d}_acc.npy") for i in manifest["layers"][-1]["inputs"]}
    decoded = decode.decode(manifest, acc)
    usual = decode.suppress(manifest, decoded)
    for changed in ({"boxes": 2}, {"candidates": 1}, {"confidence": float(usual[1, 4])}):
        fewer = decode.suppress(manifest | {"suppression": rule | changed}, decoded)
        assert 0 < len(fewer) < len(usual) and (fewer == usual[: len(fewer)]).all(), changed


def test_a_manifest_of_version_2_is_still_read(made):
    out, _ = made
    manifest = json.loads((out / "manifest.json").read_text()) | {"version": 2}
    for key in ("names", "suppression"):
        del manifest[key]
    for key in ("colour", "mean", "scale"):
        del manifest["image"][key]
    for key in ("cell", "anchors_px", "scale_x_y", "reach", "new_coords", "softmax"):
        del manifest["layers"][-1][key]
    assert fault(manifest) is None
