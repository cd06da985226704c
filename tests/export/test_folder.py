"""The folder as an engineer gets it: complete, checkable without us, and never there by half."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import torch

from tests.export.nets import LOW, export, small
from utils.errors import InputError
from utils.export import package, verify
from utils.export.schema import fault, read_schema
from utils.quantization.executor import IntegerExecutor
from utils.quantization.integer import IntConv, IntShortcut


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A spiking network of leaky layers, routes, slices and a shortcut, in 3-bit weights and 4-bit levels, in tiles."""
    folder = tmp_path_factory.mktemp("export") / "net"
    network, images = small("tests/cfgs/slices.cfg", LOW)
    return folder, export(folder, network, images, tile=(3, 5), spiking=True), network, images


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made[0], tmp_path / "copy")


def run_verifier(folder: Path) -> subprocess.CompletedProcess[str]:
    """As a stranger would: their own Python, isolated from ours but for numpy."""
    return subprocess.run([sys.executable, "-I", "verify.py"], cwd=folder, capture_output=True, text=True)


def test_the_folder_verifies_by_itself_where_darkspike_is_not_installed(copy):
    done = run_verifier(copy)
    assert done.returncode == 0 and done.stderr == ""
    assert re.match(r"\d+ files are whole; \d+ layers x 2 images equal in every element\n", done.stdout)


def test_the_manifest_on_disk_holds_to_its_schema_and_lists_every_file(made):
    folder, manifest, *_ = made
    written = json.loads((folder / "manifest.json").read_text())
    assert written == json.loads(json.dumps(manifest)) and fault(written) is None
    assert json.loads((folder / "manifest.schema.json").read_text()) == read_schema()
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert set(written["files"]) | {"manifest.json", "manifest.sum"} == files


def test_another_validator_agrees_about_the_manifest(made):
    jsonschema.Draft202012Validator(read_schema()).validate(made[1])


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        (("version",), 1, r"manifest.version: 1 breaks enum"),
        (("layers", 0, "kind"), "softmax", r"layers\[0\].kind: 'softmax' breaks enum"),
        (("layers", 0, "acc_bits"), 49, r"acc_bits: 49 breaks maximum 48"),
        (("layers", 0, "weights", "bits"), True, r"weights.bits: is bool, must be integer"),
        (("layers", 0, "f"), 3, r"layers\[0\].f is unknown|layers\[0\]: f is unknown"),
        (("golden",), {"images": 1}, r"golden: tensors is missing"),
        (("cfg_sha256",), "abc", r"cfg_sha256: 'abc' breaks pattern"),
    ],
)
def test_a_manifest_that_departs_from_the_schema_is_told_where(made, place, value, message):
    manifest = json.loads(json.dumps(made[1]))
    inner = manifest
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    assert re.search(message, fault(manifest) or "")


def test_scales_of_routes_and_gains_of_shortcuts_are_in_the_manifest(made):
    """The reference left out the scales of routes."""
    _, manifest, network, _ = made
    kinds = {layer["kind"] for layer in manifest["layers"]}
    assert {"conv", "route", "shortcut", "head"} <= kinds
    for layer in manifest["layers"]:
        if layer["layer"] in network.grids:
            grid = network.grids[layer["layer"]]
            assert (layer["grid"]["scale"], layer["grid"]["lo"], layer["grid"]["hi"]) == (
                grid.scale,
                grid.qmin,
                grid.qmax,
            )
        if layer["kind"] == "shortcut":
            op = network.ops[layer["layer"]]
            assert isinstance(op, IntShortcut) and layer["requantise"]
            np.testing.assert_array_equal(np.load(made[0] / layer["gains"]["files"]["npy"]), op.gains.numpy())


def test_the_files_hold_the_networks_own_integers_in_every_form(made):
    folder, manifest, network, _ = made
    seen = 0
    for layer in manifest["layers"]:
        op = network.ops.get(layer["layer"])
        if not isinstance(op, IntConv):
            continue
        for name, values in (("weights", op.weight), ("bias", op.bias)):
            ref = layer[name]
            for form, path in ref["files"].items():
                found = verify.decode((folder / path).read_bytes(), form, ref)
                np.testing.assert_array_equal(found, values.flatten().numpy())
                seen += 1
        order = verify.tile_order(layer["weights"]["shape"], 3, 5)
        for form, path in layer["weights"]["tiled"]["files"].items():
            found = verify.decode((folder / path).read_bytes(), form, layer["weights"])
            np.testing.assert_array_equal(found, op.weight.flatten().numpy()[order])
    assert seen == 8 * sum(isinstance(op, IntConv) for op in network.ops.values())


def test_packed_weights_take_their_bits(made):
    folder, manifest, *_ = made
    for layer in manifest["layers"]:
        if layer["kind"] == "conv":
            ref = layer["weights"]
            size = (folder / ref["files"]["bin"]).stat().st_size
            assert size == -(-int(np.prod(ref["shape"])) * ref["bits"] // 8) and ref["bits"] in (3, 5)


def test_costs_add_up(made):
    _, manifest, *_ = made
    for layer in manifest["layers"]:
        if layer["kind"] == "conv":
            o, i, k, _ = layer["weights"]["shape"]
            _, h, w = layer["output"]
            macs = o * i * k * k * h * w
            source = next((each for each in manifest["layers"] if each["layer"] == layer["inputs"][0]), None)
            bits = source["grid"]["bits"] if source else 8
            assert layer["cost"]["macs"] == macs and layer["cost"]["bops"] == macs * layer["weights"]["bits"] * bits
    assert manifest["totals"]["macs"] == sum(layer["cost"]["macs"] for layer in manifest["layers"])


def test_the_readme_works_out_one_output_in_real_numbers(made):
    folder, _, network, images = made
    text = (folder / "README.md").read_text()
    assert "$" not in text.replace("$readmemh", "")
    acc = re.search(r"acc   = (.*) \+ bias (-?\d+)\n +(?:= )(-?\d+)", text)
    assert acc, text
    terms = re.sub(r"\(the other.*?\)", "", acc[1])
    assert eval(terms) + int(acc[2]) == int(acc[3])
    m, f = map(int, re.search(r"m     = (-?\d+), f = (\d+)", text).groups())
    level = int(re.search(r">> \d+ = (-?\d+), clipped", text)[1])
    assert level == (int(acc[3]) * m + 2 ** (f - 1)) >> f
    name, place, value = re.search(r"`golden/0/(\d+)_out.npy`\[(.*?)\] is (-?\d+)", text).groups()
    levels = IntegerExecutor(network).levels(images)[int(name)][0]
    assert int(levels[tuple(map(int, place.split(", ")))]) == int(value)


def test_the_neurons_parameters_are_those_of_the_requantisation(made):
    _, manifest, network, _ = made
    assert manifest["spiking"]["latency_steps"] == (manifest["spiking"]["depth"] + 1) * manifest["spiking"]["window"]
    for layer in manifest["layers"]:
        by = getattr(network.ops.get(layer["layer"]), "requantiser", None)
        assert (by is not None) == ("neuron" in layer)
        if by is not None:
            assert (layer["neuron"]["log2_theta"], layer["neuron"]["lo"], layer["neuron"]["hi"]) == (
                by.shift,
                by.qmin,
                by.qmax,
            )


# ------------------------------------------------------------------------------------------------ flipped bits


def flip(path: Path, byte: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 1 << bit
    path.write_bytes(content)


def test_a_flipped_bit_in_any_file_is_found_and_named(made):
    folder, manifest, *_ = made
    rng = random.Random(0)
    names = sorted([*manifest["files"], "manifest.json", "manifest.sum"])
    for name in names:
        path, whole = folder / name, (folder / name).read_bytes()
        byte, bit = rng.randrange(len(whole)), rng.randrange(8)
        try:
            flip(path, byte, bit)
            with pytest.raises(verify.MismatchError, match=re.escape(f"{name}: ")) as message:
                verify.check(folder)
        finally:
            path.write_bytes(whole)
        if name != "manifest.sum":
            assert (
                f"bit {bit} of byte {byte} is flipped (0x{whole[byte] ^ 1 << bit:02x}, was 0x{whole[byte]:02x}"
                in str(message.value)
            )
    assert len(names) > 100 and verify.check(folder)


@pytest.mark.parametrize("form", ["npy", "bin", "mem", "coe"])
def test_a_flipped_bit_in_a_tensor_names_the_element(copy, made, form):
    layer = next(layer for layer in made[1]["layers"] if layer["kind"] == "conv")
    ref = layer["weights"]
    path = copy / ref["files"][form]
    before = verify.decode(path.read_bytes(), form, ref)
    content = path.read_bytes()
    last_digit = max(content.rfind(digit) for digit in b"0123456789")
    flip(path, len(content) - 2 if form in ("npy", "bin") else last_digit, 0)
    after = verify.decode(path.read_bytes(), form, ref)
    (at,) = np.flatnonzero(before != after)
    index = list(map(int, np.unravel_index(at, ref["shape"])))
    done = run_verifier(copy)
    assert done.returncode == 1 and done.stdout == ""
    assert f"{ref['files'][form]}: element {index} is {after[at]}, was {before[at]}; bit 0 of byte" in done.stderr


def test_a_flipped_bit_in_a_tiled_file_names_the_weight(copy, made):
    ref = next(layer for layer in made[1]["layers"] if layer["kind"] == "conv")["weights"]
    path = ref["tiled"]["files"]["mem"]
    flip(copy / path, 0, 0)
    with pytest.raises(verify.MismatchError, match=re.escape(path) + r": tiled element 0, element \[0, 0, 0, 0\] is "):
        verify.check(copy)


def test_more_than_one_damaged_bit_is_named_by_comparison_with_another_form(copy, made):
    ref = next(layer for layer in made[1]["layers"] if layer["kind"] == "conv")["bias"]
    path = copy / ref["files"]["bin"]
    for byte in (4, 9):
        flip(path, byte, 5)
    with pytest.raises(verify.MismatchError, match=r"_b\.bin: element \[1\] is -?\d+, was -?\d+; .*more than one bit"):
        verify.check(copy)


def test_a_missing_file_is_named(copy):
    (copy / "golden/1/image.mem").unlink()
    with pytest.raises(verify.MismatchError, match=r"golden/1/image.mem: No such file"):
        verify.check(copy)


def reseal(folder: Path, change) -> None:
    """Change the folder and stamp it anew: what a faulty exporter would leave, checksums right."""
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    package.seal(folder, manifest)


def test_a_golden_vector_that_is_wrong_but_stamped_right_is_named_by_recomputation(copy, made):
    ref = made[1]["golden"]["tensors"][1]["3"]

    def change(manifest):
        levels = np.load(copy / ref["files"]["npy"])
        levels[1, 2, 3] ^= 1
        np.save(copy / ref["files"]["npy"], levels)
        # the mem file must agree, or the difference between the forms is found first
        text = [f"{value & (1 << ref['bits']) - 1:x}" for value in levels.astype(int).ravel().tolist()]
        (copy / ref["files"]["mem"]).write_text("\n".join(text) + "\n")

    reseal(copy, change)
    with pytest.raises(verify.MismatchError, match=r"golden/1/003_out.npy: element \[1, 2, 3\] is .*layer 3 gives"):
        verify.check(copy)


def test_forms_that_disagree_are_named_though_stamped_right(copy, made):
    path = next(layer for layer in made[1]["layers"] if layer["kind"] == "conv")["weights"]["files"]["coe"]

    def change(manifest):
        text = (copy / path).read_text()
        head, words = text.split("vector=\n")
        values = words.split(",\n")
        values[4] = "0" if values[4] != "0" else "1"
        (copy / path).write_text(head + "vector=\n" + ",\n".join(values))

    reseal(copy, change)
    with pytest.raises(verify.MismatchError, match=re.escape(path) + ": element 4 is not that of"):
        verify.check(copy)


@pytest.mark.parametrize("key", ["f", "hi"])
def test_a_wrong_number_in_the_manifest_is_named_by_recomputation(copy, key):
    def change(manifest):
        manifest["layers"][0]["requantise"][key] += 1 if key == "f" else -5

    reseal(copy, change)
    with pytest.raises(verify.MismatchError, match=r"golden/0/000_out.npy: element \[.*but layer 0 gives"):
        verify.check(copy)


# -------------------------------------------------------------------------------------------- all or nothing


def test_an_export_that_does_not_verify_leaves_nothing_behind(tmp_path):
    network, images = small("tests/cfgs/plain.cfg")

    def damage(folder: Path, manifest: dict) -> None:
        levels = np.load(folder / "golden/0/000_out.npy")
        levels[0, 0, 0] ^= 1
        np.save(folder / "golden/0/000_out.npy", levels)

    options = package.HandOffOptions(name="net", forms=("npy",))
    with pytest.raises(InputError, match=r"net: does not verify: golden/0/000_out.npy: element \[0, 0, 0\]"):
        package.export_network(tmp_path / "deep/net", network, images[:1], options, damage)
    assert list((tmp_path / "deep").iterdir()) == []


def test_an_interrupted_export_leaves_nothing_behind(tmp_path):
    def stop(folder: Path, manifest: dict) -> None:
        assert (folder / "weights").is_dir()
        raise KeyboardInterrupt

    network, images = small("tests/cfgs/plain.cfg")
    with pytest.raises(KeyboardInterrupt):
        package.export_network(tmp_path / "net", network, images[:1], package.HandOffOptions(name="net"), stop)
    assert list(tmp_path.iterdir()) == []


def test_a_taken_folder_is_refused_and_stays_as_it_is(tmp_path):
    network, images = small("tests/cfgs/plain.cfg")
    (tmp_path / "net").mkdir()
    (tmp_path / "net/mine.txt").write_text("mine")
    with pytest.raises(InputError, match="net: exists; choose another --out"):
        export(tmp_path / "net", network, images)
    assert [path.name for path in tmp_path.rglob("*")] == ["net", "mine.txt"]


def test_golden_levels_are_the_torch_executors(made):
    folder, _, network, images = made
    trace = IntegerExecutor(network).trace(images)
    for k in range(2):
        for i, levels in trace.levels.items():
            stem = "image" if i < 0 else f"{i:03d}_out"
            assert torch.equal(torch.from_numpy(np.load(folder / f"golden/{k}/{stem}.npy")).int(), levels[k])
