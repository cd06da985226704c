"""Float networks as ONNX: onnxruntime and OpenCV compute what the network computes, maps and boxes alike."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from models import build
from tests.conftest import ROOT
from tests.quantization.random_nets import cfg_text, random_images, random_network, rich_cfg
from utils.darknet import spec as s
from utils.darknet.cfg import read_cfg, write_cfg
from utils.darknet.fold import fold_bn
from utils.darknet.network import Network
from utils.darknet.weights import read_weights
from utils.detection.boxes import cxcywh_to_xyxy
from utils.detection.decode import decode
from utils.errors import InputError
from utils.export.onnx_check import run, session
from utils.export.onnx_float import float_model
from utils.export.onnx_graph import check, save

NETS = sorted(path.stem for path in (ROOT / "tests/cfgs").glob("*.cfg"))
NEW_COORDS = cfg_text(("convolutional", {"filters": 8, "size": 3, "stride": 2, "pad": 1, "activation": "h_swish"}))
NEW_COORDS = NEW_COORDS.replace("activation=linear", "activation=logistic").replace(
    "[yolo]", "[yolo]\nnew_coords=1\nscale_x_y=2"
)
REGION = NEW_COORDS.partition("[yolo]")[0].replace("logistic", "linear").replace("filters=6", "filters=16")
REGION += "[region]\nanchors=1,2, 3,1\nclasses=3\nnum=2\nsoftmax=1\n"


def of_cfg(name: str) -> Network:
    return random_network(write_cfg(read_cfg(ROOT / f"tests/cfgs/{name}.cfg")))


def boxes_and_scores(network: Network, x: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    with torch.no_grad():
        raw = build(network)(x)
    heads = [network.spec.layers[i] for i in network.spec.heads]
    found = decode(raw, heads, (x.shape[2], x.shape[3]))  # type: ignore[arg-type]
    return cxcywh_to_xyxy(found[..., :4]).numpy(), (found[..., 4:5] * found[..., 5:]).numpy()


def equal(found: np.ndarray, right: np.ndarray | torch.Tensor) -> None:
    right = np.asarray(right)
    np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-4 * max(1.0, float(np.abs(right).max())))


@pytest.mark.parametrize("source", [*NETS, *range(4)])
def test_onnxruntime_gives_the_heads_maps_of_every_section_at_any_batch(source):
    network = random_network(rich_cfg(source)) if isinstance(source, int) else of_cfg(source)
    side = 16 if isinstance(source, int) else 64
    images = random_images(3, side=side, image_channels=network.spec.channels)
    model = float_model(fold_bn(network), (side, side))
    check(model)
    with torch.no_grad():
        golden = build(network)(images)
    runner = session(model)
    for count in (1, 3):
        found = run(runner, {"image": images[:count].numpy()}).values()
        for mine, right in zip(found, golden, strict=True):
            equal(mine, right[:count])


@pytest.mark.parametrize(
    ("cfg", "dynamic"),
    [(cfg, dynamic) for cfg in ("plain", "tiny", "mobile", "residual", NEW_COORDS, REGION) for dynamic in (False, True)]
    + [("passthrough", False)],
)
def test_boxes_and_scores_in_the_graph_are_those_of_decode(cfg, dynamic):
    network = random_network(cfg) if "\n" in cfg else of_cfg(cfg)
    model = float_model(fold_bn(network), (64, 64), dynamic=dynamic, decode=True)
    check(model)
    runner = session(model)
    for side in (64, 96) if dynamic else (64,):
        x = random_images(2, side=96)[:, :, :64, :side].contiguous()
        found = run(runner, {"image": x.numpy()})
        assert list(found) == ["boxes", "scores"]
        for mine, right in zip(found.values(), boxes_and_scores(network, x), strict=True):
            equal(mine, right)


@pytest.mark.parametrize("cfg", ["plain", "mobile", "spp", "csp", "residual", "tiny"])
@pytest.mark.parametrize("decode", [False, True])
def test_opencv_reads_the_file_and_agrees(tmp_path, cfg, decode):
    network, x = of_cfg(cfg), random_images(1, side=64)
    path = tmp_path / "model.onnx"
    save(float_model(fold_bn(network), (64, 64), decode=decode), path)
    reader = cv2.dnn.readNetFromONNX(str(path))
    reader.setInput(x.numpy())
    found = [np.array(each) for each in reader.forward(reader.getUnconnectedOutLayersNames())]
    with torch.no_grad():
        golden = boxes_and_scores(network, x) if decode else [each.numpy() for each in build(network)(x)]
    for right in golden:
        (mine,) = [each for each in found if each.shape == right.shape]
        equal(mine, right)


def test_any_size_runs_where_the_graph_allows_it_and_is_refused_by_name_where_not():
    network = of_cfg("spp")
    model = float_model(fold_bn(network), (64, 64), dynamic=True)
    runner, x = session(model), random_images(1, side=96)
    with torch.no_grad():
        golden = build(network)(x)
    for mine, right in zip(run(runner, {"image": x.numpy()}).values(), golden, strict=True):
        equal(mine, right)
    fixed = fold_bn(of_cfg("passthrough"))
    with pytest.raises(InputError, match=r"--dynamic: layer \d+ \(cfg line \d+\): \[reorg\] is written for one size"):
        float_model(fixed, (64, 64), dynamic=True)


@pytest.mark.parametrize("name", ["yolo-fastest-1.1", "mobilenetv2-yolov3-nano"])
def test_published_weights_give_opencvs_boxes_of_a_photograph(shared_data, tmp_path, name):
    """OpenCV's own reader of the Darknet files, and our ONNX in onnxruntime: nothing of ours between the two."""
    stem = next((shared_data / "darknet" / name).glob("*.cfg")).with_suffix("")
    spec = read_cfg(f"{stem}.cfg")
    network = fold_bn(Network(spec, read_weights(f"{stem}.weights", spec).state))
    picture = cv2.imread(str(sorted((shared_data / "coco128/images/val").iterdir())[0]))
    x = cv2.dnn.blobFromImage(picture, 1 / 255, (320, 320), swapRB=True)
    found = run(session(float_model(network, (320, 320), decode=True)), {"image": x})
    reader = cv2.dnn.readNetFromDarknet(f"{stem}.cfg", f"{stem}.weights")
    reader.setInput(x)
    rows = np.concatenate(reader.forward(reader.getUnconnectedOutLayersNames()))  # cx, cy, w, h of 1, objectness, ...
    theirs = rows[:, 5:].max(1)
    ours = found["scores"][0].max(1)
    centre = (found["boxes"][0][:, :2] + found["boxes"][0][:, 2:]) / 2 / 320
    sure = np.flatnonzero(theirs > 0.3)
    assert len(sure) > 2
    for i in sure:
        near = np.abs(centre - rows[i, :2]).max(1) < 1e-3
        assert np.abs(ours[near] - theirs[i]).min() < 1e-3


def test_heads_that_are_no_detectors_and_unlike_heads_are_refused():
    network = fold_bn(of_cfg("tiny"))
    layers = list(network.spec.layers)
    last = network.spec.heads[-1]
    head = layers[last]
    assert isinstance(head, s.Yolo) and head.filters == 14
    layers[last] = replace(head, classes=9, mask=head.mask[:1])  # as many channels
    odd = Network(replace(network.spec, layers=tuple(layers)), network.state)
    with pytest.raises(
        InputError, match=r"--decode: the heads have \[\d+, \d+\] classes; it takes heads of one number"
    ):
        float_model(odd, (64, 64), decode=True)
