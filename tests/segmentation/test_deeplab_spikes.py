"""DeepLab v3 as spikes: its mean of the whole map is a neuron a channel, as exact as the others."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.conftest import ROOT
from tests.export.nets import LOW, lowered, narrow
from tests.quantization.random_nets import CONV, cfg_text, random_images
from tests.spiking.test_equality import assert_equal_everywhere, spiking
from tests.spiking.test_stream import assert_streams_exactly
from utils.darknet import spec as s
from utils.darknet.cfg import parse_cfg, write_cfg
from utils.errors import InputError
from utils.spiking.layerwise import LayerwiseExecutor
from utils.spiking.spike_schedule import SpikingNetwork, check_spiking_spec, encode
from utils.spiking.stream import StreamExecutor
from utils.spiking.synops import measure

SIDE = 64  # px; the cfg's mean is spread over the 32x32 cells of 512 px


@pytest.fixture(scope="module")
def network() -> SpikingNetwork:
    text = (ROOT / "cfg/masks/deeplabv3-resnet34.cfg").read_text()
    spec = narrow(parse_cfg(text.replace("[upsample]\nstride=32", f"[upsample]\nstride={SIDE // 16}")), by=32)
    return encode(lowered(write_cfg(spec), random_images(1, side=SIDE), replace(LOW, a_bit=3)))


def pool_of(network: SpikingNetwork) -> tuple[int, s.Layer]:
    return next((i, layer) for i, layer in enumerate(network.spec.layers) if isinstance(layer, s.AvgPool))


def test_its_spikes_are_its_integers_in_both_modes(network):
    x = random_images(1, side=SIDE, seed=4)
    check_spiking_spec(network.spec)
    assert_equal_everywhere(network, x)
    assert_streams_exactly(StreamExecutor(network), x)
    i, _ = pool_of(network)
    assert LayerwiseExecutor(network).counts(x)[i].any(), "a mean that never fires proves nothing"


def test_a_spike_charges_its_channels_mean_once(network):
    x, (i, layer) = random_images(1, side=SIDE, seed=4), pool_of(network)
    executor = LayerwiseExecutor(network)
    cost, counts = measure(executor, [x]).layers[i], executor.counts(x)
    source = counts[layer.sources[0]]
    assert cost.sops == source.abs().sum() and cost.adds == source[0].numel() - counts[i][0].numel()


def test_its_window_is_that_of_the_bits_that_were_asked_for(network):
    assert network.window == 7


def test_a_mean_of_another_size_is_refused_in_either_mode():
    conv = ("convolutional", CONV)
    small = spiking(cfg_text(conv, ("avgpool", {}), conv))
    x, message = (
        random_images(1, side=64),
        r"layer 1 \(cfg line \d+\): averages a map of 64x64 = 4096 px, but its gain was",
    )
    for executor in (LayerwiseExecutor(small), StreamExecutor(small)):
        with pytest.raises(InputError, match=message):
            executor(x)
