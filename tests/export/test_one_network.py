"""One integer network: fake-quantised in eval = torch = numpy = C99 = SystemVerilog, every element of every layer.

The other tests here start from post-training quantisation. These start from quantised training, and take all three
families through it: what is shipped, the sample network trained, and random graphs.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from torch import Tensor

from models import Darknet, network_of
from tests.conftest import ROOT
from tests.export.nets import LOW, QUICK, chance, export, lowered, narrow, rich, shipped
from tests.export.test_c99 import check as check_c
from tests.export.test_numpy_executor import SHIPPED, check_equal
from tests.export.test_rtl import check as check_rtl
from tests.quantization.random_nets import cfg_text, random_images, random_network, rich_cfg
from utils.darknet.cfg import read_cfg, write_cfg
from utils.darknet.network import Network
from utils.darknet.shapes import granularity
from utils.errors import InputError
from utils.export import verify
from utils.quantization.executor import IntegerExecutor
from utils.quantization.fake import FakeQuantised
from utils.quantization.integer import IntegerNetwork
from utils.quantization.prepare import prepare
from utils.quantization.scheme import Scheme
from utils.quantization.validate import readouts

TOOLS = bool(shutil.which("cc") and shutil.which("make"))
SIMULATOR = bool(shutil.which("iverilog") and shutil.which("make"))
POW2 = replace(QUICK, style="pow2")
DOREFA = replace(QUICK, style="dorefa")


def trained(network: Network, images: Tensor, scheme: Scheme, *, steps: int = 3, learn: bool = False) -> FakeQuantised:
    """A few steps away from where calibration left it; in eval mode."""
    model = prepare(network, [images], scheme, learn=learn).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    for _ in range(steps):
        sum(head.square().mean() for head in model(images)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def check_fake(model: FakeQuantised, images: Tensor, folder) -> IntegerNetwork:
    """What the model in eval mode returns is what numpy reads out; and every layer of the one is that of the other."""
    network = model.integer()
    check_equal(network, images, folder)
    trace = IntegerExecutor(network).trace(images)
    used = model.executor().trace(images)
    for i, level in trace.levels.items():
        assert torch.equal(used.levels[i], level), f"layer {i}"
    heads = model(images)
    for head, i in zip(heads, readouts(network.spec), strict=True):
        layer, op = network.conv(i)
        real = (trace.accumulators[i].numpy() * op.scale.numpy()[:, None, None]).astype(np.float32)
        assert layer.activation == "linear"
        np.testing.assert_array_equal(head.numpy(), real)
    return network


@pytest.mark.parametrize("name", SHIPPED)
def test_eval_of_a_shipped_cfg_is_what_numpy_computes(name, tmp_path):
    spec = read_cfg(ROOT / f"cfg/{name}.cfg")
    spec = narrow(spec, by=4, least=1) if "ghost" in name else narrow(spec, by=16)
    images = random_images(1, side=max(32, granularity(spec)), image_channels=spec.channels)
    model = prepare(random_network(write_cfg(spec)), [images], QUICK)
    check_fake(model.eval(), images, tmp_path)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    scheme=st.sampled_from([QUICK, LOW, POW2, DOREFA]),
    learn=st.booleans(),
    rich_one=st.booleans(),
)
def test_eval_of_a_random_graph_after_training_is_what_numpy_computes(seed, scheme, learn, rich_one, tmp_path_factory):
    images = random_images(2, seed=seed)
    try:
        model = trained(random_network(rich_cfg(seed) if rich_one else seed), images, scheme, learn=learn)
    except InputError as error:
        assert "joins the image" in str(error)
        reject()  # too many of those fail hypothesis' health check
    check_fake(model, random_images(1, seed=seed + 1), tmp_path_factory.mktemp("net"))


@cache
def sample(style: str) -> tuple[FakeQuantised, Tensor]:
    """The sample cfg whole, a few steps of quantised training on drawn noise."""
    torch.manual_seed(0)
    network = network_of(Darknet(read_cfg(ROOT / "cfg/yolov3-tiny-digits.cfg")))
    images = random_images(2, side=32, seed=4)
    scheme = Scheme(style=style, w_bit=4, a_bit=8 if style == "google" else 4)
    return trained(network, images, scheme, steps=4), random_images(1, side=32, seed=5)


@pytest.mark.parametrize("style", ["google", "pow2"])
def test_eval_of_the_trained_sample_network_is_its_hand_off_in_numpy_c_and_the_simulator(style, tmp_path, caplog):
    model, images = sample(style)
    caplog.set_level("INFO")
    with torch.no_grad():
        network = check_fake(model, images, tmp_path / "alone")
    manifest = export(tmp_path / "net", network, images, forms=("npy", "mem"))
    layers = len(network.spec.layers) - len(network.spec.heads)
    assert f"{layers} layers x 1 images equal in every element" in caplog.text
    assert not TOOLS or f"C99: {layers} layers x 1 images equal in every element" in caplog.text
    assert not SIMULATOR or "outputs equal in every element" in caplog.text.split("RTL: ")[1]
    read = {layer["layer"]: layer for layer in manifest["layers"] if layer.get("read_out")}
    for head, (i, layer) in zip(model(images), sorted(read.items()), strict=True):  # from the files alone
        golden = verify.load(tmp_path / "net", manifest["golden"]["tensors"][0][str(i)])
        scale = np.array(layer["read_out"]["scale"])[:, None, None]
        np.testing.assert_array_equal(head[0].numpy(), (golden * scale).astype(np.float32))


@pytest.mark.skipif(not TOOLS, reason="needs cc and make")
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 10**6), make=st.sampled_from([chance, rich]), scheme=st.sampled_from([QUICK, LOW]))
def test_c_computes_any_random_graph(seed, make, scheme, tmp_path_factory):
    check_c(tmp_path_factory.mktemp("net"), *make(seed, scheme))


@pytest.mark.skipif(not SIMULATOR, reason="needs iverilog")
@pytest.mark.parametrize("name", ["yolov3-tiny", "yolo-fastest", "yolov4"])
def test_the_simulator_computes_a_layer_of_shipped_cfgs(name, tmp_path):
    check_rtl(tmp_path, *shipped(name))


@pytest.mark.skipif(not SIMULATOR, reason="needs iverilog")
@settings(max_examples=6, deadline=None)
@given(
    size=st.sampled_from([2, 3, 5]),
    stride=st.integers(1, 3),
    groups=st.sampled_from([1, 2, 8]),
    pad=st.integers(0, 1),
    activation=st.sampled_from(["relu", "leaky", "linear", "relu6"]),
    scheme=st.sampled_from([QUICK, LOW, POW2]),
    seed=st.integers(0, 1000),
)
def test_the_simulator_computes_any_convolution(size, stride, groups, pad, activation, scheme, seed, tmp_path_factory):
    first = {"filters": 8, "size": 1, "stride": 2, "pad": 1, "activation": "leaky"}  # of one tap: the other is taken
    second = first | {"size": size, "stride": stride, "groups": groups, "pad": pad, "activation": activation}
    images = random_images(1, seed=seed)
    network = lowered(cfg_text(("convolutional", first), ("convolutional", second)), images, scheme)
    assert check_rtl(tmp_path_factory.mktemp("net"), network, images).startswith("RTL: layer 1, ")
