"""Any bit of any file: verify.py fails, names the file, and in a tensor the very element."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.export.hand_made import hand_made
from tests.export.nets import LOW, export, small
from tests.export.test_folder import flip
from tests.quantization.random_nets import random_images
from utils.export import verify

HEX = b"0123456789abcdef"


@pytest.fixture(scope="module")
def leaky(tmp_path_factory):
    """Every form, tiles, spike trains with signs, second gains."""
    folder = tmp_path_factory.mktemp("leaky") / "net"
    network, images = small("tests/cfgs/slices.cfg", LOW)
    return folder, export(folder, network, images[:1], tile=(3, 5), spiking=True)


@pytest.fixture(scope="module")
def tabled(tmp_path_factory):
    """Tables, gains of sums, a pool and a gate."""
    folder = tmp_path_factory.mktemp("tabled") / "net"
    return folder, export(folder, hand_made(), random_images(1))


def refs_of(manifest: dict) -> list[tuple[str, str, dict, tuple[int, int] | None]]:
    """(path, form, tensor, tile) of every tensor file; by a walk through the manifest, not by verify.py's."""
    found = []

    def walk(node):
        if isinstance(node, dict):
            if "files" in node and "shape" in node:
                found.extend((path, form, node, None) for form, path in node["files"].items())
                tiled = node.get("tiled")
                if tiled:
                    size = (tiled["tm"], tiled["tn"])
                    found.extend((path, form, node, size) for form, path in tiled["files"].items())
                return
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk({key: value for key, value in manifest.items() if key != "files"})
    return found


def place_of(content: bytes, form: str, ref: dict, byte: int, bit: int) -> int | None:
    """The number, in the order of the file, of the element that this bit belongs to; None: of none, or of two."""
    count = int(np.prod(ref["shape"]))
    rows, wide = ref.get("layout") == "rows", ref["shape"][-1]
    if form == "npy":
        start = 10 + int.from_bytes(content[8:10], "little")
        if byte < start:
            return None
        if rows:
            row, column = divmod(byte - start, -(-wide // 8))
            return row * wide + 8 * column + bit if 8 * column + bit < wide else None
        return (byte - start) // ((len(content) - start) // count)
    if form == "bin":
        at = (8 * byte + bit) // (1 if rows else ref["bits"])
        return at if at < count else None
    head = content.index(b"vector=\n") + 8 if form == "coe" else 0
    if byte < head or content[byte] not in HEX or content[byte] ^ 1 << bit not in HEX + HEX.upper():
        return None
    value = int(bytes([content[byte]]), 16) ^ int(bytes([content[byte] ^ 1 << bit]), 16)
    if not value:  # an f that became an F
        return None
    line = content[head:byte].count(b"\n")
    if not rows:
        return line
    digit = len(content[byte:].split(b"\n")[0]) - 1  # digits behind this one in its line
    if value.bit_count() != 1:
        return None
    column = 4 * digit + value.bit_length() - 1
    return line * wide + column if column < wide else None


def message(folder: Path, name: str, byte: int, bit: int, manifest: dict | None = None) -> str:
    """What verify.py says of this one flipped bit; with a manifest it is asked about this file alone."""
    path = folder / name
    whole = path.read_bytes()
    flip(path, byte, bit)
    try:
        with pytest.raises(verify.MismatchError) as error:
            if manifest is None:
                verify.check(folder)
            else:
                verify.check_file(folder, name, manifest["files"][name], manifest)
    finally:
        path.write_bytes(whole)
    return str(error.value)


def element_told(text: str, ref: dict, tile: tuple[int, int] | None) -> int:
    """The element that a message names, as a number in the order of the file."""
    index = tuple(map(int, re.search(r"element \[([\d, ]+)\] is -?\d+, was -?\d+", text)[1].split(",")))
    number = int(np.ravel_multi_index(index, ref["shape"]))
    if tile is None:
        return number
    order = verify.tile_order(ref["shape"], *tile).tolist()
    assert f"tiled element {order.index(number)}, " in text
    return order.index(number)


@pytest.mark.parametrize("made", ["leaky", "tabled"])
def test_every_tensor_file_names_the_element_of_a_flipped_bit(made, request):
    folder, manifest = request.getfixturevalue(made)
    rng, kinds = random.Random(1), set()
    for path, form, ref, tile in refs_of(manifest):
        content = (folder / path).read_bytes()
        for _ in range(400):
            byte, bit = rng.randrange(len(content)), rng.randrange(8)
            place = place_of(content, form, ref, byte, bit)
            if place is not None:
                break
        else:
            continue
        text = message(folder, path, byte, bit, manifest)
        assert text.startswith(f"{path}: ") and f"bit {bit} of byte {byte} is flipped" in text
        assert element_told(text, ref, tile) == place, text
        kinds.add((re.sub(r"\d+", "", Path(path).stem), form))
    assert len(kinds) > 20 and verify.check(folder)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), made=st.sampled_from(["leaky", "tabled"]))
def test_any_bit_of_any_file_is_named(data, made, request):
    folder, manifest = request.getfixturevalue(made)
    name = data.draw(st.sampled_from(sorted([*manifest["files"], "manifest.json", "manifest.sum"])))
    content = (folder / name).read_bytes()
    byte, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
    text = message(folder, name, byte, bit)
    assert text.startswith(f"{name}: ")
    if name != "manifest.sum":
        assert f"bit {bit} of byte {byte} is flipped" in text


def test_the_manifest_lists_every_file_so_that_none_is_left_unchecked(leaky, tabled):
    for folder, manifest in (leaky, tabled):
        there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert there == set(manifest["files"]) | {"manifest.json", "manifest.sum"}
        assert {path for path, *_ in refs_of(manifest)} <= there
        data = {name for name in there if name.startswith(("weights/", "golden/")) and "boxes" not in name}
        assert data == {path for path, *_ in refs_of(manifest)}
