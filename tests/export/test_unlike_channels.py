"""Gains wider than 16 bits, in every executor and in the hand-off."""

from __future__ import annotations

import re

import pytest

from tests.export.nets import export
from tests.export.test_c99 import check as check_c
from tests.export.test_numpy_executor import check_equal
from tests.export.test_one_network import SIMULATOR, TOOLS
from tests.export.test_rtl import check as check_rtl
from tests.export.unlike import unlike, unlike_quantised
from tests.spiking.test_equality import assert_equal_everywhere
from utils.quantization.executor import IntegerExecutor
from utils.quantization.lower import lower
from utils.spiking.spike_schedule import encode


def test_a_silent_channel_takes_no_precision_from_the_others():
    quantised, images = unlike_quantised()
    network = lower(quantised)
    trace, by = IntegerExecutor(network).trace(images), network.ops[1].requantiser
    assert int(by.multiplier.max()) > 500 * int(by.multiplier[1:].max())
    ratio = quantised.grids[0].scale * quantised.weight_scales[1] / quantised.grids[1].scale
    real = (trace.accumulators[1] * ratio.view(1, -1, 1, 1)).clamp(by.qmin, by.qmax)
    assert float((trace.levels[1] - real).abs().max()) <= 1 / 2 + 1 / 32


def test_numpy_and_spikes_take_wide_gains(tmp_path):
    network, images = unlike()
    check_equal(network, images, tmp_path)
    assert_equal_everywhere(encode(network), images)


@pytest.mark.skipif(not TOOLS, reason="needs cc and make")
def test_c_takes_wide_gains(tmp_path):
    check_c(tmp_path, *unlike())


@pytest.mark.skipif(not SIMULATOR, reason="needs iverilog")
def test_the_simulator_multiplies_by_wide_gains(tmp_path):
    network, images = unlike()
    assert check_rtl(tmp_path, network, images).startswith("RTL: layer 1,")
    width = int(network.ops[1].requantiser.multiplier.max()).bit_length() + 1
    assert re.search(rf"\bGAIN\W+{width}\b", (tmp_path / "rtl/layer.svh").read_text())


def test_the_manifest_says_how_wide_the_gains_are(tmp_path):
    network, images = unlike()
    manifest = export(tmp_path / "net", network, images)
    message = {layer["layer"]: layer["requantise"] for layer in manifest["layers"] if layer.get("requantise")}
    for i, numbers in message.items():
        assert numbers["gain_bits"] == int(network.ops[i].requantiser.multiplier.max()).bit_length()
    assert message[1]["gain_bits"] > 16
