from __future__ import annotations

import pytest
import torch

from models import build
from tests.darknet.opencv import opencv_outputs
from tests.pruning.nets import random_network
from utils.darknet import spec as s
from utils.darknet.cfg import parse_cfg, write_cfg
from utils.darknet.reorder import reorg
from utils.darknet.shapes import channels, granularity, sizes, strides
from utils.errors import InputError

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
