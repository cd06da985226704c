"""The spiking engine: every level is the count of spikes that a neuron fires, in the clocks that its events predict."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.export import engine_folder
from tests.export.engine_folder import (
    check_planted,
    compiled,
    needs_icarus,
    needs_verilator,
    simulator_of,
    unit,
    write,
)
from tests.export.nets import LOW, chance, lowered, small
from tests.quantization.random_nets import cfg_text, random_images
from utils.errors import InputError
from utils.export.costs import shapes
from utils.export.engine.report import report
from utils.export.engine.target import Engine, read_engine
from utils.export.package import works_of
from utils.quantization.executor import IntegerExecutor
from utils.quantization.integer import IntegerNetwork
from utils.spiking.layerwise import LayerwiseExecutor
from utils.spiking.spike_schedule import encode
from utils.spiking.synops import measure

SMALL = replace(engine_folder.SMALL, spiking=True, membranes=512)
SPIKING = ["blurred", "csp", "grouped", "passthrough", "transposed", "uneven", "weighted"]


@pytest.fixture(scope="session")
def simulator(tmp_path_factory) -> Path:
    """The engine as wide as any network needs, built once."""
    return simulator_of(tmp_path_factory.mktemp("spiking"), *small("tests/cfgs/plain.cfg", LOW), SMALL)


def check(simulator: Path, folder: Path, network: IntegerNetwork, images) -> None:
    """Every count equal, with and without stalls; in the predicted clocks without, which the report says too."""
    predicted = engine_folder.check(simulator, folder, network, images[:1], SMALL)
    assert predicted == json.loads((folder / "rtl/engine/report.json").read_text())["clocks"]


@needs_verilator
@pytest.mark.parametrize("name", SPIKING)
def test_every_count_is_equal_in_the_predicted_clocks_and_with_stalls(name, simulator, tmp_path):
    check(simulator, tmp_path, *small(f"tests/cfgs/{name}.cfg", LOW))


@needs_verilator
def test_random_spiking_networks_are_equal(simulator, tmp_path):
    check(simulator, tmp_path, *chance(4, LOW))


@needs_verilator
def test_a_kernel_with_both_stride_and_dilation_is_one_with_zeros_in_its_holes(simulator, tmp_path):
    conv = {"filters": 12, "size": 3, "stride": 2, "dilation": 2, "pad": 2, "activation": "leaky"}
    images = random_images(1, side=16)
    text = cfg_text(("convolutional", conv), ("convolutional", conv | {"filters": 8, "dilation": 3, "pad": 3}), side=16)
    check(simulator, tmp_path, lowered(text, images, LOW), images)


def test_rows_that_read_nothing_but_padding_are_refused_where_they_are_a_tile_of_their_own():
    conv = {"filters": 8, "size": 1, "stride": 1, "padding": 0, "activation": "relu"}
    half, images = ("maxpool", {"size": 2, "stride": 2}), random_images(1, side=16)
    text = cfg_text(("convolutional", conv), half, half, ("convolutional", conv | {"padding": 3}), side=16)
    network = lowered(text, images, LOW)
    with pytest.raises(InputError, match=r"layer 3 .*: outputs that read nothing but padding; use less of it"):
        compiled(network, images, replace(SMALL, membranes=32))
    assert compiled(network, images, replace(SMALL, membranes=64))


AVERAGED = cfg_text(  # a neuron a channel that every pixel reaches; signed levels, and a block that is not full
    ("convolutional", {"filters": 12, "size": 3, "stride": 2, "pad": 1, "activation": "leaky"}),
    ("avgpool", {}),
    ("convolutional", {"filters": 8, "size": 1, "stride": 1, "pad": 1, "activation": "relu"}),
)


@needs_verilator
def test_the_average_of_a_map_is_a_neuron_that_every_pixel_reaches(simulator, tmp_path):
    images = random_images(2, side=16)
    network = lowered(AVERAGED, images, LOW)
    check(simulator, tmp_path, network, images)
    _, high, wide = shapes(network, tuple(images.shape[2:]))[0]
    levels = IntegerExecutor(network).levels(images[:1])[0].abs()
    events = levels.view(12, -1).split(8)  # of a word: as many clocks as its busiest lane has spikes
    told = json.loads((tmp_path / "rtl/engine/report.json").read_text())["layers"][1]
    assert (high, wide) == tuple(side // 2 for side in images.shape[2:])
    assert told["accumulates"] == sum(int(each.amax(0).sum()) for each in events)


def test_the_clocks_of_another_image_are_its_own(tmp_path):
    program = write(tmp_path, *small("tests/cfgs/plain.cfg", LOW), SMALL)
    assert f"{program.engine.membranes:,} membranes" in (tmp_path / "rtl/engine/README.md").read_text()
    told = [(tmp_path / f"rtl/engine/{name}").read_text() for name in ("map.txt", "map1.txt")]
    predicted = [int(re.search(r"^predicted (\d+)", each, re.MULTILINE)[1]) for each in told]
    assert len(set(predicted)) == 2 and program.engine.spiking


def test_an_accumulate_is_a_spike_at_a_synapse_of_a_dense_network():
    """Channels in multiples of the lanes, no zero weights: a word of L synapses a clock, of true fan-out."""
    conv = {"filters": 8, "size": 3, "stride": 1, "pad": 1, "activation": "relu"}
    images = random_images(1)
    network = lowered(cfg_text(("convolutional", conv), ("convolutional", conv | {"filters": 16})), images, LOW)
    for op in network.ops.values():
        op.weight[op.weight == 0] = 1
    program = compiled(network, images, replace(SMALL, input_words=8192, membranes=8192))
    found = report(program, works_of(network, images, program)[0])["layers"][1]
    counted = measure(LayerwiseExecutor(encode(network)), [images]).layers[1].sops
    assert found["accumulates"] * 8 == counted


FAULTS = [  # a block, what it says, what is planted, how `make unit` names it
    ("scatter", "used[i] && word", "word", "membranes|scatter"),
    ("scatter", "part_x <= last_kx && part_y <= last_ky", "part_x <= last_kx", "membranes|scatter"),
    ("scatter", "assign on_y = to_y <= last_y", "assign on_y = to_y < last_y", "membranes|scatter"),
    ("scatter", "x + 1 == wide", "x == wide", "membranes|scatter"),
    ("scatter", "ROWS'(ky) * (ROWS'(last_kx) + 1'b1)", "ROWS'(ky) * ROWS'(last_kx)", "membranes|scatter"),
    ("scatter", "diagonal ? minus[k] : minus[now]", "minus[now]", "membranes|scatter"),
    ("scatter", "level == count + 8'd1", "level == count", "membranes|scatter"),
    ("scatter", "size[8*k+:8] > count)", "size[8*k+:8] >= count)", "membranes|scatter"),
    ("scatter", "out_x + 16'(last_up) + 1", "out_x + 1", "membranes|scatter"),
    ("scatter", "to_x <= to_x - {8'b0, dilation}", "to_x <= to_x - 1", "membranes|scatter"),
    ("scatter", "ended <= block == last_block", "ended <= block + 1 == last_block", "membranes|scatter"),
    ("membranes", "spike_5 && at_5 == at_4 ? made_5[ACC*i+:ACC] : ", "", "membranes"),
    ("membranes", "negative[i] ? -shifted : shifted", "shifted", "membranes"),
    ("membranes", "wide <<< shift", "wide", "membranes"),
    ("membranes", "weights[8*L*i+8*32'(lane)+:WEIGHT]", "weights[8*L*32'(lane)+8*i+:WEIGHT]", "membranes"),
    ("membranes", "gains ? ACC'(gain) : ACC'(weight)", "ACC'(weight)", "membranes"),
    ("membranes", "filling ? bias : leaked", "filling ? 0 : leaked", "membranes"),
    ("spiking", "d[7] ? d[98+:MEMBRANE] : ", "", "membranes never end|spiking, at the end"),
    ("spiking", ".read(drained[4])", ".read(done)", "membranes"),
    ("fire", "has_sign && left", "left", "fire, its clocks"),
    ("fire", "spikes == 0 && room", "room", "fire"),
]


@pytest.fixture(scope="module")
def blocks(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("blocks")
    write(folder, *small("tests/cfgs/residual.cfg", LOW), replace(SMALL, lanes=4))
    return folder / "rtl/engine"


@needs_icarus
def test_every_block_equals_numpy_on_random_tiles(blocks):
    done = unit(blocks, seed=2)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^unit: 60 tiles of events and 60 words of neurons equal, seed 2$", done.stdout, re.MULTILINE)


@needs_icarus
@pytest.mark.parametrize(("block", "right", "planted", "name"), FAULTS, ids=lambda value: str(value)[:24])
def test_a_planted_fault_is_named_by_its_block(block, right, planted, name, blocks, tmp_path):
    check_planted(shutil.copytree(blocks, tmp_path / "engine"), block, right, planted, f"({name})", "unit_spikes")


@pytest.mark.skipif(
    not all(map(shutil.which, ("verilator", "iverilog", "yosys"))), reason="needs verilator, iverilog, yosys"
)
def test_verilator_icarus_and_yosys_read_the_spiking_engine_without_a_warning(blocks):
    done = subprocess.run(["make", "-s", "-C", blocks, "lint"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


REFUSED = [
    (lambda: small("tests/cfgs/gates.cfg", LOW), SMALL, r"layer \d+ .*has no spiking form"),
    (lambda: (lowered(AVERAGED, random_images(1), LOW), random_images(1)), replace(SMALL, weight_rows=32), r"^--engine spikes: layer 1 .*64 rows of"),
    (lambda: small("tests/cfgs/plain.cfg", LOW), replace(SMALL, membranes=16), r"^--engine spikes: layer 0 .*membranes"),
    (lambda: small("tests/cfgs/tiny.cfg", LOW), replace(SMALL, weight_rows=16), r"^--engine spikes: layer .*rows of"),
]  # fmt: skip


@pytest.mark.parametrize(("made", "engine", "message"), REFUSED, ids=["gate", "large average", "membranes", "rows"])
def test_what_has_no_events_is_refused_by_name(made, engine, message):
    with pytest.raises(InputError, match=message):
        compiled(*made(), engine)


def test_membranes_are_a_size_of_the_spiking_engine_alone(tmp_path):
    path = tmp_path / "engine.json"
    path.write_text('{"membranes": 256}')
    assert read_engine(path, spiking=True) == Engine(spiking=True, membranes=256)
    with pytest.raises(InputError, match="membranes is not among lanes"):
        read_engine(path)
