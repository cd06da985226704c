from __future__ import annotations

import pytest
import torch

from models import Darknet, build
from tests.darknet.opencv import opencv_outputs
from tests.pruning.nets import assert_same, random_network, run
from tests.quantization.random_nets import random_images
from utils.darknet import spec as s
from utils.darknet.cfg import parse_cfg, read_cfg, write_cfg
from utils.darknet.reorder import reorg
from utils.darknet.shapes import channels, granularity, sizes, strides
from utils.errors import InputError
from utils.pruning.absorb import zeroed
from utils.pruning.bias_carrier import settle_and_cut
from utils.pruning.choices import Beta
from utils.pruning.plan import ShortcutRule, plan_channels
from utils.quantization.calibrate import calibrate
from utils.quantization.executor import IntegerExecutor
from utils.quantization.lower import lower
from utils.quantization.scheme import Scheme
from utils.spiking.layerwise import LayerwiseExecutor
from utils.spiking.spike_schedule import encode

NET = "[net]\nchannels={0}\nwidth=32\nheight=32\n"
SIZES = [(8, 8), (6, 10), (26, 26), (4, 6), (2, 2)]  # multiples of stride^2 and others: only there rows of channels mix


def darknet_loop(x: torch.Tensor, stride: int) -> torch.Tensor:
    """What [reorg] does with one image [C, H, W]: every number by its index, in memory that both shapes share."""
    c, h, w = x.shape
    flat, out = x.flatten().tolist(), [0.0] * x.numel()
    inner = c // stride**2
    for k in range(c):
        for j in range(h):
            for i in range(w):
                row, column = j * stride + k // inner // stride, i * stride + k // inner % stride
                out[i + w * (j + h * k)] = flat[column + w * stride * (row + h * stride * (k % inner))]
    return torch.tensor(out).view(c * stride**2, h // stride, w // stride)


@pytest.mark.parametrize("size", SIZES)
def test_reorg_moves_every_number_where_darknet_does(size):
    x = torch.arange(2.0 * 8 * size[0] * size[1]).view(2, 8, *size)
    for image, ours in zip(x, reorg(x, 2), strict=True):
        assert torch.equal(ours, darknet_loop(image, 2))


def test_reorg_of_stride_three_as_well():
    x = torch.arange(18.0 * 6 * 9).view(1, 18, 6, 9)
    assert torch.equal(reorg(x, 3)[0], darknet_loop(x[0], 3))


def test_reorg_is_not_the_usual_space_to_depth():
    x = torch.arange(4.0 * 4 * 4).view(1, 4, 4, 4)
    assert not torch.equal(reorg(x, 2), torch.pixel_unshuffle(x, 2))
    assert torch.equal(reorg(x, 2).flatten().sort().values, x.flatten())


@pytest.mark.parametrize("size", [(64, 64), (96, 32), (48, 80)])
def test_network_with_a_reorg_equals_opencv(size, tmp_path):
    net = random_network("passthrough")
    x = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = build(net).activations(x)
    before, after, head = opencv_outputs(net, x, tmp_path, ["leaky_8", "reorg_8", "conv_11"])
    torch.testing.assert_close(ours[7], before, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours[8], after, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours[11], head, rtol=1e-4, atol=1e-5)


def test_shapes_of_a_reorg():
    spec = parse_cfg(NET.format(8) + "[dropout]\n[reorg]\nstride=2\n")
    assert channels(spec)[1] == 32
    assert sizes(spec, 32, 64)[1] == (16, 32)
    assert strides(spec)[1] == granularity(spec) == 2
    assert parse_cfg(write_cfg(spec)) == spec
    assert spec.layers[1] == s.Reorg(sources=(0,), stride=2)


COLUMNS = "[net]\nwidth=32\nheight=32\n[reorg]\n[convolutional]\nfilters=4\nbatch_normalize=1\nactivation=relu\n"


def test_a_reorg_without_a_stride_makes_channels_column_by_column_and_says_so(tmp_path, caplog):
    """yolor_p6.cfg, whose networks Darknet does not run: for it the stride is then 1, a section that moves nothing."""
    path = tmp_path / "net.cfg"
    path.write_text(COLUMNS + "[route]\nlayers=0\n")
    caplog.set_level("INFO")
    spec = read_cfg(path)
    assert "line 4: [reorg] without stride= makes channels of 2x2 px, column by column" in caplog.text
    assert "say stride=1" in caplog.text
    x = torch.rand(2, 3, 6, 8)
    found = Darknet(spec).activations(x)
    want = torch.cat([x[..., down::2, right::2] for right in (0, 1) for down in (0, 1)], 1)
    assert torch.equal(found[len(spec.layers) - 1], want)  # [route] layers=0 is the whole section
    assert parse_cfg(write_cfg(spec)) == spec
    still = parse_cfg(path.read_text().replace("[reorg]\n", "[reorg]\nstride=1\n"))
    assert torch.equal(Darknet(still).activations(x)[0], x)


def test_column_by_column_is_cut_and_computed_in_integers_and_spikes():
    head = "[convolutional]\nfilters=7\nactivation=linear\n[yolo]\nmask=0\nanchors=6,8\nclasses=2\nnum=1\n"
    net = random_network(parse_cfg(COLUMNS + head))
    plan = plan_channels(net, percent=0.5, tie=ShortcutRule.ANY)
    small, plan = settle_and_cut(net, plan, Beta.CARRIER)
    x = random_images(1, side=32)
    assert_same(run(small, x), run(zeroed(net, plan), x))
    assert 1 <= len(small.state["layers.6.bn.bias"]) < 4
    integer = lower(calibrate(small, [x], Scheme(a_bit=4, equalise=False, correct_bias=False)))
    assert torch.equal(IntegerExecutor(integer)(x)[0], LayerwiseExecutor(encode(integer))(x)[0])


REFUSED = [
    (NET.format(6) + "[dropout]\n[reorg]\nstride=2\n", r"line 6: \[reorg\] with stride=2 reads 6 .* multiple of 4"),
    (NET.format(8) + "[dropout]\n[reorg]\nreverse=1\n", r"line 6: reverse=1 is not supported; use \[upsample\]"),
    (NET.format(8) + "[dropout]\n[reorg]\nflatten=1\n", r"line 7: unknown key 'flatten' in \[reorg\]"),
]


@pytest.mark.parametrize(("text", "message"), REFUSED, ids=[m[:30] for _, m in REFUSED])
def test_a_reorg_that_cannot_be_names_its_line(text, message):
    with pytest.raises(InputError, match=message):
        parse_cfg(text)


def test_a_map_that_does_not_part_names_the_line_and_a_size_that_does():
    spec = parse_cfg(NET.format(8) + "[dropout]\n[reorg]\nstride=2\n")
    with pytest.raises(InputError, match=r"line 6: \[reorg\] .* a map of 33x32 px; use --img-size a multiple of 2"):
        sizes(spec, 33, 32)
