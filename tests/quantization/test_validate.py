from __future__ import annotations

import pytest
import torch

from tests.quantization.random_nets import CONV, cfg_text, random_images, random_network
from utils.darknet.cfg import parse_cfg
from utils.errors import InputError
from utils.quantization.activation_qparams import QParams
from utils.quantization.calibrate import calibrate
from utils.quantization.integer import IntConv
from utils.quantization.lower import lower, lower_conv
from utils.quantization.scheme import Scheme
from utils.quantization.validate import check_supported, depthwise_layers, outer_layers, readouts


@pytest.mark.parametrize("activation", ["mish", "swish", "h_swish", "relu"])
def test_an_activation_that_no_head_has_names_layer_line_and_remedy(activation):
    text = cfg_text(("convolutional", CONV)).replace("activation=linear", f"activation={activation}")
    with pytest.raises(
        InputError, match=rf"layer 1 \(cfg line 12\): activation={activation} .*activation=linear.*retrain"
    ):
        calibrate(random_network(text), [random_images()])


@pytest.mark.parametrize("section", [("se", {"squeeze": 2}), ("reorg", {"stride": 2}), ("maxpool", {"size": 2})])
def test_sections_that_compute_or_move_are_supported(section):
    check_supported(parse_cfg(cfg_text(("convolutional", CONV), section), "test"))


def test_a_head_that_reads_no_convolution_is_refused():
    spec = parse_cfg(cfg_text(("convolutional", CONV)).replace("[yolo]", "[dropout]\nprobability=.5\n[yolo]"), "test")
    with pytest.raises(InputError, match=r"layer 2 .*a head must read a convolution"):
        check_supported(spec)


def test_a_layer_that_reads_a_heads_accumulator_is_refused():
    text = (
        cfg_text(("convolutional", CONV)) + "[route]\nlayers=1\n[convolutional]\nfilters=6\nsize=1\nactivation=linear\n"
    )
    with pytest.raises(InputError, match=r"layer 3 .*reads layer 1, which a head reads as int32"):
        check_supported(parse_cfg(text, "test"))


def test_an_accumulator_beyond_32_bits_is_refused_by_name():
    spec = parse_cfg(cfg_text(("convolutional", {"filters": 1, "size": 1, "activation": "relu"})), "test")
    with pytest.raises(InputError, match=r"layer 0 \(cfg line 6\): its accumulator needs 40 bits of 32"):
        lower_conv(
            0,
            spec,
            torch.ones(1, 3, 1, 1),
            torch.tensor([float(2**38)]),
            torch.tensor([1 / 127]),
            bits=8,
            source=QParams(127.0, 0, 255),
            target=None,
        )


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"a_bit": 1}, "--a-bit: 1 bits; use 2 to 8"),
        ({"w_bit": 9}, "--w-bit: 9 bits"),
        ({"ranges": "max"}, "--ranges: 'max' is unknown; use one of mse, percentile, minmax"),
        ({"percentile": 20}, "--percentile: 20 is not in"),
        ({"range_scale": 0.2}, r"--range-scale: 0.2 is not in 0.25..4"),
        ({"range_scale": float("nan")}, "--range-scale: nan is not in"),
    ],
)
def test_a_scheme_out_of_range_names_the_flag(choice, message):
    with pytest.raises(InputError, match=message):
        Scheme(**choice)


def test_a_scheme_survives_its_dict_and_refuses_a_newer_one():
    scheme = Scheme(w_bit=4, a_bit=3, ranges="percentile")
    assert Scheme.from_dict(scheme.to_dict()) == scheme
    with pytest.raises(InputError, match="newer version"):
        Scheme.from_dict({**scheme.to_dict(), "spin": 1})


def test_no_images_is_said_so():
    with pytest.raises(InputError, match="calibration: no images"):
        calibrate(random_network(0), [])


def test_the_outer_layers_are_those_at_the_image_and_at_the_heads():
    spec = parse_cfg(
        cfg_text(("maxpool", {"size": 2, "stride": 2}), ("convolutional", CONV), ("convolutional", CONV)), "test"
    )
    assert outer_layers(spec) == {1, 3} and readouts(spec) == (3,)


def test_depthwise_layers_are_those_of_a_channel_a_filter_and_keep_eight_bits_of_weight():
    few = {"filters": 8, "size": 3, "pad": 1, "activation": "relu"}
    kinds = [few, few | {"groups": 8}, few | {"groups": 8, "filters": 16}, few | {"groups": 4}]
    network = random_network(cfg_text(*(("convolutional", kind) for kind in kinds)))
    assert depthwise_layers(network.spec) == {1, 2}

    def bits(**words) -> list[int]:
        ops = lower(calibrate(network, [random_images()], Scheme(w_bit=4, **words))).ops
        return [op.w_bit for op in ops.values() if isinstance(op, IntConv)]

    assert bits() == [8, 8, 8, 4, 8]  # the first and the last read the image and are read out
    assert bits(layer_bits=((1, 3, 4),)) == [8, 3, 8, 4, 8]
    assert bits(outer_bit=2) == [4] * 5
