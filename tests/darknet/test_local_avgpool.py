"""Means of windows, from the cfg to integers, spikes and hand-offs. OpenCV's reader does not know [local_avgpool]."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models import Darknet, build, load_model, network_of
from tests.conftest import ROOT
from tests.export.nets import export
from tests.quantization.random_nets import random_images, random_network
from tests.quantization.test_sections import assert_equals_numpy, assert_survives_its_file
from tests.spiking.test_equality import assert_equal_everywhere
from utils.darknet import spec as s
from utils.darknet.cfg import parse_cfg, read_cfg, write_cfg
from utils.darknet.channel_groups import trace
from utils.darknet.counts import count
from utils.darknet.fold import fold_bn
from utils.darknet.forward import without_tensors
from utils.darknet.network import save_checkpoint
from utils.darknet.shapes import sizes, strides
from utils.darknet.weights import read_weights, write_weights
from utils.errors import InputError
from utils.export.onnx_check import compare_qdq, compare_quant, session
from utils.export.onnx_check import run as run_onnx
from utils.export.onnx_float import float_model
from utils.export.onnx_graph import check, save
from utils.export.onnx_qdq import qdq_model
from utils.export.onnx_quant import quant_model
from utils.export.targets import check_target
from utils.pruning.absorb import absorb, zeroed
from utils.pruning.plan import ShortcutRule, plan_channels
from utils.pruning.scores import gammas
from utils.pruning.surgery import cut, silence
from utils.quantization.calibrate import calibrate
from utils.quantization.executor import IntegerExecutor
from utils.quantization.integer import IntConv, IntegerNetwork
from utils.quantization.lower import lower
from utils.quantization.prepare import prepare
from utils.quantization.qat_checkpoint import to_trained
from utils.quantization.scheme import Scheme
from utils.spiking.rate import normalise
from utils.spiking.spike_schedule import encode
from utils.spiking.stream import StreamExecutor

CFG = ROOT / "tests/cfgs/averages.cfg"
POOLS = (1, 4, 7)
QUICK = Scheme(a_bit=8, equalise=False, correct_bias=False, ranges="minmax")
FOUR = Scheme(a_bit=4)
POWERS = Scheme(style="pow2", a_bit=4)


@cache
def lowered(scheme: Scheme, cfg: str = "") -> IntegerNetwork:
    return lower(calibrate(random_network(cfg or write_cfg(read_cfg(CFG))), [images()], scheme))


def images(n: int = 2):
    return random_images(n, side=64)


def pool(size: int, stride: int, pad: int) -> s.LocalAvgPool:
    return s.LocalAvgPool(sources=(-1,), size=size, stride=stride, pad=pad)


def darknet(layer: s.LocalAvgPool, x: np.ndarray) -> np.ndarray:
    """The loops of forward_local_avgpool_layer (maxpool_layer.c), for one image [C,H,W]."""
    c, h, w = x.shape
    out_h, out_w = ((side + layer.pad - layer.size) // layer.stride + 1 for side in (h, w))
    out = np.zeros((c, out_h, out_w))
    for k in range(c):
        for i in range(out_h):
            for j in range(out_w):
                total, counter = 0.0, 0
                for n in range(layer.size):
                    for m in range(layer.size):
                        y, z = -(layer.pad // 2) + i * layer.stride + n, -(layer.pad // 2) + j * layer.stride + m
                        if 0 <= y < h and 0 <= z < w:
                            total, counter = total + x[k, y, z], counter + 1
                out[k, i, j] = total / counter
    return out


@settings(max_examples=60, deadline=None, derandomize=True)
@given(size=st.integers(1, 5), stride=st.integers(1, 3), data=st.data(), high=st.integers(5, 9), wide=st.integers(5, 9))
def test_windows_are_averaged_as_darknet_does(size, stride, data, high, wide):
    layer = pool(size, stride, data.draw(st.integers(0, 2 * size - 2)))
    x = np.random.default_rng(size).normal(size=(2, high, wide))
    found = without_tensors(layer, [torch.from_numpy(x)[None]])[0].numpy()
    np.testing.assert_allclose(found, darknet(layer, x), rtol=1e-12, atol=1e-12)
    spec = s.ModelSpec(layers=(layer,), net=(("channels", "2"),))
    assert sizes(spec, high, wide)[0] == found.shape[1:] and strides(spec)[0] == stride


def test_its_gradient_is_that_of_the_mean():
    for layer in (pool(3, 2, 2), pool(2, 2, 1), pool(4, 1, 3), pool(2, 2, 0)):
        x = torch.rand(1, 2, 5, 6, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda y, layer=layer: without_tensors(layer, [y]), x)


def sections(text: str) -> s.Layer:
    return parse_cfg(f"[net]\nchannels=2\nwidth=8\nheight=8\n{text}\n").layers[0]


def test_keys_and_defaults():
    assert sections("[local_avgpool]\nsize=3\nstride=2") == pool(3, 2, 2)
    assert sections("[local_avgpool]\nstride=2") == pool(2, 2, 1)
    assert sections("[local_avgpool]") == pool(1, 1, 0)
    assert sections("[avgpool]\nsize=2") == pool(2, 2, 0)
    assert sections("[avgpool]\nsize=3\nstride=1\npadding=2") == pool(3, 1, 2)
    assert sections("[avgpool]") == s.AvgPool(sources=(-1,))


def test_what_cannot_be_meant_is_refused():
    for text, message in {
        "[avgpool]\nstride=2": r"line 5: \[avgpool\] needs size=",
        "[local_avgpool]\nsize=2\npadding=4": r"line 5: padding=4 is more than a pool of size 2 can take",
        "[local_avgpool]\nsize=0": r"line 6: size=0 must be one whole number from 1 up",
        "[local_avgpool]\nside=2": r"line 6: unknown key 'side' in \[local_avgpool\]",
    }.items():
        with pytest.raises(InputError, match=message):
            sections(text)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(size=st.integers(1, 5), stride=st.integers(1, 4), data=st.data())
def test_what_is_written_is_read_again(size, stride, data):
    pad = data.draw(st.integers(0, 2 * size - 2))
    spec = s.ModelSpec(layers=(pool(size, stride, pad),), net=(("channels", "2"), ("width", "9"), ("height", "9")))
    assert parse_cfg(write_cfg(spec)) == spec


def test_it_has_no_weights_and_survives_its_files(tmp_path):
    network = network_of(Darknet(read_cfg(CFG)))
    assert not [key for key in network.state for i in POOLS if key.startswith(f"layers.{i}.")]
    again = read_weights(write_weights(tmp_path / "net.weights", network), network.spec)
    assert all(torch.equal(value, network.state[key]) for key, value in again.state.items())
    rows = count(network.spec).layers
    assert [(rows[i].kind, rows[i].params) for i in POOLS] == [("LocalAvgPool", 0)] * 3
    assert all(rows[i].macs == network.spec.layers[i].size ** 2 * rows[i].activations for i in POOLS), "as a kernel"
    assert [rows[i].size for i in POOLS] == [(32, 32), (30, 30), (14, 14)]


def test_it_trains():
    model = Darknet(read_cfg(CFG)).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    x, losses = images(4), []
    for _ in range(5):
        loss = model(x)[0].square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert model.layers["0"].conv.weight.grad.abs().sum() > 0


def test_channels_pass_through_and_are_pruned_with_what_makes_them():
    network = random_network(write_cfg(read_cfg(CFG)))
    wires = trace(network.spec)
    assert torch.equal(wires.outputs[1], wires.outputs[0]) and torch.equal(wires.outputs[4], wires.outputs[3])
    plan = plan_channels(network, percent=0.5, tie=ShortcutRule.ANY)
    small, x = cut(network, plan), images()
    assert small.spec.layers[0].filters < 8
    with torch.no_grad():
        torch.testing.assert_close(build(small)(x)[0], build(silence(network, plan))(x)[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("keys", ["size=2", "size=3\nstride=1\npadding=2", "size=2\nstride=2\npadding=1"])
def test_a_constant_channel_is_the_same_constant_behind_it_at_padded_borders_too(keys):
    conv = "[convolutional]\nbatch_normalize=1\nfilters=8\nsize=1\nactivation=leaky\n"
    head = "[convolutional]\nfilters=5\nsize=1\nactivation=linear\n"
    network = random_network(f"[net]\nwidth=20\nheight=20\n{conv}[avgpool]\n{keys}\n{conv}{head}")
    plan = plan_channels(network, percent=0.5, tie=ShortcutRule.ANY)
    small, x = cut(absorb(network, plan), plan), random_images(2, side=20)
    with torch.no_grad():
        full = build(zeroed(network, plan)).activations(x)[3]
        torch.testing.assert_close(build(small).activations(x)[3], full, atol=1e-5, rtol=1e-5)
    assert len(gammas(small)[0]) < 8


@pytest.mark.parametrize("scheme", [QUICK, FOUR, POWERS, replace(FOUR, w_bit=3, range_scale=0.7)])
def test_integers_sum_the_windows_levels_and_the_gain_divides(scheme, tmp_path):
    network = lowered(scheme)
    assert_equals_numpy(network, images())
    assert_survives_its_file(network, images(), tmp_path)
    levels = IntegerExecutor(network).levels(images())
    for i in POOLS:
        layer, op = network.conv(i)
        source = layer.sources[0]
        assert (op.weight == 1).all() and not op.bias.any() and layer.groups == layer.filters
        mean = without_tensors(read_cfg(CFG).layers[i], [levels[source].double()])
        exact = mean * network.grids[source].scale / network.grids[i].scale
        wanted = exact.clamp(network.grids[i].qmin, network.grids[i].qmax)
        assert (
            float((levels[i] - wanted).abs().max()) <= 0.5 + network.grids[i].reach / 2**15
        )  # half a level, and the gain


def test_a_mean_of_four_is_a_shift_where_scales_are_powers_of_two():
    network = lowered(POWERS)
    gains = {i: set(op.requantiser.multiplier.tolist()) for i in POOLS if isinstance(op := network.ops[i], IntConv)}
    assert gains[1] == gains[7] == {1} and len(gains[4]) == 1 and gains[4] != {1}  # 2x2, 4x4; 3x3 is none


def test_integers_are_near_the_float_network():
    network = random_network(write_cfg(read_cfg(CFG)))
    with torch.no_grad():
        exact = build(network)(images())[0]
    made = IntegerExecutor(lowered(QUICK))(images())[0]
    assert float((made - exact).square().mean().sqrt() / exact.std()) < 0.05


def test_accumulators_that_are_declared_too_narrow_are_refused():
    text = write_cfg(read_cfg(CFG)).replace("size=4\nstride=2", "size=16\nstride=2")
    with pytest.raises(InputError, match=r"layer 7 .*: its accumulator needs 17 bits of 16"):
        lowered(replace(QUICK, acc_bits=16), text)
    assert lowered(replace(QUICK, acc_bits=17), text).ops[7].acc_bits == 17


@pytest.mark.parametrize("style", ["google", "dorefa", "pow2"])
def test_quantised_training_rounds_the_mean_and_is_measured_as_integers(style, tmp_path):
    network = random_network(write_cfg(read_cfg(CFG)))
    model = prepare(network, [images(4)], Scheme(style=style, a_bit=4, w_bit=4))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model.train()
    for _ in range(2):
        model(images(4))[0].square().mean().backward()
        optimizer.step()
    found = model.eval()(images())[0]
    assert torch.equal(found, IntegerExecutor(model.integer())(images())[0])
    path = save_checkpoint(tmp_path / "net.pt", to_trained(model, training={}, meta={}))
    loaded = load_model(path)
    assert torch.equal(loaded.predictor(images())[0], found)
    assert_equals_numpy(loaded.integer, images())


def test_padded_windows_have_no_integers_and_the_remedy_is_said():
    text = write_cfg(read_cfg(CFG)).replace("size=2\nstride=2\npadding=0", "size=2\nstride=2\npadding=1")
    with pytest.raises(
        InputError, match=r"layer 1 \(cfg line \d+\): a \[local_avgpool\] with padding=1 .* set padding=0"
    ):
        calibrate(random_network(text), [images()], FOUR)
    plain, padded = (random_network(cfg) for cfg in (write_cfg(read_cfg(CFG)), text))
    assert padded.spec.layers[1].pad == 1
    with torch.no_grad():
        assert torch.equal(build(plain)(images())[0], build(padded)(images())[0])  # as the message says


@pytest.mark.parametrize("scheme", [FOUR, POWERS])
def test_spikes_add_up_to_the_integers(scheme):
    network = encode(lowered(scheme))
    assert_equal_everywhere(network, images())
    streamed, golden = StreamExecutor(network)(images(1)), IntegerExecutor(network.integer)(images(1))
    assert all(torch.equal(a, b) for a, b in zip(streamed, golden, strict=True))


def test_rate_mode_refuses_it():
    with pytest.raises(InputError, match=r"layer 1 .*: LocalAvgPool has no rate-mode form"):
        normalise(random_network(write_cfg(read_cfg(CFG))), [images()], timesteps=4)


def test_the_hand_off_holds_it_as_a_convolution_of_ones(tmp_path):
    network = lowered(QUICK)
    manifest = export(tmp_path / "out", network, images(1))
    entries = [manifest["layers"][i] for i in POOLS]
    assert [(entry["kind"], entry["size"], entry["stride"], entry["pad"]) for entry in entries] == [
        ("conv", 2, [2, 2], 0),
        ("conv", 3, [1, 1], 0),
        ("conv", 4, [2, 2], 0),
    ]
    assert all(entry["groups"] == entry["output"][0] and entry["weights"]["bits"] == 2 for entry in entries)
    if shutil.which("cc") and shutil.which("make"):
        assert (tmp_path / "out/c/net.c").read_text().count("conv(&layer_00") == 7


@pytest.mark.skipif(not importlib.util.find_spec("onnxruntime"), reason="needs onnxruntime")
@pytest.mark.parametrize("scheme", [QUICK, Scheme(style="pow2", a_bit=8)], ids=["google", "pow2"])
def test_onnx_forms_are_equal(scheme, tmp_path):
    network, x = lowered(scheme), images(1)
    model = qdq_model(network, (64, 64))
    check(model)
    save(model, tmp_path / "net.onnx")
    found = compare_qdq(network, x, tmp_path / "net.onnx")
    worst = 0 if scheme.style == "pow2" else 1
    assert max(each.worst for each in found.alone) <= worst
    if importlib.util.find_spec("qonnx"):
        assert not any(
            each.differing for each in compare_quant(network, x, quant_model(network, (64, 64)), (64, 64)).chained
        )


@pytest.mark.skipif(not importlib.util.find_spec("onnxruntime"), reason="needs onnxruntime")
def test_float_onnx_averages_as_darknet_at_padded_borders_too():
    text = write_cfg(read_cfg(CFG)).replace("size=3\nstride=1\npadding=0", "size=3\nstride=1\npadding=3")
    network = fold_bn(random_network(text))
    model = float_model(network, (64, 64))
    check(model)
    with torch.no_grad():
        wanted = build(network)(images(1))[0].numpy()
    found = next(iter(run_onnx(session(model), {"image": images(1).numpy()}).values()))
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def test_a_dpu_takes_means_of_four_and_sixteen_and_no_others():
    scheme = Scheme(style="pow2", w_bit=8, a_bit=7, equalise=False, correct_bias=False, ranges="minmax")
    text = write_cfg(read_cfg(CFG)).replace("activation=leaky", "activation=relu")
    with pytest.raises(InputError, match=r"layer 4 .*: divides by what is no power of two; use a mean of 2x2 or 4x4"):
        check_target(lowered(scheme, text), "vitis-dpu")
    check_target(
        lowered(scheme, text.replace("size=3\nstride=1\npadding=0", "size=2\nstride=2\npadding=0")), "vitis-dpu"
    )
