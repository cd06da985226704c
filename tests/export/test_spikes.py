"""Golden spike trains: what the step-by-step simulator fires, packed, and checked by the verifier."""

from __future__ import annotations

import logging
import re
import shutil

import numpy as np
import pytest

from tests.export.nets import LOW, QUICK, export, rich, small
from tests.export.test_folder import reseal
from utils.export import golden, verify
from utils.export.formats import encode_bits
from utils.spiking.spike_schedule import encode, spiking_layers
from utils.spiking.stepwise import StepwiseExecutor


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spikes") / "net"
    network, images = small("tests/cfgs/slices.cfg", LOW)
    return folder, export(folder, network, images, spiking=True), network, images


def test_golden_trains_are_what_the_step_by_step_simulator_fires(made):
    folder, manifest, network, images = made
    trains = StepwiseExecutor(encode(network)).simulate(images).trains
    assert len(manifest["golden"]["spikes"]) == len(images) == 2
    negative = 0
    for k, planes in enumerate(manifest["golden"]["spikes"]):
        assert {int(name) for name in planes} == set(spiking_layers(network))
        for name, parts in planes.items():
            train = trains[int(name)][:, k].numpy()
            np.testing.assert_array_equal(verify.load(folder, parts["train"]), train != 0)
            assert ("sign" in parts) == (network.grids[int(name)].qmin < 0)
            if "sign" in parts:
                sign = verify.load(folder, parts["sign"])
                np.testing.assert_array_equal(np.where(sign, -1, 1) * (train != 0), train)
                negative += int(sign.sum())
    assert negative > 100


@pytest.mark.parametrize("seed", range(4))
def test_golden_trains_of_random_networks_are_what_the_simulator_fires(seed, tmp_path):
    network, images = rich(seed, LOW, spikes=True)
    manifest = export(tmp_path / "net", network, images, spiking=True, forms=("npy",))
    trains = StepwiseExecutor(encode(network)).simulate(images).trains
    for k, planes in enumerate(manifest["golden"]["spikes"]):
        for name, parts in planes.items():
            fired = verify.load(tmp_path / "net", parts["train"])
            np.testing.assert_array_equal(fired, trains[int(name)][:, k].numpy() != 0)


def test_numpy_alone_unpacks_a_train_as_the_readme_says(made):
    folder, manifest, *_ = made
    text = (folder / "README.md").read_text()
    call = re.search(r"numpy\.unpackbits\(rows, axis=-1, count=width, bitorder=\"little\"\)", text)
    assert call and "2 of 2 golden images" in " ".join(text.split())
    name, parts = next(iter(manifest["golden"]["spikes"][0].items()))
    rows = np.load(folder / parts["train"]["files"]["npy"])
    width = parts["train"]["shape"][-1]
    fired = eval(call[0], {"numpy": np, "rows": rows, "width": width})
    levels = np.load(folder / manifest["golden"]["tensors"][0][name]["files"]["npy"]).astype(int)
    np.testing.assert_array_equal(fired.sum(0), abs(levels))


@pytest.mark.parametrize("part", ["train", "sign"])
def test_a_spike_that_is_wrong_but_stamped_right_is_named(made, part, tmp_path):
    network, images = made[2:]
    manifest = export(tmp_path / "net", network, images[:1], spiking=True, forms=("npy", "bin"))
    name, ref = next((name, p[part]) for name, p in manifest["golden"]["spikes"][0].items() if "sign" in p)
    bits = verify.load(tmp_path / "net", ref).copy()
    place = tuple(size // 2 for size in ref["shape"])
    bits[place] ^= 1
    for form, path in ref["files"].items():
        (tmp_path / "net" / path).write_bytes(encode_bits(bits, form))
    reseal(tmp_path / "net", lambda manifest: None)
    message = re.escape(
        f"{ref['files']['npy']}: element {list(place)} is {bits[place]}, but layer {name} at level n gives"
    )
    with pytest.raises(verify.MismatchError, match=message):
        verify.check(tmp_path / "net")


def test_trains_of_too_few_steps_or_without_their_signs_are_named(made, tmp_path):
    network, images = made[2:]
    manifest = export(tmp_path / "net", network, images[:1], spiking=True, forms=("npy",))
    trains = manifest["golden"]["spikes"][0]
    levels = {int(n): verify.load(tmp_path / "net", ref) for n, ref in manifest["golden"]["tensors"][0].items()}
    name, parts = next((name, p) for name, p in trains.items() if "sign" in p and levels[int(name)].min() < 0)
    with pytest.raises(verify.MismatchError, match=f"{int(name):03d}_spikes.npy: has no room for the levels of layer"):
        verify.check_trains(tmp_path / "net", {name: {"train": parts["train"]}}, levels)


def test_a_network_that_is_not_spiking_has_no_trains(tmp_path):
    network, images = small("tests/cfgs/plain.cfg", QUICK)
    manifest = export(tmp_path / "net", network, images, forms=("npy",))
    assert manifest["golden"]["spikes"] == [] and not list((tmp_path / "net").rglob("*spikes*"))


def test_trains_that_are_too_large_are_told_and_left_out_image_by_image(made, tmp_path, monkeypatch, caplog):
    network, images = made[2:]
    trace = golden.IntegerExecutor(network).trace(images[:1])
    one = golden.train_bytes(encode(network), trace)
    for room, written in ((2 * one, 2), (2 * one - 1, 1), (one - 1, 0)):
        monkeypatch.setattr(golden, "LARGEST_TRAINS", room)
        with caplog.at_level(logging.INFO):
            manifest = export(tmp_path / f"net{room}", network, images, spiking=True, forms=("npy",))
        assert len(manifest["golden"]["spikes"]) == written
        assert (f"spike trains of {written} of 2 golden images" in caplog.text) == (written < 2)
        assert f"{written} of 2 golden images" in " ".join((tmp_path / f"net{room}/README.md").read_text().split())
        caplog.clear()


@pytest.mark.parametrize("form", ["npy", "bin", "mem"])
def test_a_flipped_bit_of_a_train_is_named_by_step_channel_row_and_column(form, made, tmp_path):
    """The very last place that fires, so that every index counts."""
    folder, manifest, *_ = made
    copy = shutil.copytree(folder, tmp_path / "copy")
    ref = next(iter(manifest["golden"]["spikes"][1].values()))["train"]
    bits = verify.load(folder, ref).copy()
    place = tuple(map(int, np.argwhere(bits)[-1]))
    bits[place] = 0
    path = copy / ref["files"][form]
    path.write_bytes(encode_bits(bits, form))
    message = re.escape(f"{ref['files'][form]}: element {list(place)} is 0, was 1; ")
    with pytest.raises(verify.MismatchError, match=message):
        verify.check(copy)
