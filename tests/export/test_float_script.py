"""export.py onnx --float and darknet, as they are typed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

import export
from models import load_model
from tests.darknet.opencv import opencv_outputs
from tests.export.test_script import HERE, place
from tests.quantization.random_nets import random_images
from tests.scenes import CFG
from utils.darknet.cfg import parse_cfg, read_cfg
from utils.darknet.network import Checkpoint, load_checkpoint, save_checkpoint
from utils.errors import InputError
from utils.export.darknet_files import unknown_to_darknet
from utils.reporting.record import Record

assert place  # a fixture


def typed(*words: str) -> Record:
    return export.run(export.parser().parse_args([*words, *HERE]))


def test_the_float_network_is_written_with_what_it_is_and_no_scale_in_it(place):
    record = typed("onnx", "--float", "--weights", "weights/net.pt", "--golden", "3")
    model, report = record.paths()
    assert model == Path("export/net/model.onnx") and record.metrics["worst"] < 1e-5
    assert json.loads(report.read_text())["images"] == 3
    runner = onnxruntime.InferenceSession(str(model))
    about = runner.get_modelmeta().custom_metadata_map
    assert json.loads(about["darkspike.names"]) == ["blue", "green"] and json.loads(about["darkspike.size"]) == [64, 64]
    assert parse_cfg(about["darkspike.cfg"], "model") == load_checkpoint("weights/net.pt").network.spec
    heads = json.loads(about["darkspike.heads"])
    assert [each["stride"] for each in heads] == [8, 4] and heads[0]["anchors"] == [[12, 12], [24, 24]]
    assert json.loads(about["darkspike.input"])["colour"] == "RGB" and about["darkspike.outputs"] == "maps"
    assert [each.shape[0] for each in runner.get_inputs()] == ["N"]
    text = Path("export/net/README.md").read_text()
    assert "$" not in text and "layerNNN_map" in text and "NonMaxSuppression" not in text


def test_boxes_of_any_size_come_out_when_asked_for(place):
    typed("onnx", "--float", "--decode", "--dynamic", "--weights", "weights/net.pt", "--golden", "1")
    assert sorted(path.name for path in Path("export/net").iterdir()) == ["README.md", "model.onnx", "report.json"]
    runner = onnxruntime.InferenceSession("export/net/model.onnx")
    for side in (64, 96):
        boxes, scores = runner.run(["boxes", "scores"], {"image": np.zeros((2, 3, 64, side), np.float32)})
        assert boxes.shape == (2, 2 * (8 * side // 8 + 16 * side // 4), 4) and scores.shape == (*boxes.shape[:2], 2)
    text = Path("export/net/README.md").read_text()
    assert "$" not in text and "NonMaxSuppression" in text and "any multiple" in text


def test_darknet_weights_are_taken_with_their_cfg_and_the_newest_float_network_without_flags(place):
    typed("darknet", "--weights", "weights/net.pt")
    words = ["--cfg", "export/net/net.cfg", "--weights", "export/net/net.weights", "--golden", "1", "--out", "again"]
    typed("onnx", "--float", *words)
    a, b = (onnxruntime.InferenceSession(path) for path in ("again/model.onnx", _float("weights/net.pt")))
    x = {"image": random_images(1, side=64).numpy()}
    for one, other in zip(a.run(None, x), b.run(None, x), strict=True):
        np.testing.assert_array_equal(one, other)


def _float(weights: str) -> str:
    typed("onnx", "--float", "--weights", weights, "--golden", "1", "--out", "first")
    return "first/model.onnx"


def test_a_checkpoint_goes_back_to_darknet_and_opencv_computes_the_same(place, tmp_path):
    record = typed("darknet", "--weights", "weights/net.pt")
    cfg, weights, names = record.paths()
    assert [path.name for path in (cfg, weights, names)] == ["net.cfg", "net.weights", "net.names"]
    assert names.read_text() == "blue\ngreen\n" and record.metrics["bytes"] == weights.stat().st_size
    before, after = load_model("weights/net.pt"), load_model(weights, cfg)
    x = random_images(1, side=64)
    with torch.no_grad():
        for one, other in zip(before.predictor(x), after.predictor(x), strict=True):
            assert torch.equal(one, other)
    assert before.network and after.network
    found = opencv_outputs(after.network, x, tmp_path, ["conv_6", "conv_12"])
    with torch.no_grad():
        for mine, theirs in zip(after.predictor(x), found, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_what_no_darknet_reads_is_told_with_its_layers(place, caplog):
    network = load_checkpoint("weights/net.pt").network
    (place / "ours.cfg").write_text(CFG.replace("activation=relu", "activation=h_swish", 1))
    spec = read_cfg("ours.cfg")
    save_checkpoint("weights/ours.pt", Checkpoint(type(network)(spec, network.state), ("blue", "green")))
    typed("darknet", "--weights", "weights/ours.pt")
    assert "activation=h_swish of layers 0: no Darknet reads that, Darkspike does; train.py" in caplog.text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["onnx", "--float", "--weights", "weights/net.int.pt"],
            r"net\.int\.pt: has integers, .*onnx --float takes floats",
        ),
        (["darknet", "--weights", "weights/rate.snn.pt"], r"rate\.snn\.pt: .*export\.py darknet takes floats"),
        (
            ["darknet", "--weights", "weights/net.weights"],
            r"net\.weights: Darknet weights need their structure; add --cfg",
        ),
        (["darknet"], r"no finished run of train\.py in runs/"),
    ],
)
def test_what_is_no_float_network_is_refused(place, words, message):
    with pytest.raises(InputError, match=message):
        typed(*words)
    assert not Path("export").exists()


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ("[se]\nsqueeze=2\n", "[se] of layers 1: no Darknet reads that, Darkspike does; train.py"),
        (
            "[convolutional]\nfilters=4\nactivation=lif\n",
            "activation=lif of layers 1: no Darknet reads that, Darkspike does",
        ),
        (
            "[transposed_convolutional]\nfilters=4\nstride=2\nsize=2\n",
            "[transposed_convolutional] of layers 1: no Darknet",
        ),
        ("[maxpool]\nsize=2\nstride=2\n", ""),
    ],
    ids=["gate", "neuron", "transposed", "pool"],
)
def test_what_no_darknet_reads_is_told_by_name(section, told):
    steps = "timesteps=2\n" if "lif" in section else ""
    found = unknown_to_darknet(parse_cfg(f"[net]\nwidth=8\nheight=8\n{steps}[convolutional]\nfilters=4\n{section}"))
    assert len(found) == bool(told) and all(line.startswith(told) for line in found)
