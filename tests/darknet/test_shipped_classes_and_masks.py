"""Every shipped network of classes and of masks, in narrow: cut, trained in few bits, integers, spikes, C99, ONNX."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path

import pytest
import torch

from models import build
from tests.conftest import ROOT
from tests.export.nets import narrow
from tests.export.test_c99 import check as check_c
from tests.export.test_onnx import POW2_LOW, compare
from tests.pruning.nets import assert_same, random_network, run
from tests.pruning.test_all_strategies import EXACT, SCRIPTS, cast, defaults, run_in_float64
from tests.quantization.random_nets import random_images
from tests.quantization.test_fake import still
from utils.darknet.cfg import parse_cfg, read_cfg, write_cfg
from utils.darknet.channel_groups import trace
from utils.darknet.fold import fold_bn, unfold_bn
from utils.darknet.network import Network
from utils.errors import InputError
from utils.pruning.absorb import zeroed
from utils.pruning.bias_carrier import settle_and_cut
from utils.pruning.blocks import blocks
from utils.pruning.choices import Beta
from utils.pruning.layer_plan import plan_layers
from utils.pruning.layers import drop, silence_layers
from utils.pruning.plan import ShortcutRule, plan_channels
from utils.pruning.recalibrate import recalibrate
from utils.quantization.calibrate import calibrate
from utils.quantization.executor import IntegerExecutor
from utils.quantization.lower import lower
from utils.quantization.prepare import prepare
from utils.spiking.layerwise import LayerwiseExecutor
from utils.spiking.spike_schedule import encode
from utils.spiking.stream import StreamExecutor
from utils.task import task_name

PATHS = [*sorted((ROOT / "cfg/classes").glob("*.cfg")), *sorted((ROOT / "cfg/masks").glob("*.cfg"))]
PATHS += [ROOT / "cfg/cifar-resnet20.cfg", ROOT / "cfg/camvid-deeplab.cfg"]
DEEPER = ("cifar-resnet44", "cifar-resnet56", "cifar-resnet110")  # than cifar-resnet32, of the same blocks
PATHS = [path for path in PATHS if path.stem not in DEEPER]
UNLIKE = ("cifar-alexnet", "vgg16", "resnet18", "deeplabv1-vgg9", "deeplabv3-resnet34")  # one of each kind of structure
each = pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)


@cache
def small(path: Path) -> Network:
    """A 32nd of the widths, at 32 px (64 where the cfg halves them too often), random."""
    spec = read_cfg(path)
    side = 64 if path.stem in ("alexnet", "resnet18", "resnet34") or task_name(spec) == "segmentation" else 32
    text = write_cfg(narrow(spec, by=32))
    if path.stem == "deeplabv3-resnet34":  # its mean of the whole map is spread over it
        text = text.replace("[upsample]\nstride=32\n", f"[upsample]\nstride={side // 16}\n")
    for word, value in (("height", spec.height), ("width", spec.width)):
        text = text.replace(f"{word}={value}\n", f"{word}={side}\n", 1)
    return random_network(parse_cfg(text))


def images(net: Network, n: int = 1, seed: int = 0) -> torch.Tensor:
    return random_images(n, side=net.spec.height, image_channels=net.spec.channels, seed=seed)


def assert_that_six_prunings_cut_what_they_silence(net: Network) -> None:
    net = cast(recalibrate(net, build, [images(net, 4, seed=5)]), torch.float64)
    for script in SCRIPTS:
        strategy, percent = defaults(script)
        shorter = net
        if strategy.tie is ShortcutRule.KEEP and set(trace(net.spec).tied[~trace(net.spec).locked].tolist()) == {True}:
            with pytest.raises(InputError, match=r"are tied; slim_prune\.py and shortcut_prune\.py cut"):
                plan_channels(net, percent=0.3, tie=strategy.tie)
        elif strategy.tie is not None:
            kinds = {"tie": strategy.tie, "floor": strategy.floor, "multiple": strategy.multiple}
            plan = plan_channels(net, percent=min(percent, 0.3), **kinds)
            shorter, plan = settle_and_cut(net, plan, Beta.CARRIER)
            x = images(net, 2)
            assert_same(run_in_float64(shorter, x), run_in_float64(zeroed(net, plan), x), EXACT)
        if strategy.blocks and blocks(shorter.spec):
            layers = plan_layers(shorter, n=(len(blocks(shorter.spec)) + 2) // 3)
            short, x = drop(shorter, layers), images(net, 2)
            assert len(short.spec.layers) < len(shorter.spec.layers)
            assert_same(run_in_float64(short, x), run_in_float64(silence_layers(shorter, layers), x), EXACT)
        elif strategy.blocks:
            with pytest.raises(InputError, match="no residual block"):
                plan_layers(shorter, n=1)


@each
def test_six_prunings_cut_what_they_silence(path):
    spec = read_cfg(path)
    assert parse_cfg(write_cfg(spec)) == spec
    net = small(path)
    if not net.spec.normed:
        with pytest.raises(InputError, match=r"nothing to prune: all 0 convolutions.*import --batch-norm"):
            plan_channels(net, percent=0.3, tie=ShortcutRule.ANY)
        plain, net = net, unfold_bn(net)
        assert_same(run(net, images(net, 2)), run(plain, images(net, 2)))
        again = fold_bn(net).state
        assert again.keys() == plain.state.keys()
        assert all(torch.allclose(again[key], value, rtol=3e-7, atol=0) for key, value in plain.state.items())
    assert_that_six_prunings_cut_what_they_silence(net)


@each
def test_what_trains_in_few_bits_is_the_integers_to_the_last_bit(path):
    net = still(small(path))
    model = prepare(net, [images(net, 2)], POW2_LOW).train()
    model(images(net, 2, seed=1))
    model.at(1.0)
    x = images(net, 2, seed=2)
    for ours, theirs in zip(model(x), IntegerExecutor(model.integer())(x), strict=True):
        assert torch.equal(ours, theirs) and len(theirs.unique()) > 2


@each
def test_spikes_are_the_integers_layerwise_and_in_a_settled_stream(path):
    net = small(path)
    integer = lower(calibrate(net, [images(net)], POW2_LOW))
    x, snn = images(net, seed=3), encode(integer)
    wanted = IntegerExecutor(integer)(x)
    for executor in (LayerwiseExecutor(snn), StreamExecutor(snn)):
        assert all(torch.equal(a, b) for a, b in zip(executor(x), wanted, strict=True))
    assert len(wanted[0].unique()) > 2


@pytest.mark.parametrize("name", UNLIKE)
def test_c99_and_onnx_compute_the_integers(name, tmp_path):
    net = small(next(path for path in PATHS if path.stem == name))
    integer, x = lower(calibrate(net, [images(net)], POW2_LOW)), images(net, seed=3)
    found = compare(integer, x, tmp_path)
    assert not any(each.differing for each in (*found.alone, *found.chained, *found.heads))
    if shutil.which("cc") and shutil.which("make"):
        check_c(tmp_path / "c", integer, x)


def conv(filters: int, size: int = 1, more: str = "activation=relu") -> str:
    return f"[convolutional]\nbatch_normalize=1\nfilters={filters}\nsize={size}\npad=1\n{more}\n"


NET = "[net]\nwidth=16\nheight=16\nchannels=3\n" + conv(8, 3)
TAIL = "[avgpool]\n[convolutional]\nfilters=5\nsize=1\nactivation=linear\n[softmax]\n"
BRANCH = conv(8, 1, "activation=relu") + conv(8, 3, "groups=4\nactivation=relu") + conv(8, 1, "activation=linear")
PUBLISHED = {  # what densenet201.cfg and resnext50.cfg are made of
    "dense": NET + "".join(conv(8) + conv(4, 3) + "[route]\nlayers=-1,-3\n" for _ in range(3)) + conv(6) + TAIL,
    "grouped": NET + 2 * (BRANCH + "[shortcut]\nfrom=-4\nactivation=relu\n") + TAIL,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_dense_and_grouped_structures_are_cut_and_become_spikes(name):
    net = random_network(parse_cfg(PUBLISHED[name]))
    assert_that_six_prunings_cut_what_they_silence(net)
    integer, x = lower(calibrate(net, [images(net)], POW2_LOW)), images(net, seed=3)
    wanted = IntegerExecutor(integer)(x)[0]
    assert torch.equal(LayerwiseExecutor(encode(integer))(x)[0], wanted) and len(wanted.unique()) > 2
