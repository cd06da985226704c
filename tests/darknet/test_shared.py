"""share_index=: convolutions with one set of tensors: their file, values, training, cuts and refusals."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

import slim_prune
import train
from benchmarks.random_network import random_network
from models import Darknet, build, load_model
from tests.conftest import ROOT
from tests.darknet.opencv import opencv_outputs
from tests.scenes import undrawn_runs, write_scenes
from utils.darknet.cfg import parse_cfg, read_cfg, write_cfg
from utils.darknet.counts import count, parameters
from utils.darknet.network import Network, load_checkpoint
from utils.darknet.sharing import owners, tie, untied
from utils.darknet.weights import read_weights, tensors, write_weights
from utils.errors import InputError
from utils.pruning.plan import ShortcutRule, plan_channels
from utils.pruning.surgery import cut, silence

CFG = ROOT / "tests/cfgs/shared.cfg"
TEXT = CFG.read_text()
PAIRS = {7: 1, 8: 2, 10: 1, 12: 4}  # the blur of layer 10's section is layer 11
NETWORK = random_network(read_cfg(CFG))


def test_a_set_is_named_by_sections_absolute_or_backwards_and_written_again():
    spec = read_cfg(CFG)
    assert owners(spec.layers) == PAIRS and parse_cfg(write_cfg(spec)) == spec
    assert re.findall(r"share_index=(-?\d+)", write_cfg(spec)) == ["1", "2", "1", "4"]
    assert [spec.convs[i].dilation for i in (1, 7, 10)] == [3, 2, 1]
    assert parse_cfg(TEXT.replace("share_index=4", "share_index=-1000000000")).convs[12].shared == 0


def test_the_file_has_each_tensor_once_and_the_layers_have_it_alike(tmp_path):
    path = write_weights(tmp_path / "net.weights", NETWORK)
    held = [key for _, key, _ in tensors(NETWORK.spec)]
    assert path.stat().st_size == struct.calcsize("<3iq") + 4 * sum(NETWORK.state[key].numel() for key in held)
    found = read_weights(path, NETWORK.spec).state
    assert {key: value.tolist() for key, value in found.items()} == {
        key: value.tolist() for key, value in NETWORK.state.items()
    }
    assert all(
        torch.equal(found[f"layers.{i}.conv.weight"], found[f"layers.{j}.conv.weight"]) for i, j in PAIRS.items()
    )
    apart = {**NETWORK.state, "layers.7.conv.weight": NETWORK.state["layers.7.conv.weight"] + 1}
    with pytest.raises(ValueError, match="have different ones: untie"):
        write_weights(tmp_path / "other.weights", Network(NETWORK.spec, apart))


def test_parameters_are_counted_once_and_multiplications_every_time():
    alone = count(untied(NETWORK).spec)
    assert count(NETWORK.spec).macs == alone.macs
    shared = sum(layer.params for layer in alone.layers if layer.layer in PAIRS)
    assert count(NETWORK.spec).params == parameters(NETWORK.spec) == alone.params - shared < alone.params


def test_each_computes_with_the_weights_of_the_first_and_its_own_dilation(tmp_path):
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        out = build(NETWORK).activations(x)
    state = NETWORK.state
    norm = [state[f"layers.1.bn.{name}"] for name in ("running_mean", "running_var", "weight", "bias")]
    for i, dilation in ((1, 3), (7, 2)):
        sums = F.conv2d(out[0], state["layers.1.conv.weight"], padding=dilation, dilation=dilation)
        torch.testing.assert_close(out[i], F.leaky_relu(F.batch_norm(sums, *norm, eps=1e-6), 0.1))
    plain = random_network(parse_cfg(re.sub(r"(antialiasing|dilation)=\d\n", "", TEXT)))  # which OpenCV does not read
    found = opencv_outputs(untied(plain), x, tmp_path, ["conv_4", "conv_11"])
    for mine, theirs in zip(build(plain)(x), found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_what_trains_is_one_tensor_whose_gradient_is_the_sum_of_all_of_them():
    x = torch.rand(2, 3, 64, 64)
    models = [Darknet(NETWORK.spec) for _ in range(2)]
    for model in models:
        model.load_state_dict(NETWORK.state, strict=False)
        model.eval()
    together, apart = models
    tie(together)
    for model in models:
        sum(out.square().mean() for out in model(x)).backward()
    for name in ("conv.weight", "bn.weight"):
        grads = {i: dict(apart.named_parameters())[f"layers.{i}.{name}"].grad for i in (1, 7, 10)}
        torch.testing.assert_close(dict(together.named_parameters())[f"layers.1.{name}"].grad, sum(grads.values()))
    torch.optim.SGD(together.parameters(), 0.1).step()
    state = together.state_dict()
    assert not torch.equal(state["layers.1.conv.weight"], NETWORK.state["layers.1.conv.weight"])
    assert all(
        torch.equal(state[f"layers.{i}.conv.weight"], state[f"layers.{j}.conv.weight"]) for i, j in PAIRS.items()
    )


def test_a_cut_dissolves_the_set_and_equals_what_is_silenced():
    plan = plan_channels(NETWORK, percent=0.5, tie=ShortcutRule.ANY)
    small, x = cut(NETWORK, plan), torch.rand(1, 3, 64, 64)
    assert not owners(small.spec.layers) and "share_index" not in write_cfg(small.spec)
    with torch.no_grad():
        for mine, theirs in zip(build(small)(x), build(silence(NETWORK, plan))(x), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("right", "wrong", "message"), [
    ("share_index=1", "share_index=3", r"line \d+: share_index= names no \[convolutional\]; name one before"),
    ("share_index=1", "share_index=40", r"\[convolutional\] reads layer 40, but only layers 0 to 6 come before it"),
    ("share_index=1", "share_index=2", r"share_index= takes the weights of line 24, which has size 1, this one 3"),
    ("share_index=-6", "share_index=0", "takes the weights of line 7, which has channels 3, this one 8"),
    ("share_index=-6\nbatch_normalize=1", "share_index=-6", "has batch_normalize 1, this one 0; make them alike"),
    ("dilation=3\nactivation=leaky", "dilation=3\nactivation=lif", "neurons with state can not share weights"),
])  # fmt: skip
def test_what_cannot_be_shared_is_refused_with_both_lines(right, wrong, message):
    with pytest.raises(InputError, match=message):
        parse_cfg(TEXT.replace(right, wrong, 1))


def test_a_training_keeps_the_set_and_pruning_tells_that_it_ends(tmp_path, monkeypatch, caplog):
    write_scenes(tmp_path, train=4, valid=2)
    monkeypatch.chdir(tmp_path)
    undrawn_runs(monkeypatch)
    text = TEXT.replace("filters=18", "filters=21").replace("classes=1", "classes=2")
    Path("net.cfg").write_text(text)
    common = ["--data", "set.data", "--workers", "0", "--device", "cpu"]
    train.run(train.parser().parse_args([*common, "--cfg", "net.cfg", "--epochs", "1", "--darknet"]))
    trained = load_checkpoint("weights/last.pt").network
    assert owners(trained.spec.layers) == PAIRS and "share_index=1" in Path("weights/last.cfg").read_text()
    again = read_weights("weights/last.weights", trained.spec).state
    assert all(torch.equal(again[key], trained.state[key]) for key in again)
    with caplog.at_level("INFO"):
        slim_prune.run(slim_prune.parser().parse_args(["--weights", "weights/last.pt", "--percent", "0.3", *common]))
    assert "4 convolutions that shared weights have their own from here on" in caplog.text
    (small,) = Path("weights").glob("*prune*.pt")
    assert not owners(load_model(small).spec.layers)
