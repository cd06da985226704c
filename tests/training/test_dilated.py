"""Dilated kernels under bf16: their gradient is that of fp32, whatever lies in freed memory."""

from __future__ import annotations

import pytest
import torch

from utils.darknet.modules import conv_and_bn
from utils.darknet.spec import Conv


@pytest.mark.parametrize("groups", [1, 2])
def test_weights_of_a_dilated_kernel_have_the_gradient_of_fp32(groups):
    """With inputs that do not come in sixteens, bf16's read memory that nobody wrote."""
    layer = Conv(sources=(-1,), filters=12, size=3, pad=4, dilation=4, groups=groups)
    conv = conv_and_bn(layer, 74)[0].to(memory_format=torch.channels_last)
    x = torch.rand(8, 74, 23, 30).contiguous(memory_format=torch.channels_last)
    found = []
    for enabled in (True, False):
        conv.zero_grad()
        left = [torch.full((8, 128, 23, 30), float("nan"), dtype=torch.bfloat16) for _ in range(3)]
        del left
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            y = conv(x)
        y.float().square().mean().backward()
        found.append((y, conv.weight.grad.clone()))
    for ours, exact in zip(*found, strict=True):
        assert torch.equal(ours, exact)


@pytest.mark.parametrize(("channels", "dilation"), [(64, 4), (74, 1)])
def test_kernels_that_bf16_does_not_spoil_stay_in_it(channels, dilation):
    layer = Conv(sources=(-1,), filters=12, size=3, pad=dilation, dilation=dilation)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert conv_and_bn(layer, channels)[0](torch.rand(1, channels, 8, 8)).dtype == torch.bfloat16
