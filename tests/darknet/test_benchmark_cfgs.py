"""benchmarks/cfgs.py and benchmarks/darknet_boxes.py: what is read, what is done with it, and whose boxes are whose."""

from __future__ import annotations

import json
import stat
import sys

import cv2
import pytest
import torch

from benchmarks import cfgs, darknet_boxes
from benchmarks.random_network import narrow, random_network
from tests.conftest import ROOT
from utils.darknet.cfg import parse_cfg, read_cfg, write_cfg
from utils.darknet.weights import write_weights
from utils.errors import InputError

SHIPPED = ROOT / "cfg"


def test_every_shipped_cfg_is_read(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cfgs.py", str(SHIPPED)])
    assert cfgs.main() == 0
    count = len(list(SHIPPED.rglob("*.cfg")))
    assert f"read {count} of {count} cfgs" in capsys.readouterr().out


def test_refusals_of_one_reason_stand_together_and_foreign_files_are_left_out(tmp_path, monkeypatch, capsys):
    for name in ("a", "b"):
        (tmp_path / f"{name}.cfg").write_text("[net]\n[convolutional]\nfilters=3\nxnor=1\n")
    (tmp_path / "c.cfg").write_text("[net]\n\n[gru]\n")
    (tmp_path / "setup.cfg").write_text("[metadata]\nname=x\n")
    monkeypatch.setattr(sys, "argv", ["cfgs.py", str(tmp_path)])
    assert cfgs.main() == 1
    out = capsys.readouterr().out
    assert "refused 2: xnor=1 computes with signs alone" in out and "a.cfg, " in out
    assert "refused 1: [gru] keeps a state" in out and "read 0 of 3 cfgs" in out


REASONS = {  # what a network of tests/cfgs has no form for, and is told
    "integers": (),
    "spikes": ("has no spiking form",),
}


@pytest.mark.parametrize("path", sorted((ROOT / "tests" / "cfgs").glob("*.cfg")), ids=lambda path: path.stem)
def test_a_network_goes_through_every_room_or_is_refused_by_name(path):
    """Written and read, beside OpenCV where it knows the sections, cut by all six strategies, in integers, as spikes."""
    cells, told = cfgs.check(read_cfg(path))
    refused = {key for key, cell in cells.items() if cell == "refused"}
    assert cfgs.WRONG not in cells.values() and refused <= set(REASONS)
    for line in told:
        room, _, why = line.partition(": ")
        assert any(reason in why for reason in REASONS[room]) and "cfg line" in why, line
    for name in cfgs.STRATEGIES:
        assert cells[name] == "ok" or (name.startswith("layer") and cells[name] == "no block")
    assert cells["OpenCV"].startswith("no ") or float(cells["OpenCV"]) < cfgs.SAME


CONV = "[convolutional]\nbatch_normalize=1\nfilters={}\nsize=3\nstride={}\npad=1\nactivation={}\n"
YOLO = "[convolutional]\nfilters={}\nactivation=linear\n{}[{}]\nmask=0,1\nanchors=4,6, 20,24\nclasses=2\nnum=2\n"
SECTIONS = {  # of published networks, in small -> the rooms that refuse them
    "yolor": (
        "[reorg]\n[silence]\n"
        + CONV.format(16, 2, "leaky")
        + "[implicit_add]\nfilters=16\n[implicit_mul]\nfilters=14\n[route]\nlayers=2\n"
        + CONV.format(16, 1, "relu")
        + "[shift_channels]\nfrom=3\n"
        + YOLO.format(14, "[control_channels]\nfrom=4\n", "yolo"),
        set(),
    ),
    "excited": (
        CONV.format(16, 2, "leaky\nassisted_excitation=4000") + YOLO.format(22, "", "Gaussian_yolo"),
        set(),
    ),
    "sam": (
        CONV.format(16, 2, "leaky")
        + CONV.format(16, 1, "logistic")
        + "[sam]\nfrom=-2\n"
        + CONV.format(16, 1, "leaky")
        + YOLO.format(14, "", "yolo"),
        {"integers", "spikes"},
    ),
}


@pytest.mark.parametrize("name", SECTIONS)
def test_sections_of_published_networks_go_through_every_room_as_scripts_open_them(name):
    text, refused = SECTIONS[name]
    cells, told = cfgs.check(parse_cfg("[net]\nwidth=64\nheight=64\n" + text))
    assert {key for key, cell in cells.items() if cell == "refused"} == refused and cfgs.WRONG not in cells.values()
    assert all("[sam] multiplies two whole maps" in line and "take the [sam] out" in line for line in told)
    assert [cells[key] for key in ("written", "normal", "slim")] == ["ok"] * 3


def test_a_check_that_does_not_hold_is_a_mistake_of_ours_and_no_refusal(monkeypatch, capsys):
    name = str(ROOT / "tests" / "cfgs" / "plain.cfg")
    monkeypatch.setattr(cfgs, "CHECKS", {"written": cfgs.written, "OpenCV": cfgs.beside_opencv})
    monkeypatch.setattr(sys, "argv", ["cfgs.py", name, "--check"])
    assert cfgs.main() == 0 and f"| {name} | ok | " in capsys.readouterr().out
    monkeypatch.setattr(cfgs, "write_cfg", lambda spec: write_cfg(spec).replace("activation=leaky", "activation=relu"))
    assert cfgs.main() == 1
    out = capsys.readouterr().out
    assert f"| {name} | wrong | wrong |" in out and "OpenCV's heads differ by" in out


def tiny(tmp_path):
    net = random_network(narrow(read_cfg(SHIPPED / "yolov3-tiny-digits.cfg"), 4))
    cfg, weights = tmp_path / "net.cfg", tmp_path / "net.weights"
    cfg.write_text(write_cfg(net.spec))
    write_weights(weights, net)
    pictures = [(torch.rand(96, 96, net.spec.channels) * 255).byte().numpy() for _ in range(2)]
    return net, cfg, weights, pictures


def test_the_boxes_of_opencv_are_ours(tmp_path):
    net, cfg, weights, pictures = tiny(tmp_path)
    classes = net.spec.layers[net.spec.heads[0]].classes
    conf = 0.2
    mine = darknet_boxes.ours(net, pictures, conf)
    found = darknet_boxes.compare(mine, darknet_boxes.by_opencv(cfg, weights, pictures, classes, conf), conf, 1e-3)
    assert found.pairs > 10 and found.alone == found.near
    assert found.least_iou > 0.999 and found.score < 1e-4


def test_a_box_that_is_moved_lost_or_of_another_class_is_seen():
    box = torch.tensor([[0, 0, 10, 10, 0.9, 1], [50, 50, 60, 60, 0.8, 1]])
    moved, lost, other = box.clone(), box[:1].clone(), box.clone()
    moved[0, 0], other[1, 5] = 1.0, 2
    assert darknet_boxes.compare([box.clone()], [moved], 0.2, 0).least_iou == pytest.approx(0.9)
    assert darknet_boxes.compare([box.clone()], [lost], 0.2, 0).alone == 1
    assert darknet_boxes.compare([box.clone()], [other], 0.2, 0).alone == 2


def test_the_program_is_asked_as_darknet_is_and_its_boxes_are_read(tmp_path):
    """A stand-in that answers every listed image with one box, as ``detector test ... -out`` writes it."""
    _, cfg, weights, pictures = tiny(tmp_path)
    box = {"center_x": 0.5, "center_y": 0.25, "width": 0.1, "height": 0.2}
    answer = json.dumps({"objects": [{"class_id": 3, "relative_coordinates": box, "confidence": 0.5}]})
    program = tmp_path / "darknet"
    program.write_text(
        f"#!{sys.executable}\nimport sys\narguments = sys.argv[1:]\nassert arguments[:2] == ['detector', 'test']\n"
        "paths = sys.stdin.read().split()\nout = open(arguments[arguments.index('-out') + 1], 'w')\n"
        f"out.write('[' + ', '.join([{answer!r}] * len(paths)) + ']')\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    found = darknet_boxes.by_darknet(program, cfg, weights, pictures, 10, 0.2)
    assert len(found) == 2
    torch.testing.assert_close(found[0], torch.tensor([[43.2, 14.4, 52.8, 33.6, 0.5, 3.0]]))


def test_a_program_that_leaves_no_boxes_is_one_line(tmp_path):
    _, cfg, weights, pictures = tiny(tmp_path)
    with pytest.raises(InputError, match=r"cannot be run .*check --darknet"):
        darknet_boxes.by_darknet(tmp_path / "none", cfg, weights, pictures, 10, 0.2)
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\necho no such layer >&2\n")
    silent.chmod(0o755)
    with pytest.raises(InputError, match="left no boxes: no such layer; run it once by hand"):
        darknet_boxes.by_darknet(silent, cfg, weights, pictures, 10, 0.2)


def test_the_boxes_of_what_every_strategy_leaves_are_opencvs(tmp_path, monkeypatch, capsys):
    """Two blocks of two convolutions: each of the seven finds something to take out."""
    conv = "[convolutional]\nbatch_normalize=1\nfilters={}\nsize=3\nstride={}\npad=1\nactivation=leaky\n"
    block = conv.format(16, 1) * 2 + "[shortcut]\nfrom=-3\nactivation=linear\n"
    head = "[convolutional]\nfilters=21\nsize=1\nactivation=linear\n[yolo]\nmask=0,1,2\nanchors=4,6, 9,8, 20,24\nclasses=2\n"
    text = "[net]\nwidth=32\nheight=32\nchannels=3\n" + conv.format(16, 2) + block * 2 + head + "num=3\n"
    net = random_network(parse_cfg(text))
    (tmp_path / "net.cfg").write_text(text)
    write_weights(tmp_path / "net.weights", net)
    for n in range(2):
        picture = (torch.rand(32, 32, 3, generator=torch.Generator().manual_seed(n)) * 255).byte().numpy()
        cv2.imwrite(str(tmp_path / f"{n}.png"), picture)
    files = ["--cfg", str(tmp_path / "net.cfg"), "--weights", str(tmp_path / "net.weights"), "--images", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["darknet_boxes.py", *files, "--percent", "0.4", "--conf-thres", "0.2"])
    assert darknet_boxes.main() == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[3:]]
    assert [row[0] for row in rows] == [f"| {name}" for name in ("full", *cfgs.STRATEGIES)]
    full, *small = (int(row[1].replace(",", "")) for row in rows)
    assert all(size < full for name, size in zip(cfgs.STRATEGIES, small, strict=True) if name != "regular")
    assert all(int(row[2]) > 20 and float(row[5]) > 0.999 for row in rows)
    (tmp_path / "net.cfg").write_text(text.replace("leaky", "ramp", 1))
    with pytest.raises(InputError, match=r"net.cfg line 5: OpenCV's reader has no such layer, .* give the program"):
        darknet_boxes.main()
