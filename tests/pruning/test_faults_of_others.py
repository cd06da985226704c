"""Faults of other YOLO pruning projects that ours could repeat; each test is named after one.

Elsewhere: layer pruning that saves random weights, routes that point to the wrong layer once layers are gone (test_layers,
test_blocks); rounding above the width, threshold ties and percents that crash, searches that never end or have no winner
(test_plan, test_search); backbones that are refused by their name (test_all_strategies); constants of channels that are
lost on the way (test_carrier); files of an earlier run overwritten (test_prune_scripts).
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import tests.test_prune_scripts as scripts
from tests.pruning.nets import ROOT, assert_same, image, random_network, run
from tests.pruning.residual import thin
from utils.darknet import spec as s
from utils.darknet.cfg import parse_cfg, read_cfg, write_cfg
from utils.darknet.channel_groups import trace
from utils.darknet.network import Network, load_checkpoint
from utils.darknet.weights import write_weights
from utils.detection.decode import decode, strides
from utils.pruning.absorb import zeroed
from utils.pruning.bias_carrier import settle_and_cut
from utils.pruning.choices import Beta
from utils.pruning.plan import Plan, ShortcutRule, plan_channels

place = scripts.place


def slimmed(net: Network, percent: float = 0.5) -> tuple[Network, Plan]:
    return settle_and_cut(net, plan_channels(net, percent=percent, tie=ShortcutRule.ANY), Beta.CARRIER)


@pytest.mark.parametrize("cfg", ["{place}/my cfgs/v4.1/yolov3.cfg/panet.cfg", "./cfg/../deep/er/a.b.cfg", "flat.cfg"])
def test_names_of_outputs_are_not_made_of_the_slashes_of_inputs(place, cfg):
    """The reference puts its tag behind every slash of --cfg: absolute and deep paths end in folders that do not exist."""
    net = load_checkpoint("sparse.pt").network
    (place / "cfg").mkdir()
    path = place / cfg.format(place=place)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(write_cfg(net.spec))
    weights = write_weights(place / "else where" / "best.1" / "w.weights", net)
    before = set(place.rglob("*"))
    words = ["--percent", "0.3", "--cfg", cfg.format(place=place), "--weights", str(weights)]
    scripts.run("slim_prune", *words)
    new = {str(file.relative_to(place)) for file in set(place.rglob("*")) - before if file.is_file()}
    assert {name for name in new if not name.startswith("runs/")} == {
        "weights/slim_prune_0.3.pt",
        "weights/slim_prune_0.3.weights",
        "cfg/pruned/slim_prune_0.3.cfg",
    }
    assert {name.split("/")[1] for name in new if name.startswith("runs/")} == {"slim_prune"}


def test_two_strategies_never_write_the_same_file(place):
    """The reference's searches for slim and regular pruning overwrite each other's rand-slim files."""
    for script in ("slim_prune", "regular_prune"):
        paths = scripts.run(script, "--percent", "0.3").paths("*.*")
        files = [path.name for path in paths if path.suffix in (".pt", ".weights", ".cfg")]
        assert sorted(files) == [f"{script}_0.3{suffix}" for suffix in (".cfg", ".pt", ".weights")]


@pytest.mark.parametrize(("spec", "expected"), [(thin("yolov4"), [8, 16, 32]), (thin("yolov3"), [32, 16, 8])])
def test_strides_do_not_depend_on_the_name_of_the_cfg(tmp_path, spec, expected):
    """The reference takes [8, 16, 32] where the path has yolov4 in it: under any other name v4's boxes are wrong."""
    small, _ = slimmed(random_network(spec))
    x, found = image(small), []
    for name in ("compact", "yolov4-panet", "cd53"):
        (tmp_path / f"{name}.cfg").write_text(write_cfg(small.spec))
        read = read_cfg(tmp_path / f"{name}.cfg")
        raw = run(Network(read, small.state), x)
        assert [strides(each, (64, 64)) for each in raw] == [(n, n) for n in expected]
        found.append(decode(raw, [layer for layer in read.layers if isinstance(layer, s.Detect)], (64, 64)))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_every_head_keeps_its_own_anchors():
    """The reference writes the first head's anchors into all heads."""
    spec = read_cfg(ROOT / "cfg" / "yolov3-tiny.cfg")
    layers = list(spec.layers)
    for number, i in enumerate(spec.heads, 1):
        head = layers[i]
        assert isinstance(head, s.Yolo)
        layers[i] = replace(head, anchors=tuple((number * w, number * h + 0.5) for w, h in head.anchors))
    small, _ = slimmed(random_network(replace(spec, layers=tuple(layers))))
    again = parse_cfg(write_cfg(small.spec))
    assert [again.layers[i] for i in again.heads] == [layers[i] for i in spec.heads]


def test_every_source_of_a_shortcut_survives():
    """The reference writes only the first number of from= into the pruned cfg."""
    conv = "[convolutional]\nbatch_normalize=1\nfilters=8\nsize=3\npad=1\nactivation=leaky\n"
    text = "[net]\nchannels=3\n" + conv * 3 + "[shortcut]\nfrom=-2,-3\nactivation=linear\n" + conv + conv
    net = random_network(parse_cfg(text.removesuffix(conv) + "[convolutional]\nfilters=7\nactivation=linear\n"
                                   "[yolo]\nmask=0\nanchors=4,4\nclasses=2\n"))  # fmt: skip
    small, plan = slimmed(net)
    again = parse_cfg(write_cfg(small.spec))
    assert again.layers[3].sources == net.spec.layers[3].sources == (2, 1, 0)
    x = image(net, 2, 8)
    assert_same(run(Network(again, small.state), x), run(zeroed(net, plan), x))


@pytest.mark.parametrize("sources", ["-1,-2,-3", "-1,-2,-3,0,-1", "0,-1,1,-2,0,-1"])
def test_routes_of_any_number_of_sources_are_followed(sources):
    """The reference knows routes of one, two and four (SPP's), takes the four for one layer, and stops at others."""
    conv = "[convolutional]\nbatch_normalize=1\nfilters={}\nsize=3\npad=1\nactivation=leaky\n"
    text = "[net]\nchannels=3\n" + "".join(conv.format(n) for n in (6, 8, 10)) + f"[route]\nlayers={sources}\n"
    text += conv.format(12) + "[convolutional]\nfilters=7\nactivation=linear\n[yolo]\nmask=0\nanchors=4,4\nclasses=2\n"
    net = random_network(parse_cfg(text))
    small, plan = slimmed(net)
    assert all(row.after < row.before for row in plan.rows)
    x = image(net, 2, 8)
    assert_same(run(small, x), run(zeroed(net, plan), x))


@pytest.mark.parametrize("tie", ShortcutRule)
def test_leader_without_batch_norm_locks_its_shortcut(tie):
    """The reference ends in a KeyError where the layer that a shortcut starts from cannot be pruned."""
    conv = "[convolutional]\n{}filters=8\nsize=3\npad=1\nactivation=leaky\n"
    bn = conv.format("batch_normalize=1\n")
    text = "[net]\nchannels=3\n" + conv.format("") + bn * 2 + "[shortcut]\nfrom=-3\nactivation=linear\n" + bn
    net = random_network(parse_cfg(text + "[convolutional]\nfilters=7\nactivation=linear\n"
                                   "[yolo]\nmask=0\nanchors=4,4\nclasses=2\n"))  # fmt: skip
    plan = plan_channels(net, percent=0.5, tie=tie)
    assert plan.keep[trace(net.spec).outputs[3]].all()
    assert [row.layer for row in plan.rows] == [1, 4]


def test_layers_wider_than_2016_channels_are_rounded_like_any_other():
    """The reference's table of multiples ends at 2016; what is wider is left as it is, silently."""
    layers = (s.Conv(sources=(-1,), filters=2400, bn=True), s.Conv(sources=(0,), filters=5))
    plan = plan_channels(random_network(s.ModelSpec(layers=layers)), percent=0.1, tie=ShortcutRule.KEEP, multiple=32)
    assert plan.rows[0].above == 2160 and plan.rows[0].after == 2176
