"""What a layer costs is counted once: the manifest, quantize.py and the budget of --bits auto say the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.export.hand_made import hand_made
from tests.export.nets import LOW, QUICK, chance, rich, shipped, small
from tests.export.test_numpy_executor import SHIPPED, SMALL, manifest_of
from tests.quantization.promised import bit_operations
from tests.quantization.random_nets import random_images
from utils.darknet.counts import count
from utils.darknet.spec import Conv
from utils.export.costs import cost_of, shapes
from utils.export.formats import word_of
from utils.quantization.activation_qparams import QParams
from utils.quantization.bits import operations_by_layer
from utils.quantization.integer import IntConv, IntegerNetwork, IntGate


def totals(network: IntegerNetwork, size: tuple[int, int]) -> dict[str, int]:
    """MACs and BOPs as the manifest adds them up."""
    shape = shapes(network, size)
    costs = [cost_of(network, i, shape) for i in range(len(network.spec.layers))]
    return {key: sum(getattr(cost, key) for cost in costs) for key in ("macs", "products", "bops")}


def check(network: IntegerNetwork, size: tuple[int, int]) -> None:
    found, counts = totals(network, size), count(network.spec, size)
    macs = {layer.layer: layer.macs for layer in counts.layers}
    assert found["macs"] == counts.macs
    assert found["bops"] == sum(operations_by_layer(network, macs).values())
    own = 0  # once more, by hand
    for i, op in network.ops.items():
        if isinstance(op, IntConv):
            grid = network.grids[network.spec.layers[i].sources[0]]
            own += macs[i] * op.w_bit * word_of(grid.qmin, grid.qmax).bits
    assert found["bops"] == own > 0


@pytest.mark.parametrize("name", SMALL)
def test_manifest_and_quantize_count_the_test_cfgs_alike(name):
    check(small(f"tests/cfgs/{name}.cfg")[0], (64, 64))


@pytest.mark.parametrize("name", SHIPPED[::4])
def test_manifest_and_quantize_count_shipped_cfgs_alike(name):
    network, images = shipped(name)
    check(network, (images.shape[2], images.shape[3]))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 60), scheme=st.sampled_from([QUICK, LOW]), make=st.sampled_from([chance, rich]))
def test_manifest_and_quantize_count_random_networks_alike(seed, scheme, make):
    check(make(seed, scheme)[0], (16, 16))


def test_a_scheme_promises_the_bit_operations_that_the_integers_have():
    """But where a concat of signed and unsigned levels takes a bit more: there the promise is the lower one."""
    broadcast = 0
    for seed in range(12):
        network = chance(seed, LOW)[0]
        macs = {layer.layer: layer.macs for layer in count(network.spec, (16, 16)).layers}
        promised = bit_operations(network.spec, network.scheme, macs)
        found = sum(operations_by_layer(network, macs).values())
        mixed = any(grid.qmin < 0 < grid.qmax and grid.qmax > -grid.qmin for grid in network.grids.values())
        assert found >= promised if mixed else found <= promised
        broadcast += found == promised
    assert broadcast >= 6


def test_products_of_gates_are_neither_macs_nor_bit_operations(tmp_path):
    network, images = hand_made(), random_images(1)
    layers = manifest_of(network, images, tmp_path)[0]["layers"]
    gates = [i for i, op in network.ops.items() if isinstance(op, IntGate)]
    for i in gates:
        cost = layers[i]["cost"]
        assert cost["products"] == int(np.prod(layers[i]["output"])) and cost["macs"] == cost["bops"] == 0
    assert gates and all(
        (layer["cost"]["bops"] > 0) == isinstance(network.spec.layers[layer["layer"]], Conv) for layer in layers
    )


@given(qmin=st.integers(-(2**15), 0), qmax=st.integers(1, 2**15 - 1))
def test_the_bits_of_a_level_are_those_of_the_word_it_is_stored_in(qmin, qmax):
    bits = QParams(1.0, qmin, qmax).bits
    assert bits == word_of(qmin, qmax).bits
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if qmin < 0 else (0, 2**bits - 1)
    assert low <= qmin and qmax <= high
    half = (low // 2, high // 2)
    assert not (half[0] <= qmin and qmax <= half[1])
