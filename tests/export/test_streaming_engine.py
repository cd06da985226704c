"""The spiking engine in streams: after every step the counts are those of the executor, in the clocks that its spikes predict."""

from __future__ import annotations

import shutil
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests.export import engine_folder
from tests.export.engine_folder import check_planted, compiled, needs_icarus, needs_verilator, run, unit, write
from tests.export.nets import LOW, lowered, small
from tests.quantization.random_nets import cfg_text, random_images
from utils.errors import InputError
from utils.export.costs import shapes
from utils.export.engine.compiler import compile_network
from utils.export.engine.isa import Compute, encode
from utils.export.engine.steps import spikes_of
from utils.export.engine.target import Engine
from utils.export.engine.write import memory_map, top
from utils.export.package import works_of
from utils.quantization.integer import IntegerNetwork
from utils.spiking.spike_schedule import encode as in_windows
from utils.spiking.stream import StreamExecutor, settling_bounds

STREAM = Engine(lanes=4, input_words=512, weight_rows=128, spiking=True, stream=True, membranes=4096)
SIDE = 8
BRANCHES = (  # signed and unsigned neurons, a pool, two routes, zeros and copies between, a sum, kernels a channel, an average
    ("convolutional", {"filters": 6, "size": 3, "stride": 1, "pad": 1, "activation": "linear"}),
    ("maxpool", {"size": 2, "stride": 2}),
    ("convolutional", {"filters": 6, "size": 3, "stride": 1, "pad": 1, "activation": "leaky", "groups": 6}),
    ("shortcut", {"from": -2, "activation": "linear"}),
    ("upsample", {"stride": 2}),
    ("route", {"layers": "-1,0"}),
    ("maxpool", {"size": 3, "stride": 1}),
    ("convolutional", {"filters": 5, "size": 3, "stride": 2, "pad": 1, "activation": "relu"}),
    ("avgpool", {}),
    ("convolutional", {"filters": 6, "size": 1, "stride": 1, "pad": 1, "activation": "leaky"}),
)


@cache
def branches() -> tuple[IntegerNetwork, object]:
    images = random_images(2, side=SIDE)
    return lowered(cfg_text(*BRANCHES, side=SIDE), images, replace(LOW, a_bit=3)), images


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("streams")
    write(place, *branches(), STREAM)
    return place


@pytest.fixture(scope="module")
def simulator(folder) -> Path:
    """This network's own engine, built."""
    return engine_folder.build(folder / "rtl/engine", "OPTIMISE=-O0")


@needs_verilator
def test_every_count_of_a_stream_is_the_golden_level_in_the_predicted_clocks_and_with_stalls(simulator, folder):
    plain, stalled = run(simulator, folder), run(simulator, folder, "--stall", "40", "--seed", "5")
    assert plain.returncode == 0, plain.stderr  # 1 where it takes other clocks than predicted
    assert stalled.returncode == 0, stalled.stderr


@needs_verilator
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_after_any_number_of_steps_the_counts_are_the_executors(steps, simulator, folder, tmp_path):
    network, images = branches()
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    program = compile_network(network, shapes(network, (SIDE, SIDE)), STREAM, steps)
    assert len(program.phases) == steps + 1 and top(program) == (folder / "rtl/engine/top.sv").read_text()
    executor = StreamExecutor(in_windows(network), schedule="preload", steps=steps)
    state = executor.run(images[:1])
    wanted = {f"{i:03d}_out": count[0] for i, count in state.count.items()}
    wanted |= {f"{i:03d}_out": sent[0] for i, (_, sent) in state.pools.items()}
    heads = {f"{i:03d}_acc": charge[0] for i, charge in state.charge.items() if i not in state.count}
    unsettled = 0
    for name, values in (wanted | heads).items():
        path = tmp_path / f"golden/0/{name}.npy"
        golden = np.load(path)
        unsettled += int((golden != values.numpy()).sum())
        np.save(path, values.numpy().astype(golden.dtype))
    assert unsettled > 0
    for i, levels in spikes_of(network, images[:1], steps)[-1].items():  # what only moves counts
        path = tmp_path / f"golden/0/{i:03d}_out.npy"
        if i >= 0 and path.stem not in wanted:
            np.save(path, levels.astype(np.load(path).dtype))
    text = (folder / "rtl/engine/map.txt").read_text()
    names = {int(line.split()[1]): line.split()[2] for line in text.splitlines() if line.startswith("map ")}
    manifest = {
        "layers": [{"layer": i, "read_out": name.endswith("acc.npy")} for i, name in names.items()],
        "golden": {"tensors": [{str(i): {"files": {"npy": name}} for i, name in names.items()}]},
    }
    (tmp_path / "rtl/engine/map.txt").write_text(
        memory_map(program, manifest, works_of(network, images[:1], program)[0])
    )
    (tmp_path / "rtl/engine/program.bin").write_bytes(encode(program.descriptors).astype("<u4").tobytes())
    done = run(simulator, tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_stream_has_the_steps_by_which_every_network_settles():
    network, images = branches()
    program = compiled(network, images, STREAM)
    assert len(program.phases) - 1 == max(settling_bounds(in_windows(network), "preload").values())
    *steps, counts = spikes_of(network, images[:1], len(program.phases) - 1)
    assert all(np.abs(each).max() <= 1 for step in steps for i, each in step.items() if i >= 0)
    assert any((counts[i] < 0).any() for i in counts if i >= 0), "no neuron of two signs"


def test_no_two_neurons_of_a_stream_share_a_membrane():
    taken: set[int] = set()
    program = compiled(*branches(), STREAM)
    for one in program.descriptors[: program.phases[0]]:
        if isinstance(one, Compute) and (one.stream or one.raw):
            own = set(range(one.membrane, one.membrane + one.outputs))
            assert not own & taken
            taken |= own
    assert max(taken) < program.engine.membranes


FAULTS = [  # a block, what it says, what is planted, how `make unit` names it
    ("counter", "level > so_far", "level >= so_far", "counter"),
    ("counter", "level < so_far", "1'b0", "counter"),
    ("counter", "valid_1 && !show", "valid_1", "counter"),
    ("counter", "fresh ? 8'd0 : found", "found", "counter"),
    ("counter", "{has_sign && wanted_1[8*i+7], ", "{1'b0, ", "counter"),
    ("counter", "assign sent[8*i+:8] = show ? count :", "assign sent[8*i+:8] = show ? made[8*i+:8] :", "counter"),
    ("membranes", "at <= base;", "at <= 0;", "membranes"),
    ("membranes", "filling <= start && !keep;", "filling <= start;", "membranes"),
    ("scatter", "MEMBRANE'(to_x) + base", "MEMBRANE'(to_x)", "membranes"),
]


@needs_icarus
@pytest.mark.parametrize(("block", "right", "planted", "name"), FAULTS, ids=lambda value: str(value)[:24])
def test_a_planted_fault_of_a_stream_is_named_by_its_block(block, right, planted, name, folder, tmp_path):
    engine = shutil.copytree(folder / "rtl/engine", tmp_path / "engine", ignore=shutil.ignore_patterns("build"))
    check_planted(engine, block, right, planted, f"({name})", "unit_spikes")


@needs_icarus
def test_the_blocks_of_a_stream_equal_numpy_and_lint_says_nothing(folder):
    done = unit(folder / "rtl/engine", "unit_spikes", seed=3)
    assert done.returncode == 0 and "unit: 384 words of counts equal, seed 3" in done.stdout, done.stdout + done.stderr
    if shutil.which("verilator") and shutil.which("yosys"):
        lint = unit(folder / "rtl/engine", "lint")
        assert (lint.returncode, lint.stdout, lint.stderr) == (0, "", "")


POOLED = cfg_text(("maxpool", {"size": 2, "stride": 2}), BRANCHES[0], side=SIDE)
REFUSED = [
    (lambda: (lowered(POOLED, random_images(1, side=SIDE), LOW), random_images(1, side=SIDE)), STREAM,
     r"^--engine stream: layer 0 \(cfg line \d+\): reads pixels and is no convolution; put one before it"),
    (branches, replace(STREAM, membranes=256), r"^--engine stream: the neurons of all layers have \d+ membranes a lane, the engine 256"),
    (lambda: small("tests/cfgs/gates.cfg", LOW), STREAM, r"layer \d+ .*has no spiking form"),
]  # fmt: skip


@pytest.mark.parametrize(("made", "engine", "message"), REFUSED, ids=["pixels", "membranes", "gate"])
def test_what_does_not_stream_is_refused_by_name(made, engine, message):
    with pytest.raises(InputError, match=message):
        compiled(*made(), engine)


def test_the_engine_of_a_layer_at_a_time_is_told_apart(folder):
    assert ".SPIKES(2)" in (folder / "rtl/engine/top.sv").read_text()
    assert "All layers in every step" in (folder / "rtl/engine/README.md").read_text()
    assert replace(STREAM, stream=False).parameters["SPIKES"] == 1
    assert engine_folder.SMALL.parameters.get("SPIKES") is None
