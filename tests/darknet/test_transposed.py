"""[transposed_convolutional] and [upsample] with zeros: one function, whichever way it is written."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from models import Darknet
from tests.conftest import ROOT
from tests.pruning.nets import random_network
from utils.darknet import spec as s
from utils.darknet.cfg import parse_cfg, read_cfg, write_cfg
from utils.darknet.counts import count, parameters
from utils.darknet.expand import expand
from utils.darknet.fold import fold_bn
from utils.darknet.heads import head_convolutions, rehead
from utils.darknet.kernels import as_stored, out_first
from utils.darknet.network import Network
from utils.darknet.reorder import insert_zeros
from utils.darknet.shapes import densities, sizes, strides
from utils.darknet.weights import read_weights, write_weights
from utils.errors import InputError

CFG = ROOT / "tests" / "cfgs" / "transposed.cfg"
GEOMETRIES = [
    (size, stride, pad)
    for size in range(1, 7)
    for stride in range(1, 5)
    for pad in range(4)
    if 0 <= 2 * pad - size + stride < stride
]


@st.composite
def transposed(draw) -> s.ModelSpec:
    """One transposed convolution that reads the image."""
    size, stride, pad = draw(st.sampled_from(GEOMETRIES))
    groups = draw(st.sampled_from([1, 2, 4]))
    layer = s.TransposedConv(
        sources=(-1,),
        filters=groups * draw(st.integers(1, 3)),
        size=size,
        stride=stride,
        pad=pad,
        groups=groups,
        bn=draw(st.booleans()),
        activation=draw(st.sampled_from(["leaky", "relu", "linear"])),
    )
    return s.ModelSpec(layers=(layer,), net=(("channels", "4"),))


def one(**keys: object) -> str:
    settings = {"filters": 4, "size": 3, "stride": 2, "pad": 1, "activation": "relu"} | keys
    lines = "".join(f"{key}={value}\n" for key, value in settings.items() if value is not None)
    return f"[net]\nchannels=4\n[transposed_convolutional]\n{lines}"


def double(net: Network) -> Network:
    return Network(net.spec, {key: value.double() for key, value in net.state.items()})


def outputs(net: Network, x: torch.Tensor) -> dict[int, torch.Tensor]:
    model = Darknet(net.spec).to(x.dtype).eval()
    model.load_state_dict(net.state, strict=False)
    with torch.no_grad():
        return model.activations(x)


def scattered(layer: s.TransposedConv, weight: np.ndarray, x: np.ndarray) -> np.ndarray:
    """[C,H,W] -> [O,H',W'] from the definition: every value adds its kernel, `stride` px on from the last one's."""
    (c, h, w), k, step, pad = x.shape, layer.size, layer.stride, layer.pad
    each_in, each_out = c // layer.groups, layer.filters // layer.groups
    wide = np.zeros((layer.filters, h * step + k + pad, w * step + k + pad))
    for i in range(c):
        group = i // each_in
        rows = slice(group * each_out, (group + 1) * each_out)
        for y in range(h):
            for x_ in range(w):
                wide[rows, y * step : y * step + k, x_ * step : x_ * step + k] += weight[i] * x[i, y, x_]
    return wide[:, pad : pad + h * step, pad : pad + w * step]


@given(spec=transposed())
def test_reading_what_was_written_gives_the_same_spec(spec):
    assert parse_cfg(write_cfg(spec)) == spec


def test_the_cfg_of_the_tests_is_written_as_it_is_read():
    spec = read_cfg(CFG)
    assert parse_cfg(write_cfg(spec)) == spec
    assert [layer.zeros for layer in spec.layers if isinstance(layer, s.Upsample)] == [True]
    found = [layer for layer in spec.layers if isinstance(layer, s.TransposedConv)]
    assert [(layer.size, layer.stride, layer.pad, layer.groups) for layer in found] == [
        (3, 2, 1, 1), (4, 2, 1, 3), (3, 1, 1, 9)
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"size": 4}, r"line 3: .*size=4, stride=2 and 2 px of padding does not make .* 2 times.*use padding=1"),
        ({"size": 5, "pad": 0}, r"line 3: .*size=5, stride=2 and 0 px .*; use padding=2"),
        ({"size": 2, "stride": 1}, r"line 3: .*stride=1 and 1 px .*; use an odd size and pad=1"),
        ({"pad": None, "padding": 2}, r"2 px of padding.*; use padding=1"),
        ({"stride_x": 2}, r"line 9: unknown key 'stride_x' in \[transposed_convolutional\]; did you mean 'stride'"),
        ({"dilation": 2}, r"line 9: unknown key 'dilation' in \[transposed_convolutional\]"),
        ({"filters": None}, r"line 3: \[transposed_convolutional\] needs filters="),
        ({"groups": 3}, r"line 3: groups=3 divides neither"),
    ],
)
def test_what_no_map_of_exactly_stride_times_the_size_comes_from_is_refused(keys, message):
    with pytest.raises(InputError, match=message):
        parse_cfg(one(**keys))


@pytest.mark.parametrize(("size", "stride", "pad"), GEOMETRIES)
def test_torch_makes_the_map_that_the_shapes_say(size, stride, pad):
    spec = parse_cfg(one(size=size, stride=stride, pad=None, padding=pad))
    x = torch.rand(1, 4, 5, 7)
    made = outputs(random_network(spec), x)[0]
    assert tuple(made.shape[2:]) == sizes(spec, 5, 7)[0] == (5 * stride, 7 * stride)
    assert strides(spec)[0] * stride == 1


def test_a_geometry_is_read_if_and_only_if_torch_can_make_that_map():
    for size in range(1, 7):
        for stride in range(1, 5):
            for pad in range(4):
                text = one(size=size, stride=stride, pad=None, padding=pad)
                if (size, stride, pad) in GEOMETRIES:
                    parse_cfg(text)
                else:
                    with pytest.raises(InputError, match="times as large"):
                        parse_cfg(text)


@settings(max_examples=25, deadline=None)
@given(spec=transposed(), seed=st.integers(0, 9))
def test_every_value_adds_its_kernel(spec, seed):
    layer = replace(spec.layers[0], bn=False, activation="linear")
    net = double(random_network(replace(spec, layers=(layer,)), seed))
    x = torch.rand(1, 4, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    bias = net.state["layers.0.conv.bias"].numpy()[:, None, None]
    expected = scattered(layer, net.state["layers.0.conv.weight"].numpy(), x[0].numpy()) + bias
    np.testing.assert_allclose(outputs(net, x)[0][0].numpy(), expected, rtol=0, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(spec=transposed(), seed=st.integers(0, 9))
def test_batch_norm_of_a_transposed_convolution_is_folded_on_its_output_axis(spec, seed):
    """Of PyTorch-Spiking-YOLOv3, which folds on axis 0, the inputs: silent where both are as many."""
    net = double(random_network(replace(spec, layers=(replace(spec.layers[0], bn=True),)), seed))
    x = torch.rand(2, 4, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    folded = fold_bn(net)
    assert not folded.spec.layers[0].bn
    torch.testing.assert_close(outputs(folded, x)[0], outputs(net, x)[0], rtol=0, atol=1e-9)


def test_folding_on_the_input_axis_is_another_function():
    spec = parse_cfg(one(batch_normalize=1))
    net, x = double(random_network(spec)), torch.rand(1, 4, 4, 4, dtype=torch.float64)
    gain = net.state["layers.0.bn.weight"] / torch.sqrt(net.state["layers.0.bn.running_var"] + 1e-6)
    wrong = dict(fold_bn(net).state)
    wrong["layers.0.conv.weight"] = net.state["layers.0.conv.weight"] * gain[:, None, None, None]
    right, faulty = outputs(fold_bn(net), x)[0], outputs(Network(fold_bn(net).spec, wrong), x)[0]
    assert (right - faulty).abs().max() > 0.01


@settings(max_examples=60, deadline=None)
@given(spec=transposed(), seed=st.integers(0, 9))
def test_zeros_between_values_and_a_convolution_are_the_transposed_one(spec, seed):
    layer = spec.layers[0]
    net = double(random_network(spec, seed))
    wide, number = expand(net)
    assert [type(part) for part in wide.spec.layers] == [s.Upsample] * (layer.stride > 1) + [s.Conv]
    x = torch.rand(2, 4, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    after = outputs(wide, x)
    torch.testing.assert_close(after[number[0]], outputs(net, x)[0], rtol=0, atol=1e-12)
    torch_s = nn.functional.conv_transpose2d(
        x,
        net.state["layers.0.conv.weight"],
        net.state.get("layers.0.conv.bias"),
        layer.stride,
        layer.pad,
        layer.output_padding,
        layer.groups,
    )
    plain = replace(wide.spec, layers=(*wide.spec.layers[:-1], replace(wide.spec.layers[-1], activation="linear")))
    if not layer.bn:
        torch.testing.assert_close(outputs(Network(plain, wide.state), x)[number[0]], torch_s, rtol=0, atol=1e-12)


def test_what_is_written_out_keeps_the_line_and_reads_again_as_itself():
    net = random_network(CFG)
    wide, number = expand(net)
    assert not any(isinstance(layer, s.TransposedConv) for layer in wide.spec.layers)
    assert parse_cfg(write_cfg(wide.spec)) == wide.spec
    assert all(wide.spec.layers[number[j]].line == layer.line for j, layer in enumerate(net.spec.layers))
    assert {wide.spec.layers[number[3] - 1].line} == {net.spec.layers[3].line}


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_a_value_comes_first_and_zeros_behind_it(stride):
    x = torch.arange(1, 13.0).view(1, 2, 2, 3)
    found = insert_zeros(x, stride)
    assert found.shape == (1, 2, 2 * stride, 3 * stride)
    for y in range(2 * stride):
        for x_ in range(3 * stride):
            here = y % stride == 0 and x_ % stride == 0
            expected = x[..., y // stride, x_ // stride] if here else torch.zeros(1, 2)
            assert torch.equal(found[..., y, x_], expected)
    spec = parse_cfg(f"[net]\nchannels=2\n[upsample]\nstride={stride}\nzeros=1\n")
    assert torch.equal(outputs(Network(spec, {}), x)[0], found)


@given(spec=transposed())
def test_the_layout_of_a_kernel_turns_about_and_back(spec):
    layer = spec.layers[0]
    weight = torch.rand(4, layer.filters // layer.groups, layer.size, layer.size)
    rows = out_first(layer, weight)
    assert rows.shape == (layer.filters, 4 // layer.groups, layer.size, layer.size)
    assert torch.equal(as_stored(layer, rows), weight)
    each_in, each_out = 4 // layer.groups, layer.filters // layer.groups
    for o in range(layer.filters):
        for i in range(each_in):
            assert torch.equal(rows[o, i], weight[o // each_out * each_in + i, o % each_out])


def test_a_weights_file_has_it_as_a_convolution_but_inputs_first(tmp_path):
    spec = parse_cfg(one(filters=6, groups=2, batch_normalize=1))
    floats = np.arange(4 * 6 + 4 * 3 * 9, dtype="<f4")
    (tmp_path / "a.weights").write_bytes(b"\0\0\0\0\2\0\0\0\5\0\0\0" + b"\0" * 8 + floats.tobytes())
    state = read_weights(tmp_path / "a.weights", spec).state
    for k, name in enumerate(("bias", "weight", "running_mean", "running_var")):
        assert state[f"layers.0.bn.{name}"].tolist() == floats[6 * k : 6 * k + 6].tolist()
    assert state["layers.0.conv.weight"].shape == (4, 3, 3, 3)
    assert state["layers.0.conv.weight"].flatten().tolist() == floats[24:].tolist()
    again = write_weights(tmp_path / "b.weights", Network(spec, state))
    assert again.read_bytes() == (tmp_path / "a.weights").read_bytes()


def test_its_cost_is_a_kernel_a_value_of_its_input():
    spec = parse_cfg(one(filters=6, groups=2, batch_normalize=1))
    counts = count(spec, (5, 7))
    assert counts.macs == 4 * 6 // 2 * 9 * 5 * 7
    tensors = random_network(spec).state
    trained = sum(v.numel() for k, v in tensors.items() if "running" not in k)
    assert counts.params == parameters(spec) == trained == 4 * 3 * 9 + 12


@pytest.mark.parametrize(("size", "stride", "pad"), [g for g in GEOMETRIES if g[0] == 2 * g[2] + 1])
def test_inserted_zeros_are_no_cost(size, stride, pad):
    net = random_network(parse_cfg(one(size=size, stride=stride, pad=None, padding=pad)))
    wide, _ = expand(net)
    assert count(wide.spec, (6, 6)).macs == count(net.spec, (6, 6)).macs
    assert count(wide.spec, (6, 6)).params == count(net.spec, (6, 6)).params


def test_a_concat_of_a_map_with_zeros_and_one_without_is_partly_dense():
    spec = parse_cfg(
        "[net]\nchannels=3\n[convolutional]\nfilters=4\nactivation=relu\n[convolutional]\nfilters=2\nstride=2\n"
        "activation=relu\n[upsample]\nzeros=1\n[route]\nlayers=-1,0\n[convolutional]\nfilters=1\nactivation=relu\n"
    )
    dense = densities(spec)
    assert dense[2] == 1 / 4 and dense[3] == (4 + 2 * dense[2]) / 6 and dense[4] == 1
    assert count(spec, (8, 8)).layers[4].macs == 4 * 64 + 2 * 16


def test_a_head_may_read_a_transposed_convolution():
    text = one(filters=12, activation="linear") + "[yolo]\nmask=0,1\nanchors=1,1, 2,2\nclasses=1\nnum=2\n"
    spec = parse_cfg(text)
    assert head_convolutions(spec) == {1: 0}
    assert rehead(spec, 3).layers[0].filters == 16
