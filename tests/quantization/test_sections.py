"""Every section that a cfg may have becomes integers, and plain numpy computes the same ones."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models import build
from tests.conftest import ROOT
from tests.export.nets import narrow
from tests.quantization import oracle
from tests.quantization.random_nets import CONV, cfg_text, random_images, random_network, rich_cfg
from utils.darknet import spec as s
from utils.darknet.cfg import read_cfg, write_cfg
from utils.darknet.expand import expand
from utils.darknet.network import Network, load_checkpoint, save_checkpoint
from utils.darknet.shapes import granularity
from utils.errors import InputError
from utils.quantization.bits import as_written, check_layers
from utils.quantization.calibrate import calibrate
from utils.quantization.executor import IntegerExecutor
from utils.quantization.int_checkpoint import integer_of, to_checkpoint
from utils.quantization.integer import IntConv, IntegerNetwork, IntGate, IntPool, IntShortcut
from utils.quantization.lower import lower
from utils.quantization.scheme import Scheme
from utils.quantization.validate import readouts

QUICK = Scheme(a_bit=8, equalise=False, correct_bias=False, ranges="minmax")
TINY = sorted(path.stem for path in (ROOT / "tests" / "cfgs").glob("*.cfg"))
SHIPPED = sorted(path.stem for path in (ROOT / "cfg").glob("*.cfg") if not read_cfg(path).neurons)
GATE = (
    ("avgpool", {}),
    ("convolutional", {"filters": 3, "size": 1, "activation": "relu"}),
    ("convolutional", {"filters": 8, "size": 1, "activation": "logistic"}),
    ("scale_channels", {"from": -4, "activation": "linear"}),
)


def assert_equals_numpy(network: IntegerNetwork, x: Tensor) -> None:
    levels, accumulators = oracle.run(network, np.rint(x.numpy() * 255).astype(np.int64))
    trace = IntegerExecutor(network).trace(x)
    assert set(trace.levels) == set(levels) and set(trace.accumulators) == set(accumulators)
    for i, expected in levels.items():
        np.testing.assert_array_equal(trace.levels[i].numpy(), expected, err_msg=f"layer {i}")
        grid = network.grids[i]
        assert grid.qmin <= expected.min() and expected.max() <= grid.qmax
    for i, expected in accumulators.items():
        np.testing.assert_array_equal(trace.accumulators[i].numpy(), expected, err_msg=f"layer {i}")
        assert int(np.abs(expected).max()).bit_length() < network.conv(i)[1].acc_bits


def assert_survives_its_file(network: IntegerNetwork, x: Tensor, folder) -> None:
    path = save_checkpoint(folder / "net.int.pt", to_checkpoint(network, "quantised"))
    again = integer_of(load_checkpoint(path), "net.int.pt")
    assert again.spec == network.spec and again.grids == network.grids and again.scheme == network.scheme
    before, after = IntegerExecutor(network), IntegerExecutor(again)
    for i, level in before.trace(x).levels.items():
        assert torch.equal(after.levels(x)[i], level) if i == max(network.grids) else True
    for a, b in zip(before(x), after(x), strict=True):
        assert torch.equal(a, b)
    for i, op in network.ops.items():
        assert_same(op, again.ops[i])


def assert_same(one: object, other: object) -> None:
    """Equal field by field, tensors with their types."""
    assert type(one) is type(other)
    for name, value in vars(one).items():
        found = getattr(other, name)
        if isinstance(value, Tensor):
            assert torch.equal(value, found) and value.dtype == found.dtype, name
        elif hasattr(value, "__dict__"):
            assert_same(value, found)
        else:
            assert value == found, name


def off(network: Network, integer: IntegerNetwork, x: Tensor) -> float:
    """Root mean squared error of the heads, over the spread of the float ones; the worst head's.

    Of classes the float network may average the map, where the integers leave that to what follows them.
    """
    with torch.no_grad():
        exact = build(network)(x)
    made = [
        a if a.shape == b.shape else a.mean((2, 3), keepdim=True)
        for a, b in zip(IntegerExecutor(integer)(x), exact, strict=True)
    ]
    return max(float((a - b).square().mean().sqrt() / b.std()) for a, b in zip(made, exact, strict=True))


@cache
def tiny(name: str) -> tuple[Network, IntegerNetwork, Tensor]:
    spec = read_cfg(ROOT / f"tests/cfgs/{name}.cfg")
    network, x = random_network(write_cfg(spec)), random_images(2, side=64, image_channels=spec.channels)
    return network, lower(calibrate(network, [x], QUICK)), x


@cache
def shipped(name: str) -> tuple[Network, IntegerNetwork, Tensor]:
    """A 16th of the channels of a cfg that we ship, of GhostNet a 4th, and one small image."""
    spec = read_cfg(ROOT / f"cfg/{name}.cfg")
    spec = quartered(spec) if name == "yolov3-ghost" else narrow(spec, by=16)
    network = random_network(write_cfg(spec))
    x = random_images(1, side=max(64, granularity(spec)), image_channels=spec.channels)
    return network, lower(calibrate(network, [x], Scheme(a_bit=8))), x


def quartered(spec: s.ModelSpec) -> s.ModelSpec:
    """A 4th of every width but the heads', to the channel, because a ghost module's halves add up to what others have."""
    layers: list[s.Layer] = []
    for i, layer in enumerate(spec.layers):
        if isinstance(layer, s.Conv) and i not in readouts(spec):
            layer = replace(layer, filters=layer.filters // 4, groups=max(1, layer.groups // 4))
        if isinstance(layer, s.SqueezeExcite):
            layer = replace(layer, squeeze=max(1, layer.squeeze // 4))
        layers.append(layer)
    return replace(spec, layers=tuple(layers))


@pytest.mark.parametrize("name", TINY)
def test_every_tiny_cfg_is_integers_near_the_float_network_and_survives_its_file(name, tmp_path):
    network, integer, x = tiny(name)
    assert_equals_numpy(integer, x)
    assert_survives_its_file(integer, x, tmp_path)
    assert off(network, integer, x) < 0.1


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_cfg_is_integers_near_the_float_network_and_survives_its_file(name, tmp_path):
    network, integer, x = shipped(name)
    assert_equals_numpy(integer, x)
    assert_survives_its_file(integer, x, tmp_path)
    assert off(network, integer, x) < 0.1


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    bits=st.sampled_from([(8, 8), (8, 4), (4, 3)]),
    style=st.sampled_from(["google", "pow2"]),
)
def test_random_networks_of_every_section_equal_plain_numpy(seed, bits, style):
    x = random_images(2, seed=seed)
    scheme = Scheme(w_bit=bits[0], a_bit=bits[1], style=style)
    try:
        network = lower(calibrate(random_network(rich_cfg(seed)), [x], scheme))
    except InputError as error:
        assert "joins the image" in str(error)
        return
    assert_equals_numpy(network, random_images(1, seed=seed + 1))


@pytest.mark.parametrize("seed", range(8))
def test_random_networks_of_every_section_are_near_the_float_ones(seed, tmp_path):
    network, x = random_network(rich_cfg(seed)), random_images(4, seed=seed)
    integer = lower(calibrate(network, [x], QUICK))
    assert off(network, integer, x) < 0.08
    assert_survives_its_file(integer, x, tmp_path)


@pytest.mark.parametrize("activation", ["logistic", "mish", "swish", "h_swish", "hard_sigmoid"])
@pytest.mark.parametrize("style", ["google", "pow2"])
def test_a_table_is_the_function_between_the_two_grids(activation, style):
    text = cfg_text(("convolutional", CONV | {"activation": activation}))
    x = random_images(4)
    quantised = calibrate(random_network(text), [x], Scheme(a_bit=8, style=style))
    network = lower(quantised)
    op, before, after = network.conv(0)[1], quantised.charges[0], network.grids[0]
    assert op.table is not None and op.requantiser is not None
    assert (op.requantiser.qmin, op.requantiser.qmax, len(op.table)) == (-128, 127, 256)
    p = np.arange(-128, 128) * before.scale
    e = np.exp(-np.abs(p))
    sigmoid = np.where(p >= 0, 1 / (1 + e), e / (1 + e))
    gate = np.clip(p / 6 + 0.5, 0, 1)
    known = {
        "logistic": sigmoid,
        "hard_sigmoid": gate,
        "swish": p * sigmoid,
        "h_swish": p * gate,
        "mish": p * np.tanh(np.log1p(np.exp(p))),
    }
    expected = np.clip(np.floor(known[activation] / after.scale + 0.5), after.qmin, after.qmax)
    assert (np.abs(op.table.numpy() - expected) <= (np.abs(known[activation] / after.scale % 1 - 0.5) < 1e-9)).all()
    lowest = {"swish": -0.2785, "mish": -0.3089, "h_swish": -0.375}.get(activation, 0.0)
    assert after.qmin == max(-128, np.floor(lowest / after.scale + 0.5))


def test_gates_and_squeezes_have_eight_bits_whatever_the_others_have():
    for style, scale in (("google", 1 / 255), ("pow2", 2.0**-8)):
        network = lower(
            calibrate(
                random_network(cfg_text(("convolutional", CONV), *GATE)),
                [random_images()],
                Scheme(a_bit=3, style=style),
            )
        )
        assert network.grids[0].qmax == 7 and network.grids[4].qmax == 7
        assert (network.grids[3].scale, network.grids[3].qmin, network.grids[3].qmax) == (scale, 0, 255)
        assert network.grids[1].qmax == network.grids[2].qmax == 255
        assert isinstance(network.ops[1], IntPool) and network.ops[1].count == 16 * 16
        assert isinstance(network.ops[4], IntGate) and network.ops[4].table is None


def test_an_average_of_another_map_is_refused_by_name_never_wrong():
    network = lower(calibrate(random_network(cfg_text(("convolutional", CONV), *GATE)), [random_images()], QUICK))
    with pytest.raises(
        InputError, match=r"layer 1 \(cfg line 12\): averages a map of 20x20 = 400 px, .* 256; use the im"
    ):
        IntegerExecutor(network)(random_images(1, side=20))
    with pytest.raises(InputError, match=r"calibration: images of 16x16 and of 20x20 px, .* cfg line 12"):
        calibrate(
            random_network(cfg_text(("convolutional", CONV), *GATE)),
            [random_images(), random_images(1, side=20)],
            QUICK,
        )


def test_a_gate_that_is_a_whole_map_is_refused():
    text = cfg_text(("convolutional", CONV), ("convolutional", CONV), ("scale_channels", {"from": -2}))
    with pytest.raises(
        InputError, match=r"layer 2 \(cfg line 18\): its gate, layer 1, is a whole map; put an \[avgpool\]"
    ):
        calibrate(random_network(text), [random_images()], QUICK)


@pytest.mark.parametrize("kind", ["per_feature", "per_channel"])
def test_the_gains_of_a_weighted_sum_are_its_shares_times_the_scales(kind):
    weighted = {"from": -2, "weights_type": kind, "weights_normalization": "none", "activation": "leaky"}
    network = random_network(cfg_text(("convolutional", CONV), ("convolutional", CONV), ("shortcut", weighted)))
    shares = network.state["layers.2.weights"]
    shares[0] = -0.7  # a source may count against the others
    integer = lower(calibrate(network, [random_images()], QUICK))
    op, grids = integer.ops[2], integer.grids
    assert isinstance(op, IntShortcut) and op.gains.dtype is torch.int32
    assert grids[2].qmin < 0 and off(network, integer, random_images()) < 0.05, (
        "a sum of what is positive may be negative"
    )
    assert op.gains.shape == (2, 1 if kind == "per_feature" else 8) and bool((op.gains[0] < 0).all())
    for row, share, source in zip(op.gains, shares.view(2, -1), (1, 0), strict=True):
        real = (
            row
            * float(op.requantiser.multiplier[0])
            * 2.0**-op.requantiser.shift
            * grids[2].scale
            / grids[source].scale
        )
        torch.testing.assert_close(real.float(), share.float(), rtol=1e-3, atol=1e-4)


def test_a_shortcut_with_a_curved_activation_is_a_sum_and_a_table():
    shortcut = ("shortcut", {"from": -2, "activation": "mish"})
    network = random_network(cfg_text(("convolutional", CONV), ("convolutional", CONV), shortcut))
    integer, x = lower(calibrate(network, [random_images()], QUICK)), random_images()
    assert integer.ops[2].table is not None and off(network, integer, x) < 0.05
    assert_equals_numpy(integer, x)


def test_bits_of_a_layer_number_follow_the_cfg_as_written_through_an_se():
    text = cfg_text(("convolutional", CONV), ("se", {"squeeze": 2}), ("convolutional", CONV), ("convolutional", CONV))
    network = random_network(text)
    integer = lower(calibrate(network, [random_images()], Scheme(a_bit=4, layer_bits=((1, 5, 6), (2, 3, 7)))))
    assert [type(layer) for layer in integer.spec.layers[1:5]] == [s.AvgPool, s.Conv, s.Conv, s.ScaleChannels]
    bits = {i: op.w_bit for i, op in integer.ops.items() if isinstance(op, IntConv)}
    assert bits == {0: 8, 2: 5, 3: 5, 5: 3, 6: 8, 7: 8}
    assert [integer.grids[i].qmax for i in (0, 4, 5, 6)] == [15, 63, 127, 15]
    assert integer.scheme.layer_bits == ((1, 5, 6), (2, 5, 6), (3, 5, 6), (4, 5, 6), (5, 3, 7))
    with pytest.raises(InputError, match="--bits: layer 40 is not in the network, which has layers 0 to 5"):
        calibrate(network, [random_images()], Scheme(layer_bits=((40, 4, 4),)))


def test_bits_of_a_layer_number_follow_the_cfg_as_written_through_a_transposed_convolution():
    upward = ("transposed_convolutional", CONV | {"stride": 2})
    network = random_network(cfg_text(("convolutional", CONV | {"stride": 2}), upward, ("convolutional", CONV)))
    scheme = Scheme(a_bit=4, layer_bits=((1, 5, 6), (2, 3, 7)))
    integer = lower(calibrate(network, [random_images()], scheme))
    assert [type(layer) for layer in integer.spec.layers[1:4]] == [s.Upsample, s.Conv, s.Conv]
    assert {i: op.w_bit for i, op in integer.ops.items() if isinstance(op, IntConv)} == {0: 8, 2: 5, 3: 3, 4: 8}
    assert [integer.grids[i].qmax for i in (0, 1, 2, 3)] == [15, 15, 63, 127]
    check_layers(((1, 5, 6),), network.spec)
    assert as_written(integer.scheme.layer_bits, expand(network)[1]) == ((1, 5, 6), (2, 3, 7))
    assert integer.place(1) == integer.place(2).replace("layer 2", "layer 1") and "cfg line 13)" in integer.place(2)


def test_a_head_may_read_a_transposed_convolution_and_a_curved_one_has_its_table():
    curved = ("transposed_convolutional", CONV | {"stride": 2, "activation": "mish", "batch_normalize": 1})
    text = cfg_text(("convolutional", CONV | {"stride": 4}), curved)
    text = text.replace("[convolutional]\nfilters=6\nsize=1", "[transposed_convolutional]\nfilters=6\nsize=3")
    text = text.replace("size=3\nstride=1\npad=1\nactivation=linear", "size=3\nstride=2\npad=1\nactivation=linear")
    network, x = random_network(text), random_images(2)
    integer = lower(calibrate(network, [x], QUICK))
    assert readouts(integer.spec) == (4,) and integer.ops[2].table is not None
    assert_equals_numpy(integer, x)
    assert off(network, integer, x) < 0.08


def test_a_region_head_is_read_out_like_any_other():
    network, integer, x = shipped("yolov2-tiny")
    assert len(IntegerExecutor(integer)(x)) == 1
    assert isinstance(network.spec.layers[-1], s.Region)
