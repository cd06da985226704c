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
from utils.export.c99 import compile_and_check, write_c
from utils.export.c_memory import ALIGN, ArenaBlock, place, plan_arena
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
    for name, includes in (("layers.c", "levels.h"), ("moves.c", "levels.h"), ("levels.h", "layers.h")):
        code = re.sub(r"/\*.*?\*/", "", (folder / name).read_text(), flags=re.DOTALL)
        assert re.findall(r"#include (.*)", code) == [f'"{includes}"']
        assert not re.search(r"\b(malloc|calloc|float|double|printf|mem\w+)\b", code)


@pytest.mark.parametrize("name", ["csp", "residual", "tiny"])
def test_edges_that_live_together_do_not_overlap_in_the_arena(name):
    network, _ = small(f"tests/cfgs/{name}.cfg")
    shape = shapes(network, (64, 64))
    arena, last = plan_arena(network, shape), network.spec.last_readers
    spans = {i: (arena.start["map", i], arena.start["map", i] + int(np.prod(shape[i]))) for i in network.grids}
    for i, (a, b) in spans.items():
        for j, (c, d) in spans.items():
            if i < j <= last.get(i, i):
                assert b <= c or d <= a, f"edges {i} and {j}"
    assert max(end for _, end in spans.values()) <= arena.size < sum(b - a for a, b in spans.values())


def test_blocks_of_any_lives_lie_apart_while_they_live():
    numbers = np.random.default_rng(3)
    for _ in range(20):
        first = numbers.integers(0, 12, 15)
        blocks = {
            ("map", i): ArenaBlock(int(numbers.integers(1, 500)), int(at), int(at + numbers.integers(0, 6)))
            for i, at in enumerate(first)
        }
        start, size = place(blocks)
        for one, at in start.items():
            assert at % ALIGN == 0 and at + blocks[one].bytes <= size
            for other, low in start.items():
                a, b = blocks[one], blocks[other]
                if one != other and a.first <= b.last and b.first <= a.last:
                    assert at + a.bytes <= low or low + b.bytes <= at


def test_an_arena_is_at_most_a_fifth_larger_than_the_maps_that_live_at_once():
    """Working memory and accumulators of the heads included; of a network of the size that microcontrollers run."""
    network, _ = shipped("yolov3-tiny-digits")
    shape = shapes(network, (96, 96))
    arena = plan_arena(network, shape)
    last = network.spec.last_readers
    moments = range(-1, len(network.spec.layers))
    live = [sum(int(np.prod(shape[i])) for i in network.grids if i <= t <= last.get(i, i)) for t in moments]
    assert arena.maps == max(live) <= arena.size <= 1.2 * max(live)


def test_size_says_the_arena_and_bench_a_time(tmp_path):
    network, images = chance(2)
    folder = write(tmp_path, network, images)
    arena = plan_arena(network, shapes(network, tuple(images.shape[2:])))
    done = subprocess.run(["make", "-s", "-C", folder, "size", "bench", "FRAMES=3"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"RAM    {arena.size} bytes" in done.stdout and f"{arena.size / arena.maps:.2f} x the" in done.stdout
    rom = int(re.search(r"ROM    (\d+) bytes", done.stdout)[1])
    assert rom > sum(op.weight.numel() for op in network.ops.values() if hasattr(op, "weight"))
    assert 0 < int(re.search(r"stack  (\d+) bytes", done.stdout)[1]) < 10_000
    assert re.search(r"C99: [\d.]+ ms a frame .*median of 3", done.stdout)


@pytest.mark.parametrize("language", ["cpp", "rust"])
def test_callers_in_other_languages_read_the_golden_accumulators(language, tmp_path):
    if not shutil.which({"cpp": "c++", "rust": "rustc"}[language]):
        pytest.skip(f"no compiler of {language} here: its caller is not compiled")
    network, images = small("tests/cfgs/tiny.cfg")
    folder = write(tmp_path, network, images)
    done = subprocess.run(["make", "-s", "-C", folder, f"callers/{language}"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    golden = [np.load(path).ravel() for path in sorted((tmp_path / "golden/0").glob("*_acc.npy"))]
    assert done.stdout.splitlines() == [f"head {k}: {acc.max()} at {acc.argmax()}" for k, acc in enumerate(golden)]


def test_make_test_names_the_compiler_that_is_missing(tmp_path):
    network, images = chance(0)
    folder = write(tmp_path, network, images)
    done = subprocess.run(["make", "-s", "-C", folder, "test", "RUSTC=no-rustc"], capture_output=True, text=True)
    assert done.returncode == 0 and "caller.rs: not compiled, there is no no-rustc here" in done.stdout, done.stderr


def test_the_folder_of_c_compiles_where_it_lies(tmp_path):
    network, images = chance(1)
    export(tmp_path / "net", network, images, forms=("npy",))
    assert not list((tmp_path / "net/c").glob("build"))
    done = subprocess.run(["make", "-s", "check"], cwd=tmp_path / "net/c", capture_output=True, text=True)
    assert done.returncode == 0 and "2 images equal in every element" in done.stdout
