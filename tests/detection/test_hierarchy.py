"""[region] with tree=: classes as a hierarchy, as Darknet reads, tells and trains them (YOLO9000)."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
import torch

import convert
import detect
import test as test_script
import train
from models import build, load_model
from tests.pruning.nets import random_network
from tests.scenes import CFG, undrawn_runs, write_scenes
from utils.darknet.cfg import parse_cfg, read_cfg, write_cfg
from utils.darknet.fold import fold_bn
from utils.darknet.heads import rehead
from utils.darknet.network import load_checkpoint
from utils.darknet.spec import Detect
from utils.darknet.tree import checked, groups
from utils.detection.decode import decode
from utils.detection.hierarchy import log_probabilities, path_loss, told
from utils.distillation.pairs import difference
from utils.errors import InputError
from utils.export.layers import MOVES
from utils.export.onnx_float import float_model

TREE = "thing -1\nother -1\nblue 0\ngreen 0\ndark 3\n"
PARENTS = (-1, -1, 0, 0, 3)
HEAD = "[net]\nwidth=32\nheight=32\n[convolutional]\nfilters=20\nsize=1\nactivation=linear\n"
REGION = "[region]\nanchors=1,2, 3.5,4\nclasses=5\nnum=2\nsoftmax=1\ntree=data/5.tree\n"


def placed(folder: Path, text: str = HEAD + REGION, tree: str = TREE) -> Path:
    (folder / "data").mkdir(exist_ok=True)
    (folder / "data/5.tree").write_text(tree)
    (folder / "cfg").mkdir(exist_ok=True)
    (folder / "cfg/net.cfg").write_text(text)
    return folder / "cfg/net.cfg"


def random_tree(rng: random.Random, count: int) -> tuple[int, ...]:
    parents = [-1] * rng.randint(1, 4)
    for above in range(count):
        if len(parents) >= count or above >= len(parents):
            break
        parents += [above] * rng.choice((0, 1, 2, 3, 4))
    return tuple(parents)


def by_loop(values: list[float], parents: tuple[int, ...], enough: float) -> tuple[list[float], int]:
    """softmax_tree, hierarchy_predictions and hierarchy_top_prediction in words: shares in groups, and what is told."""
    members: dict[int, list[int]] = {}
    for n, parent in enumerate(parents):
        members.setdefault(parent, []).append(n)
    share = [0.0] * len(parents)
    for group in members.values():
        most = max(values[n] for n in group)
        total = sum(math.exp(values[n] - most) for n in group)
        for n in group:
            share[n] = math.exp(values[n] - most) / total
    path = list(share)
    for n, parent in enumerate(parents):
        path[n] *= path[parent] if parent >= 0 else 1
    chance, above = 1.0, -1
    while True:
        best = max(members[above], key=lambda n: (path[n], -n))
        if chance * path[best] > enough:
            chance *= path[best]
            if best not in members:
                return share, best
            above = best
        else:
            return share, best if above < 0 else above


def test_shares_and_the_class_that_is_told_are_darknets_loops():
    inner, rng = set(), random.Random(0)
    for seed in range(12):
        parents = checked(random_tree(rng, 30), "tree")
        values = torch.randn(2, 4, len(parents), generator=torch.Generator().manual_seed(seed)) * 4
        shares, ends = log_probabilities(values, parents).exp(), told(values, parents)
        for row, share, end in zip(values.flatten(0, 1), shares.flatten(0, 1), ends.flatten().tolist(), strict=True):
            wanted, last = by_loop(row.tolist(), parents, 0.5)
            torch.testing.assert_close(share, torch.tensor(wanted), rtol=1e-4, atol=1e-6)
            assert end == last
            inner.add((parents[end] >= 0, end in parents))
    assert len(inner) == 4  # at the top and below it, with classes under them and without


def test_the_loss_of_a_class_is_that_of_its_whole_path_with_darknets_gradient():
    values = torch.randn(3, 5, requires_grad=True)
    labels = torch.tensor([4, 1, 2])
    path_loss(values, labels, PARENTS).backward()
    for row, label in enumerate(labels.tolist()):
        share, _ = by_loop(values[row].tolist(), PARENTS, 0.5)
        wanted, at = torch.zeros(5), label
        while at >= 0:
            same = [n for n in range(5) if PARENTS[n] == PARENTS[at]]
            wanted[same] += torch.tensor([share[n] for n in same])
            wanted[at] -= 1
            at = PARENTS[at]
        torch.testing.assert_close(values.grad[row], wanted)


def test_boxes_are_told_by_the_tree_with_the_objectness_as_score(tmp_path):
    spec = read_cfg(placed(tmp_path))
    head, raw = spec.layers[1], torch.randn(1, 20, 2, 3) * 3
    found = decode([raw], [head], (64, 96))[0]
    values = raw.view(2, 10, 2, 3).permute(0, 2, 3, 1).reshape(-1, 10)
    ends = [by_loop(row[5:].tolist(), PARENTS, 0.5)[1] for row in values]
    assert found[:, 5:].argmax(1).tolist() == ends and torch.equal(found[:, 5:].sum(1), torch.ones(12))
    torch.testing.assert_close(found[:, 4], values[:, 4].sigmoid())


def test_a_tree_is_found_beside_the_cfg_above_it_or_here_and_travels_in_the_cfg(tmp_path, monkeypatch):
    path = placed(tmp_path)
    spec = read_cfg(path)
    assert spec.layers[1].parents == PARENTS and groups(PARENTS) == ((0, 0, 1, 1, 2), (1, -1, -1, 2, -1))
    text = write_cfg(spec)
    assert "tree=data/5.tree\nparents=-1,-1,0,0,3\n" in text and parse_cfg(text) == spec
    monkeypatch.chdir(tmp_path)
    assert parse_cfg(path.read_text()) == spec
    (tmp_path / "data/5.tree").rename(tmp_path / "cfg/5.tree")
    with pytest.raises(InputError, match=r"line 8: tree=data/5.tree is neither in this folder, beside the cfg, nor"):
        read_cfg(path)
    path.write_text(path.read_text().replace("data/5", "5"))
    assert read_cfg(path).layers[1].parents == PARENTS


@pytest.mark.parametrize(("tree", "message"), [
    (TREE.replace("blue 0", "blue"), r"5.tree line 3: a line has a name and the number of its parent"),
    (TREE.replace("other -1", "other 0").replace("blue 0", "blue -1"), "all of one parent stand together"),
    (TREE.replace("dark 3", "dark 9"), "class 4 has parent 9; it is -1 or a class before it"),
    (TREE + "light 3\n", r"net.cfg line 8: tree=data/5.tree has 6 classes, classes=5; make them fit"),
])  # fmt: skip
def test_a_file_that_is_no_tree_of_these_classes_is_refused(tmp_path, tree, message):
    with pytest.raises(InputError, match=message):
        read_cfg(placed(tmp_path, tree=tree))


def test_what_has_no_hierarchy_refuses_it_by_name(tmp_path):
    spec = read_cfg(placed(tmp_path))
    head = spec.layers[1]
    with pytest.raises(
        InputError, match=r"cfg line 8: \[region\] with tree= is not decoded in a graph; leave --decode"
    ):
        float_model(fold_bn(random_network(spec)), (32, 32), decode=True)
    float_model(fold_bn(random_network(spec)), (32, 32))  # what the message says
    with pytest.raises(InputError, match=r"\[region\] with tree= has no decoder in a hand-off; export.py onnx --float"):
        MOVES[Detect](head)
    flat = rehead(spec, 3).layers[1]
    assert (flat.classes, flat.tree, flat.parents) == (3, "", ())
    assert difference(head, rehead(spec, 5).layers[1]) == "" and "hierarchies" in difference(head, flat)


def test_a_network_of_a_hierarchy_is_trained_measured_shown_and_written(tmp_path, monkeypatch):
    write_scenes(tmp_path, train=4, valid=2)
    for label in [*tmp_path.rglob("labels/**/*.txt")]:
        label.write_text("".join(f"{int(row[0]) + 2}{row[1:]}\n" for row in label.read_text().splitlines()))
    data = (tmp_path / "set.data").read_text()
    names = next(line.partition("=")[2].strip() for line in data.splitlines() if line.startswith("names"))
    (tmp_path / Path(names).name).write_text("thing\nother\nblue\ngreen\ndark\n")
    (tmp_path / "set.data").write_text(data.replace("classes=2", "classes=5").replace("classes = 2", "classes = 5"))
    body = CFG.split("[convolutional]\nfilters=14")[0]
    text = body + "[convolutional]\nfilters=20\nsize=1\nactivation=linear\n" + REGION
    cfg = placed(tmp_path, text)
    monkeypatch.chdir(tmp_path)
    undrawn_runs(monkeypatch)
    common = ["--data", "set.data", "--device", "cpu"]
    train.run(train.parser().parse_args([*common, "--cfg", str(cfg), "--epochs", "1", "--workers", "0"]))
    assert load_checkpoint("weights/last.pt").network.spec.layers[-1].parents == PARENTS
    test_script.run(test_script.parser().parse_args([*common, "--weights", "weights/last.pt", "--workers", "0"]))
    shown = ["--weights", "weights/last.pt", "--source", "images/valid", "--device", "cpu", "--conf-thres", "0.001"]
    detect.run(detect.parser().parse_args(shown))
    (tmp_path / "data/5.tree").unlink()
    convert.run(convert.parser().parse_args(["--weights", "weights/last.pt"]))
    (weights,) = Path("weights").glob("*.weights")
    again, x = load_model(weights, weights.with_suffix(".cfg")), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        (mine,), (theirs,) = build(load_checkpoint("weights/last.pt").network)(x), again.predictor(x)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)
