"""The spiking engine with leaky neurons: after every step its spikes are the integer executor's, in the predicted clocks."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from tests.export import engine_folder
from tests.export.engine_folder import WIDEST, check_planted, needs_icarus, needs_verilator, run, unit
from tests.export.test_lif_hand_off import STEPS, made
from utils.errors import InputError
from utils.export.costs import shapes
from utils.export.engine.compiler import compile_network
from utils.export.engine.isa import Compute, encode
from utils.export.engine.target import Engine
from utils.export.engine.write import memory_map, top, write_engine
from utils.export.layers import TensorFiles, describe_layer
from utils.export.lif_golden import write_lif_golden
from utils.export.lif_package import leaky_works
from utils.export.lif_step import one_step
from utils.quantization.integer import IntegerNetwork
from utils.spiking.lif_integers import LifExecutor, LifNetwork, lower_lif

LEAKY = Engine(lanes=4, input_words=512, weight_rows=128, spiking=True, leaky=True, membranes=16384)
NETS = ["soft 7/8", "sums of spikes", "two heads"]


@cache
def network(name: str) -> tuple[LifNetwork, IntegerNetwork, Tensor]:
    model, x = made(name)
    lowered = lower_lif(model)
    return lowered, one_step(lowered), x


def write(folder: Path, name: str, steps: int = STEPS) -> None:
    """golden/ and rtl/engine/ of so many steps: spikes of the last of them, and what read-outs have added up by then."""
    lowered, step, x = network(name)
    shape, target = shapes(step, (x.shape[2], x.shape[3])), TensorFiles(folder, ("npy",))
    manifest = {
        "layers": [describe_layer(step, i, shape, target) for i in range(len(step.spec.layers))],
        "golden": write_lif_golden(folder, lowered, step, x[:1], ["npy"]),
    }
    program = compile_network(step, shape, LEAKY, steps)
    works = leaky_works(lowered, step, x[:1], program)
    wide = replace(program, engine=replace(program.engine, **WIDEST, membranes=16384))
    if (folder / "rtl/engine").exists():
        assert top(wide) == (folder / "rtl/engine/top.sv").read_text()
    else:
        write_engine(folder / "rtl/engine", wide, manifest, works)
    (folder / "rtl/engine/map.txt").write_text(memory_map(program, manifest, works[0]))
    (folder / "rtl/engine/program.bin").write_bytes(encode(program.descriptors).astype("<u4").tobytes())
    (folder / "rtl/engine/constants.bin").write_bytes(program.constants)
    trace = LifExecutor(lowered).trace(x[:1])
    for i in step.grids.keys() - {-1}:
        path = folder / f"golden/0/{i:03d}_out.npy"
        np.save(path, np.load(path)[:steps])
    for i in trace.totals:
        np.save(folder / f"golden/0/{i:03d}_acc.npy", trace.sent[i][:steps, 0].sum(0).numpy().astype(np.int32))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("leaky")
    write(place, NETS[0])
    return place


@pytest.fixture(scope="module")
def simulator(folder) -> Path:
    """An engine as wide as any of these networks needs, built once."""
    return engine_folder.build(folder / "rtl/engine", "OPTIMISE=-O0")


@needs_verilator
@pytest.mark.parametrize("name", NETS)
def test_every_spike_of_every_step_is_the_executors_in_the_predicted_clocks(name, simulator, folder, tmp_path):
    shutil.copytree(folder / "rtl", tmp_path / "rtl", ignore=shutil.ignore_patterns("build"))
    for steps in range(1, STEPS + 1):
        write(tmp_path, name, steps)
        done = run(simulator, tmp_path)
        assert done.returncode == 0, f"{steps} steps: {done.stderr}"  # 1 where it takes other clocks than predicted
    stalled = run(simulator, tmp_path, "--stall", "40", "--seed", "5")
    assert stalled.returncode == 0, stalled.stderr


@needs_verilator
def test_a_spike_that_is_not_there_is_named_with_its_layer(simulator, folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    write(tmp_path, NETS[0])
    path = tmp_path / "golden/0/002_out.npy"
    spikes = np.load(path)
    spikes[-1, 1, 2, 3] ^= 1
    np.save(path, spikes)
    done = run(simulator, tmp_path)
    assert done.returncode == 1 and "layer 2: 002_out.npy: element " in done.stderr, done.stderr


def test_no_two_neurons_share_a_membrane_and_the_image_stays():
    _, step, x = network("sums of spikes")
    program = compile_network(step, shapes(step, (x.shape[2], x.shape[3])), LEAKY)
    assert len(program.phases) == STEPS
    taken: set[int] = set()
    for one in program.descriptors[: program.phases[0]]:
        if isinstance(one, Compute) and one.events is not None:
            own = set(range(one.membrane, one.membrane + one.outputs))
            assert not own & taken and not one.keep
            taken |= own if one.leaky else set()
    later = [one for one in program.descriptors[program.phases[0] :] if isinstance(one, Compute) and one.leaky]
    assert later and all(one.keep for one in later) and max(taken) < program.engine.membranes
    image = range(program.plan.place[-1], program.plan.place[-1] + program.plan.edges[-1].pixels)
    stored = {one.address - program.activations for one in program.descriptors if isinstance(one, Compute)}
    assert not stored & set(image)


FAULTS = [  # what membranes.sv says, what is planted
    ("spikes = v > limit", "spikes = v >= limit"),
    ("less ? v - limit : 0", "v - limit"),
    ("most ? v - part : part", "part"),
    ("part = v >>> leak", "part = v >> leak"),
    ("valid && leaky && !raw", "valid && leaky"),
]


@needs_icarus
@pytest.mark.parametrize(("right", "planted"), FAULTS, ids=lambda value: str(value)[:24])
def test_a_planted_fault_of_leaky_neurons_is_named_by_its_block(right, planted, folder, tmp_path):
    engine = shutil.copytree(folder / "rtl/engine", tmp_path / "engine", ignore=shutil.ignore_patterns("build"))
    check_planted(engine, "membranes", right, planted, "(membranes|scatter|spiking)", "unit_spikes")


@needs_icarus
def test_the_blocks_equal_numpy_and_lint_says_nothing(folder):
    done = unit(folder / "rtl/engine", "unit_spikes", seed=3)
    assert done.returncode == 0, done.stdout + done.stderr
    if shutil.which("verilator") and shutil.which("yosys"):
        lint = unit(folder / "rtl/engine", "lint")
        assert (lint.returncode, lint.stdout, lint.stderr) == (0, "", "")


def test_what_the_engine_is_not_for_is_refused_by_name():
    def refused(name: str, engine: Engine, message: str) -> None:
        _, step, x = network(name)
        with pytest.raises(InputError, match=message):
            compile_network(step, shapes(step, (x.shape[-2], x.shape[-1])), engine)

    refused("hard", replace(LEAKY, leaky=False, spiking=False), r"^--engine integer: networks trained as spikes")
    refused("hard", replace(LEAKY, leaky=False, stream=True), r"^--engine stream: networks trained as spikes")
    refused("frames, soft 1/2", LEAKY, r"input=frames: the engine shows one image in all steps; use export.py c")
    refused(
        "hard", replace(LEAKY, membranes=256), r"the neurons of all layers have \d+ membranes a lane, the engine 256"
    )


def test_the_folder_says_what_engine_it_has(folder):
    assert ".SPIKES(3)" in (folder / "rtl/engine/top.sv").read_text()
    assert "Leaky neurons, all layers in every step" in (folder / "rtl/engine/README.md").read_text()
    assert json.loads((folder / "rtl/engine/report.json").read_text())["steps"] == STEPS
