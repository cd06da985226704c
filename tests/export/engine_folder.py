"""Folders of an engine of either kind, with what simulates them and what is asked of each."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from torch import Tensor

from utils.export.costs import shapes
from utils.export.engine.compiler import compile_network
from utils.export.engine.program import Program
from utils.export.engine.target import Engine
from utils.export.engine.write import top, write_engine
from utils.export.golden import write_golden
from utils.export.layers import TensorFiles, describe_layer
from utils.export.package import works_of
from utils.quantization.integer import IntegerNetwork

needs_verilator = pytest.mark.skipif(
    not (shutil.which("verilator") and shutil.which("make") and shutil.which("c++")), reason="needs verilator"
)
needs_icarus = pytest.mark.skipif(not (shutil.which("iverilog") and shutil.which("make")), reason="needs iverilog")
SMALL = Engine(lanes=8, input_words=2048, weight_rows=128)  # so that layers are cut into tiles
WIDEST = {"level_bits": 9, "weight_bits": 8, "acc_bits": 32, "gain_bits": 32, "factor_bits": 18}


def compiled(network: IntegerNetwork, images: Tensor, engine: Engine = SMALL) -> Program:
    return compile_network(network, shapes(network, tuple(images.shape[2:])), engine)


def write(folder: Path, network: IntegerNetwork, images: Tensor, engine: Engine = SMALL) -> Program:
    """golden/ and rtl/engine/, and nothing else; an engine whose clocks depend on the image has all of them."""
    shape, target = shapes(network, tuple(images.shape[2:])), TensorFiles(folder, ("npy",))
    shown = images if engine.spiking else images[:1]
    manifest = {
        "layers": [describe_layer(network, i, shape, target) for i in range(len(network.spec.layers))],
        "golden": write_golden(folder, network, shown, ["npy"], None),
    }
    program = compiled(network, images, engine)
    write_engine(folder / "rtl/engine", program, manifest, works_of(network, shown, program))
    return program


def simulator_of(folder: Path, network: IntegerNetwork, images: Tensor, engine: Engine = SMALL) -> Path:
    """An engine as wide as any network needs, built."""
    program = write(folder, network, images, engine)
    wide = replace(program, engine=replace(program.engine, **WIDEST))
    (folder / "rtl/engine/top.sv").write_text(top(wide))
    return build(folder / "rtl/engine")


def build(folder: Path, *settings: str) -> Path:
    subprocess.run(["make", "-s", "-C", folder, "build/sim", *settings], check=True, capture_output=True)
    return folder / "build/sim"


def run(simulator: Path, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [simulator, "map.txt", "../../golden/0", *flags]
    return subprocess.run(command, cwd=folder / "rtl/engine", capture_output=True, text=True)


def check(simulator: Path, folder: Path, network: IntegerNetwork, images: Tensor, engine: Engine = SMALL) -> int:
    """Every map equal, with and without stalls; in the predicted clocks without, which are returned."""
    program = write(folder, network, images, engine)
    layers = len([i for i in program.plan.edges if i >= 0])
    plain, stalled = run(simulator, folder), run(simulator, folder, "--stall", "40", "--seed", "5")
    for done in (plain, stalled):
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"engine: {layers} layers, ")
    clocks, predicted = map(int, re.search(r"; (\d+) clocks \((\d+) predicted\)", plain.stdout).groups())
    assert clocks == predicted < int(re.search(r"; (\d+) clocks", stalled.stdout)[1])
    return predicted


def unit(folder: Path, target: str = "unit", seed: int = 1) -> subprocess.CompletedProcess[str]:
    command = ["make", "-s", "-C", folder, target, f"SEED={seed}", f"PYTHON={sys.executable}"]
    return subprocess.run(command, capture_output=True, text=True)


def check_planted(folder: Path, block: str, right: str, planted: str, name: str, target: str = "unit") -> None:
    """A block that says ``planted`` in the place of ``right`` is named, with the vector that it does wrong."""
    path = folder / f"src/{block}.sv"
    source = path.read_text()
    assert source.count(right) == 1
    path.write_text(source.replace(right, planted))
    done = unit(folder, target)
    assert done.returncode != 0 and re.search(rf"{name}.*: vector \d+ is wrong", done.stdout), done.stdout + done.stderr
