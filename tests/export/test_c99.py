"""The C99 network, compiled and run: every element of every layer."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.export.hand_made import hand_made
from tests.export.nets import LOW, QUICK, chance, export, rich, shipped, small
from tests.export.test_numpy_executor import SHIPPED, SMALL
from tests.quantization.random_nets import random_images
from utils.errors import InputError
from utils.export.c99 import compile_and_check, plan_arena, write_c
from utils.export.costs import shapes
from utils.export.golden import write_golden

pytestmark = pytest.mark.skipif(not (shutil.which("cc") and shutil.which("make")), reason="needs cc and make")


def write(folder: Path, network, images) -> Path:
    write_golden(folder, network, images, ["npy"])
    write_c(folder / "c", network, shapes(network, tuple(images.shape[2:])), len(images))
    return folder / "c"


def check(folder: Path, network, images) -> None:
    message = compile_and_check(write(folder, network, images))
    computed = len(network.spec.layers) - len(network.spec.heads)
    assert message == f"C99: {computed} layers x {len(images)} images equal in every element"


@pytest.mark.parametrize("name", SMALL)
def test_every_layer_of_the_test_cfgs_is_equal_in_c(name, tmp_path):
    check(tmp_path, *small(f"tests/cfgs/{name}.cfg"))


@pytest.mark.parametrize("name", SHIPPED)
def test_every_layer_of_the_shipped_cfgs_is_equal_in_c(name, tmp_path):
    check(tmp_path, *shipped(name))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("make", [chance, rich])
def test_every_layer_of_random_networks_is_equal_in_c(seed, make, tmp_path):
    check(tmp_path, *make(seed, LOW))


@pytest.mark.parametrize("name", ["csp", "residual in 16 bits", "hand-made"])
def test_nothing_overflows_and_no_array_is_left(name, tmp_path):
    """The sanitizers would stop at the first undefined operation."""
    made = {
        "csp": lambda: small("tests/cfgs/csp.cfg"),
        "residual in 16 bits": lambda: small("tests/cfgs/residual.cfg", replace(QUICK, a_bit=16)),
        "hand-made": lambda: (hand_made(), random_images(2)),
    }
    folder = write(tmp_path, *made[name]())
    flags = "CFLAGS=-O1 -g -fsanitize=undefined,address -fno-sanitize-recover"
    done = subprocess.run(["make", "-s", "-C", folder, "check", flags], capture_output=True, text=True)
    if "cannot find -l" in done.stderr:
        pytest.skip("no sanitizers here")
    assert done.returncode == 0 and "equal in every element" in done.stdout, done.stderr


def test_make_check_names_layer_and_element_that_differ(tmp_path):
    network, images = chance(0)
    folder = write(tmp_path, network, images)
    path = tmp_path / "golden/1/000_out.npy"
    levels = np.load(path)
    levels.flat[7] ^= 1
    np.save(path, levels)
    with pytest.raises(InputError, match=r"make check failed: .*1/000_out\.npy: element 7 is \d+, but layer 0 gives"):
        compile_and_check(folder)


def test_the_c_code_uses_no_library_no_heap_and_no_float():
    folder = Path(__file__).parents[2] / "utils/export/c"
    code = re.sub(r"/\*.*?\*/", "", (folder / "layers.c").read_text(), flags=re.DOTALL)
    assert re.findall(r"#include (.*)", code) == ['"layers.h"']
    assert not re.search(r"\b(malloc|calloc|float|double|printf|mem\w+)\b", code)


@pytest.mark.parametrize("name", ["csp", "residual", "tiny"])
def test_edges_that_live_together_do_not_overlap_in_the_arena(name):
    network, _ = small(f"tests/cfgs/{name}.cfg")
    shape = shapes(network, (64, 64))
    arena, last = plan_arena(network, shape), network.spec.last_readers
    spans = {i: (start, start + int(np.prod(shape[i]))) for i, start in arena.start.items()}
    for i, (a, b) in spans.items():
        for j, (c, d) in spans.items():
            if i < j <= last.get(i, i):
                assert b <= c or d <= a, f"edges {i} and {j}"
    assert max(end for _, end in spans.values()) == arena.size < sum(b - a for a, b in spans.values())


def test_the_folder_of_c_compiles_where_it_lies(tmp_path):
    network, images = chance(1)
    export(tmp_path / "net", network, images, forms=("npy",))
    assert not list((tmp_path / "net/c").glob("build"))
    done = subprocess.run(["make", "-s", "check"], cwd=tmp_path / "net/c", capture_output=True, text=True)
    assert done.returncode == 0 and "2 images equal in every element" in done.stdout
