from __future__ import annotations

import pytest
import torch

from models import Darknet
from tests.conftest import ROOT
from tests.quantization.random_nets import cfg_text, random_images, random_network
from tests.spiking.test_equality import CONV
from tests.spiking.test_stream import assert_streams_exactly
from utils.darknet import spec as s
from utils.darknet.cfg import parse_cfg, read_cfg, write_cfg
from utils.darknet.shapes import channels, sizes
from utils.errors import InputError
from utils.quantization.calibrate import calibrate
from utils.quantization.lower import lower
from utils.spiking.spike_schedule import encode
from utils.spiking.stream import StreamExecutor
from utils.spiking.surgery import main, operate

LEAKY = CONV | {"activation": "leaky"}
POOLS = cfg_text(
    ("convolutional", LEAKY),
    ("maxpool", {"size": 2, "stride": 2}),
    ("convolutional", LEAKY),
    ("maxpool", {"size": 2, "stride": 1}),
    ("convolutional", LEAKY),
    ("route", {"layers": "-1,2,3"}),
)
UPWARD = cfg_text(
    ("convolutional", LEAKY | {"stride": 2}),
    ("upsample", {"stride": 1}),
    ("convolutional", LEAKY | {"stride": 3}),
    ("upsample", {"stride": 3}),
    ("upsample", {"stride": 2}),
)


@pytest.mark.parametrize("name", ["yolov3-tiny", "yolov4-tiny", "yolov3-spp", "yolov2-tiny"])
def test_maps_keep_their_sizes_and_heads_their_channels(name):
    before = read_cfg(ROOT / f"cfg/{name}.cfg")
    after = operate(before)
    assert not any(isinstance(layer, s.MaxPool) for layer in after.layers)
    assert not any(getattr(layer, "activation", "relu") == "leaky" for layer in after.layers)
    for a, b in zip(before.heads, after.heads, strict=True):
        assert channels(before)[a] == channels(after)[b]
        assert sizes(before, 416, 416)[a] == sizes(after, 416, 416)[b]


@pytest.mark.parametrize("name", ["yolov3-tiny", "yolov4-tiny", "yolov3-spp"])
def test_upsampling_becomes_the_transposed_convolution_of_the_reference(name):
    before = read_cfg(ROOT / f"cfg/{name}.cfg")
    after = operate(before)
    wide = channels(after)
    found = [(i, layer) for i, layer in enumerate(after.layers) if isinstance(layer, s.TransposedConv)]
    assert len(found) == sum(isinstance(layer, s.Upsample) for layer in before.layers) > 0
    assert not any(isinstance(layer, s.Upsample) for layer in after.layers)
    for i, layer in found:
        assert layer.filters == wide[layer.sources[0]] == wide[i]
        assert (layer.size, layer.stride, layer.pad, layer.groups, layer.bn) == (3, 2, 1, 1, True)
        assert layer.activation == "relu" and layer.output_padding == 1


def test_yolov3_tiny_has_the_sections_of_the_reference():
    after = operate(read_cfg(ROOT / "cfg/yolov3-tiny.cfg"))
    kinds = [type(layer).__name__ for layer in after.layers]
    assert len(kinds) == 23 and kinds[16:19] == ["Route", "Conv", "TransposedConv"]
    assert after.layers[18].filters == 128 and after.layers[19].sources == (18, 8)


def test_other_strides_have_a_kernel_that_fits_and_none_for_stride_1():
    before = parse_cfg(UPWARD, "test")
    after = operate(before, groups=2)
    assert [type(layer).__name__ for layer in after.layers] == [
        "Conv", "Conv", "TransposedConv", "TransposedConv", "Conv", "Yolo"
    ]  # fmt: skip
    assert [(layer.size, layer.stride, layer.pad, layer.groups) for layer in after.layers[2:4]] == [
        (5, 3, 2, 2), (3, 2, 1, 2)
    ]  # fmt: skip
    assert parse_cfg(write_cfg(after), "again") == after
    assert sizes(after, 48, 48)[after.heads[0]] == sizes(before, 48, 48)[before.heads[0]]
    with pytest.raises(InputError, match=r"layer 3 \(cfg line \d+\): --groups 3 does not divide its 8 channels"):
        operate(before, 3)


def test_references_follow_what_was_left_out():
    after = operate(parse_cfg(POOLS, "test"))
    kinds = [type(layer).__name__ for layer in after.layers]
    assert kinds == ["Conv", "Conv", "Conv", "Conv", "Route", "Conv", "Yolo"]
    assert after.layers[4].sources == (3, 2, 2), "the pool of stride 1 was layer 3; its source stands in"


def test_the_new_cfg_is_read_back_runs_and_converts(tmp_path):
    spec = parse_cfg(write_cfg(operate(parse_cfg(POOLS, "test"), groups=4)), "again")
    assert spec == operate(parse_cfg(POOLS, "test"), groups=4)
    x = random_images(2)
    assert Darknet(spec).eval()(x)[0].shape == torch.Size([2, 6, 8, 8])
    network = encode(lower(calibrate(random_network(write_cfg(spec)), [x])))
    assert_streams_exactly(StreamExecutor(network), x)


def test_a_file_is_written_beside_and_never_over_another(tmp_path):
    (tmp_path / "net.cfg").write_text(POOLS)
    path = main([str(tmp_path / "net.cfg"), "--groups", "2"])
    assert path == tmp_path / "net-spiking.cfg" and read_cfg(path) == operate(parse_cfg(POOLS, "test"), 2)
    with pytest.raises(InputError, match="is there already"):
        main([str(tmp_path / "net.cfg")])


def test_groups_that_do_not_divide_are_refused_by_layer():
    with pytest.raises(InputError, match=r"layer 1 \(cfg line \d+\): --groups 3 does not divide its 8 channels"):
        operate(parse_cfg(POOLS, "test"), 3)
