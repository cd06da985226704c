"""1x1 kernels that step over pixels: what oneDNN's gradient of them does to memory where few channels go in."""

import subprocess
import sys

import pytest
import torch

from utils.darknet.modules import conv_and_bn
from utils.darknet.spec import Conv

TRAINS = """
import sys, torch
from utils.darknet.modules import conv_and_bn, convolve
from utils.darknet.spec import Conv

channels, tall, wide = map(int, sys.argv[1:])
layer = Conv(sources=(-1,), filters=8, size=1, pad=0, stride=(tall, wide), bn=True)
conv = conv_and_bn(layer, channels)[0].to(memory_format=torch.channels_last)
for _ in range(8):
    x = torch.randn(12, channels, 32, 32).to(memory_format=torch.channels_last).requires_grad_()
    for made in (conv(x), convolve(layer, x, conv.weight * 1)):
        conv.zero_grad()
        made.square().sum().backward()
        exact = torch.nn.functional.conv2d(x.detach().double(), conv.weight.detach().double(), stride=(tall, wide))
        pixels = x.detach().double()[..., ::tall, ::wide]
        expected = 2 * torch.einsum("nohw,nihw->oi", exact, pixels)
        torch.testing.assert_close(made.double(), exact, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(conv.weight.grad[..., 0, 0].double(), expected, rtol=1e-3, atol=1e-2)
"""


@pytest.mark.parametrize(
    ("channels", "tall", "wide"), [(1, 2, 2), (3, 2, 2), (7, 2, 2), (4, 2, 1), (7, 3, 3), (15, 2, 2)]
)
def test_a_strided_kernel_of_few_channels_is_trained_to_its_end_with_the_gradient_of_float64(channels, tall, wide):
    """In a process of its own: without `strided` that one is killed by what oneDNN writes past its memory."""
    done = subprocess.run(
        [sys.executable, "-c", TRAINS, *map(str, (channels, tall, wide))], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-500:]


def test_strided_kernels_that_are_whole_blocks_of_channels_stay_one_call():
    layer = Conv(sources=(-1,), filters=8, size=1, pad=0, stride=(2, 2), bn=True)
    x = torch.rand(2, 16, 8, 8)
    assert conv_and_bn(layer, 16)[0](x).grad_fn.next_functions[0][0] is None  # what is read is x itself, no part of it
