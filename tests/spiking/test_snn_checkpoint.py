from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.quantization.random_nets import cfg_text, random_images, random_network
from utils.darknet.network import Checkpoint, Network, load_checkpoint, save_checkpoint
from utils.errors import InputError
from utils.quantization.calibrate import calibrate
from utils.quantization.executor import IntegerExecutor
from utils.quantization.int_checkpoint import integer_of, to_checkpoint
from utils.quantization.lower import lower
from utils.quantization.scheme import Scheme
from utils.spiking.layerwise import LayerwiseExecutor
from utils.spiking.snn_checkpoint import load_spiking, save_integers
from utils.spiking.spike_schedule import SpikingNetwork, encode

WIDE = {"filters": 32, "size": 3, "pad": 1, "activation": "relu"}


def spiking(cfg: str | int, w_bit: int = 8) -> SpikingNetwork:
    scheme = Scheme(w_bit=w_bit, equalise=False, refit=False)
    return encode(lower(calibrate(random_network(cfg), [random_images()], scheme)))


def saved(path: Path, network: SpikingNetwork, **words: Any) -> Path:
    return save_integers(path, network.integer, "spiking", **words)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("w_bit", [8, 3])
def test_a_reloaded_network_computes_the_same_bits_in_every_layer(tmp_path, seed, w_bit):
    network, x = spiking(seed, w_bit), random_images(2, seed=9)
    again = load_spiking(saved(tmp_path / "net.snn.pt", network, names=("thing",), meta={"map50": 0.5}))
    assert again.spec == network.spec and again.integer.scheme == network.integer.scheme
    assert again.integer.grids == network.integer.grids and again.describe() == network.describe()
    before, after = LayerwiseExecutor(network).trace(x), LayerwiseExecutor(again).trace(x)
    for i in before.levels:
        assert torch.equal(before.levels[i], after.levels[i])
    for a, b in zip(IntegerExecutor(network.integer)(x), LayerwiseExecutor(again)(x), strict=True):
        assert torch.equal(a, b)


def test_the_file_is_self_contained_and_read_without_executing_anything(tmp_path):
    path = saved(tmp_path / "net.snn.pt", spiking(1), names=("cat", "dog"), meta={"script": "convert_snn"})
    checkpoint = load_checkpoint(path)  # weights_only=True inside
    assert checkpoint.kind == "spiking" and checkpoint.names == ("cat", "dog")
    assert checkpoint.network.state == {} and checkpoint.meta == {"script": "convert_snn"}


@pytest.mark.parametrize(("w_bit", "most"), [(8, 0.30), (4, 0.20)])
def test_the_file_is_a_fraction_of_the_float_one(tmp_path, w_bit, most):
    text = cfg_text(*[("convolutional", WIDE | {"filters": 96})] * 4)
    network = random_network(text)
    whole = save_checkpoint(tmp_path / "float.pt", Checkpoint(network)).stat().st_size
    packed = saved(tmp_path / "net.snn.pt", spiking(text, w_bit)).stat().st_size
    assert packed < most * whole


def test_a_float_checkpoint_is_refused_by_kind():
    with pytest.raises(InputError, match=r"net\.pt: holds a float network; convert it with convert_snn\.py"):
        integer_of(Checkpoint(random_network(0)), "net.pt")


def test_a_newer_format_and_a_cut_file_are_refused():
    checkpoint = to_checkpoint(spiking(0).integer, "spiking")
    newer = replace(checkpoint, payload={**checkpoint.payload, "version": 3})
    with pytest.raises(InputError, match="integer format 3, this is 2"):
        integer_of(newer)
    short = replace(checkpoint, payload={**checkpoint.payload, "weights": checkpoint.payload["weights"][:-3]})
    with pytest.raises(InputError, match="its weights end early"):
        integer_of(short)
    long = replace(checkpoint, payload={**checkpoint.payload, "biases": torch.zeros(9999, dtype=torch.int32)})
    with pytest.raises(InputError, match="biases are left over"):
        integer_of(long)


def test_saving_over_an_earlier_file_is_whole_or_not_at_all(tmp_path):
    path = saved(tmp_path / "net.snn.pt", spiking(0))
    before = path.read_bytes()
    broken = replace(spiking(0), integer=replace(spiking(0).integer, ops={}))
    with pytest.raises((RuntimeError, ValueError)):
        saved(path, broken, replace=True)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["net.snn.pt"]


def test_a_taken_name_gets_a_number_unless_it_is_to_be_replaced(tmp_path):
    path = saved(tmp_path / "net.snn.pt", spiking(0))
    assert saved(path, spiking(1)) == tmp_path / "net-2.snn.pt" and load_checkpoint(path).kind == "spiking"
    assert saved(path, spiking(1), replace=True) == path
    assert load_spiking(path).spec == spiking(1).spec != spiking(0).spec
    assert load_checkpoint(save_integers(tmp_path / "net.int.pt", spiking(0).integer)).kind == "quantised"


def test_the_networks_own_tensors_are_never_shared_with_the_file(tmp_path):
    network = spiking(2)
    checkpoint = to_checkpoint(network.integer, "quantised")
    checkpoint.payload["biases"].zero_()
    assert any(int(op.bias.abs().max()) for i, op in network.integer.ops.items() if hasattr(op, "bias"))
    assert isinstance(checkpoint.network, Network)
