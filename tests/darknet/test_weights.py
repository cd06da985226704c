from __future__ import annotations

import os
import struct

import cv2
import numpy as np
import pytest
import torch

from models import Darknet, build, network_of
from tests.conftest import ROOT
from utils.darknet.cfg import parse_cfg, read_cfg, write_cfg
from utils.darknet.fold import fold_bn
from utils.darknet.heads import head_convolutions, rehead
from utils.darknet.network import Checkpoint, Network, load_checkpoint, save_checkpoint
from utils.darknet.weights import Header, read_weights, tensors, write_weights
from utils.errors import InputError

TINY = """[net]
width=32
height=32
channels=3
[convolutional]
batch_normalize=1
filters=8
size=3
stride=2
pad=1
activation=leaky
[se]
squeeze=2
[convolutional]
filters=14
size=1
activation=linear
[yolo]
mask=0,1
anchors=4,4, 8,8
classes=2
"""
REAL = ["mobilenetv2-yolov3-nano/MobileNetV2-YOLOv3-Nano-coco", "yolo-fastest-1.1/yolo-fastest-1.1"]


def random_network(spec, seed=0):
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for _, key, shape in tensors(spec):
        state[key] = torch.rand(shape, generator=generator) + (0.1 if "running_var" in key else -0.5)
    return Network(spec, state)


@pytest.fixture
def tiny(tmp_path):
    network = random_network(parse_cfg(TINY))
    return network, write_weights(tmp_path / "tiny.weights", network)


@pytest.mark.parametrize("name", REAL)
def test_real_weights_are_byte_identical_after_reading_and_writing(name, shared_data, tmp_path):
    path = shared_data / "darknet" / f"{name}.weights"
    spec = read_cfg(path.with_suffix(".cfg"))
    weights = read_weights(path, spec)
    again = write_weights(tmp_path / "again.weights", Network(spec, weights.state), weights.header)
    assert again.read_bytes() == path.read_bytes()
    assert weights.header.seen > 1_000_000


@pytest.mark.parametrize("size", [(320, 320), (224, 416)], ids=["square", "wide"])
@pytest.mark.parametrize("name", REAL)
def test_head_outputs_equal_opencv(name, size, shared_data):
    path = shared_data / "darknet" / f"{name}.cfg"
    spec = read_cfg(path)
    model = build(Network(spec, read_weights(path.with_suffix(".weights"), spec).state))
    oracle = cv2.dnn.readNetFromDarknet(str(path), str(path.with_suffix(".weights")))
    x = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    oracle.setInput(x.numpy())
    expected = oracle.forward([f"conv_{j}" for j in head_convolutions(spec).values()])
    with torch.no_grad():
        for theirs, ours in zip(expected, model(x), strict=True):
            assert np.abs(theirs - ours.numpy()).max() <= 1e-4 * np.abs(theirs).max()


@pytest.mark.parametrize("name", ["yolov3-tiny", "yolov4-tiny", "yolov3-tiny-digits"])
def test_random_weights_of_shipped_cfgs_give_what_opencv_gives(name, tmp_path):
    spec = read_cfg(ROOT / "cfg" / f"{name}.cfg")
    network = network_of(calm(Darknet(spec)))
    write_weights(tmp_path / "w.weights", network)
    oracle = cv2.dnn.readNetFromDarknet(str(ROOT / "cfg" / f"{name}.cfg"), str(tmp_path / "w.weights"))
    x = torch.rand(1, 3, 64, 96)
    oracle.setInput(x.numpy())
    expected = oracle.forward([f"conv_{j}" for j in head_convolutions(spec).values()])
    with torch.no_grad():
        for theirs, ours in zip(expected, build(network)(x), strict=True):
            assert np.abs(theirs - ours.numpy()).max() <= 1e-4 * np.abs(theirs).max()


def calm(model):
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(0, 0.1)
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize("header", [Header(0, 1, 0, 12345), Header(0, 2, 5, 2**40)], ids=["int32", "int64"])
def test_both_header_versions_survive(header, tmp_path):
    network = random_network(parse_cfg(TINY))
    path = write_weights(tmp_path / "w.weights", network, header)
    assert len(header.pack()) == (16 if header.minor == 1 else 20)
    assert read_weights(path, network.spec).header == header


def test_bytes_of_a_file_are_header_plus_four_a_number(tiny):
    network, path = tiny
    assert path.stat().st_size == 20 + 4 * sum(value.numel() for value in network.state.values())


def test_a_truncated_file_names_layer_line_and_bytes(tiny):
    network, path = tiny
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match=r"too short by 40 bytes, ends inside layer 2 \(cfg line 14\)"):
        read_weights(path, network.spec)


def test_a_file_that_is_too_long_names_the_last_layer_and_the_bytes(tiny):
    network, path = tiny
    path.write_bytes(path.read_bytes() + struct.pack("<3f", 1, 2, 3))
    with pytest.raises(InputError, match=r"12 bytes are left after the last layer with weights, 2 \(cfg line 14\)"):
        read_weights(path, network.spec)


@pytest.mark.parametrize("content", [b"", b"abc", b"\0" * 22])
def test_what_is_no_weights_file_is_refused(content, tmp_path):
    (tmp_path / "x.weights").write_bytes(content)
    with pytest.raises(InputError, match=r"x\.weights: \d+ bytes are no"):
        read_weights(tmp_path / "x.weights", parse_cfg(TINY))


def test_a_backbone_fills_the_first_layers_and_says_what_stays_fresh(tiny):
    network, path = tiny
    first = 20 + 4 * sum(v.numel() for k, v in network.state.items() if not k.startswith("layers.2."))
    path.write_bytes(path.read_bytes()[:first])
    weights = read_weights(path, network.spec, partial=True)
    assert set(weights.state) == {k for k in network.state if not k.startswith("layers.2.")}
    assert "layers from 2 (cfg line 14) on, 1 of them, start fresh" in weights.left_out[0]


def test_heads_for_another_number_of_classes_are_left_out_and_the_rest_kept(tiny, tmp_path):
    network, path = tiny
    other = rehead(network.spec, 1)
    weights = read_weights(path, other, partial=True)
    assert weights.left_out == ("tiny.weights has heads for 2 classes: left out",)
    assert all(torch.equal(weights.state[k], network.state[k]) for k in weights.state)
    assert not any(k.startswith("layers.2.") for k in weights.state)


def test_folding_batch_norm_leaves_the_outputs_as_they_are():
    model = calm(Darknet(read_cfg(ROOT / "cfg" / "yolov3-tiny-digits.cfg"))).eval()
    network = network_of(model)
    folded = fold_bn(network)
    assert not any(".bn." in key for key in folded.state)
    assert fold_bn(folded) == folded
    x = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(model(x), build(folded)(x), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_checkpoint_carries_its_own_structure(tmp_path):
    network = random_network(parse_cfg(TINY))
    path = save_checkpoint(tmp_path / "a.pt", Checkpoint(network, ("a", "b"), meta={"seed": 1}))
    loaded = load_checkpoint(path)
    assert loaded.network.spec == network.spec and loaded.names == ("a", "b") and loaded.meta == {"seed": 1}
    assert all(torch.equal(loaded.network.state[k], v) for k, v in network.state.items())
    assert write_cfg(loaded.network.spec) == write_cfg(network.spec)


def test_a_checkpoint_that_cannot_be_written_leaves_the_earlier_one(tmp_path, monkeypatch):
    network = random_network(parse_cfg(TINY))
    path = save_checkpoint(tmp_path / "a.pt", Checkpoint(network))
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match=r"a\.pt: No space left on device; nothing there was changed"):
        save_checkpoint(path, Checkpoint(network))
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04broken"])
def test_a_damaged_checkpoint_is_one_line(content, tmp_path):
    (tmp_path / "a.pt").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.pt: cannot be read as a checkpoint"):
        load_checkpoint(tmp_path / "a.pt")


def test_another_programs_file_is_refused(tmp_path):
    torch.save({"model": torch.zeros(1)}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="is not a Darkspike checkpoint"):
        load_checkpoint(tmp_path / "a.pt")
