"""The whole network in hardware: every layer's map in Verilator, in the clocks that were predicted, and with a memory that stalls."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.export.engine_folder import (
    SMALL,
    build,
    check,
    check_planted,
    compiled,
    needs_icarus,
    needs_verilator,
    run,
    simulator_of,
    unit,
    write,
)
from tests.export.hand_made import hand_made
from tests.export.nets import LOW, QUICK, chance, lowered, small
from tests.quantization.random_nets import cfg_text, random_images
from utils.darknet.reorder import reorg
from utils.errors import InputError
from utils.export.engine.constants import scaling
from utils.export.engine.isa import CHECK, Compute, encode
from utils.export.engine.memory import Life, allocate
from utils.export.engine.moves import elements_of_reorg
from utils.export.engine.target import Engine, read_engine
from utils.export.engine.tiles import Window, tiles
from utils.quantization.integer import Requantiser, requantise


@pytest.fixture(scope="session")
def simulator(tmp_path_factory) -> Path:
    """The engine as wide as any network needs, built once."""
    return simulator_of(tmp_path_factory.mktemp("engine"), *small("tests/cfgs/grey.cfg"))


@needs_verilator
@pytest.mark.parametrize("scheme", [QUICK, LOW], ids=["8-bit", "low"])
@pytest.mark.parametrize("name", ["gates", "slices", "transposed"])
def test_every_layer_is_equal_in_the_predicted_clocks_and_with_stalls(name, scheme, simulator, tmp_path):
    check(simulator, tmp_path, *small(f"tests/cfgs/{name}.cfg", scheme))


@needs_verilator
@pytest.mark.parametrize(
    "name",
    [
        "averages",
        "blurred",
        "depthwise",
        "ghost",
        "grouped",
        "passthrough",
        "residual",
        "space",
        "spp",
        "uneven",
        "weighted",
    ],
)
def test_every_operation_is_equal_in_the_predicted_clocks_and_with_stalls(name, simulator, tmp_path):
    check(simulator, tmp_path, *small(f"tests/cfgs/{name}.cfg"))


@needs_verilator
def test_operations_of_wild_numbers_are_equal(simulator, tmp_path):
    check(simulator, tmp_path, hand_made(), random_images(1))


@pytest.mark.parametrize(("shape", "stride"), [((8, 6, 4), 2), ((4, 2, 6), 2), ((12, 4, 8), 2), ((18, 9, 3), 3)])
def test_rows_of_a_reorg_are_darknets(shape, stride):
    given = torch.arange(int(np.prod(shape))).view(1, *shape)
    made = reorg(given, stride)[0]
    for o, row in np.ndindex(*made.shape[:2]):
        channel, y, x = elements_of_reorg(shape, stride, o, row)
        assert torch.equal(made[o, row], given[0, channel, y, x::stride])


@needs_verilator
@pytest.mark.parametrize("seed", range(3))
def test_random_networks_are_equal(seed, simulator, tmp_path):
    check(simulator, tmp_path, *chance(seed))


@needs_verilator
def test_an_engine_of_four_lanes_as_narrow_as_its_network_is_equal(tmp_path):
    network, images = small("tests/cfgs/csp.cfg", LOW)
    program = write(tmp_path, network, images, Engine(lanes=4, input_words=1024, weight_rows=256))
    assert program.engine.weight_bits < 8 and program.engine.acc_bits < 32
    done = run(build(tmp_path / "rtl/engine"), tmp_path)
    assert done.returncode == 0, done.stderr


@needs_verilator
@pytest.mark.parametrize("lanes", [16, 32])
def test_wider_arrays_take_the_predicted_clocks_too(lanes, tmp_path):
    """Of 8 lanes every network above has them; ``run`` fails where the simulation takes other ones."""
    images = random_images(1, side=16)
    conv = {"filters": lanes + 4, "size": 3, "stride": 2, "pad": 1, "activation": "leaky"}
    text = cfg_text(("convolutional", conv), ("maxpool", {"size": 2, "stride": 2}), ("convolutional", conv), side=16)
    program = write(tmp_path, lowered(text, images, LOW), images, Engine(lanes=lanes, input_words=128, weight_rows=64))
    assert len(program.plan.edges[0].blocks) == 2
    done = run(build(tmp_path / "rtl/engine", "OPTIMISE=-O0"), tmp_path)
    assert done.returncode == 0, done.stderr


@needs_verilator
def test_the_simulation_is_compiled_as_told(tmp_path, monkeypatch):
    """Verilator's make adds -Os behind the flags that it is given, and the last one counts."""
    network, images = small("tests/cfgs/plain.cfg")
    write(tmp_path, network, images)
    (tmp_path / "compiler").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n')
    (tmp_path / "compiler").chmod(0o755)
    monkeypatch.setenv("OBJCACHE", str(tmp_path / "compiler"))
    with pytest.raises(subprocess.CalledProcessError):  # nothing was compiled, so nothing links
        build(tmp_path / "rtl/engine", "OPTIMISE=-O1")
    assert set(re.findall(r" (-O\w) ", (tmp_path / "calls").read_text())) == {"-O1"}


@needs_verilator
def test_one_pixel_changed_is_noticed(simulator, tmp_path):
    write(tmp_path, *small("tests/cfgs/plain.cfg"))
    done = run(simulator, tmp_path, "--flip")
    assert done.returncode == 1
    assert re.match(r"layer 0: 000_out\.npy: element \d+ is -?\d+, but the engine gives", done.stderr)


@needs_verilator
def test_a_flipped_bit_of_the_program_stops_the_engine_at_its_descriptor(simulator, tmp_path):
    write(tmp_path, *small("tests/cfgs/plain.cfg"))
    path = tmp_path / "rtl/engine/program.bin"
    for number, byte in ((0, 17), (3, 3), (5, 60)):
        content = bytearray(path.read_bytes())
        content[64 * number + byte] ^= 1 << byte % 8
        path.write_bytes(content)
        done = run(simulator, tmp_path)
        assert done.stderr == f"error register: descriptor {number}, code 1 (it is damaged)\n"
        content[64 * number + byte] ^= 1 << byte % 8
        path.write_bytes(content)
    assert run(simulator, tmp_path).returncode == 0


@needs_verilator
def test_a_flipped_bit_of_the_weights_is_named_with_its_layer(simulator, tmp_path):
    program = write(tmp_path, *small("tests/cfgs/plain.cfg"))
    path = tmp_path / "rtl/engine/constants.bin"
    content = bytearray(path.read_bytes())
    content[8 * 12 + 7 * 8 * 8] ^= 0x40  # a weight of layer 0, the eighth tap, of output and input channel 0
    path.write_bytes(content)
    assert program.descriptors[0].layer == 0
    assert run(simulator, tmp_path).stderr.startswith("layer 0: 000_out.npy: element ")


FAULTS = [  # a block, what it says, what is planted, how `make unit` names it
    ("taps", "x >= 0 && ", "", "taps"),
    ("taps", "y < high", "y <= high", "taps"),
    ("taps", "x < wide", "x <= wide", "taps"),
    ("taps", "x_of_output + step_x_s", "x_of_output + step_y_s", "taps"),
    ("taps", "of_row + stepped_row_a", "of_row + dilated_row_a", "taps"),
    ("taps", "y <= y + dilation_s", "y <= y + 1", "taps"),
    ("taps", "last || hold ? 0 : row + 1", "last ? 0 : row + 1", "taps"),
    ("taps", "assign tap = running && room", "assign tap = running", "taps"),
    ("taps", "assign end_block = i_block == last_block", "assign end_block = i_block + 1 == last_block", "taps"),
    ("taps", "up_x <= move_x ? 0 : up_x + 1", "up_x <= 0", "taps"),
    ("rescale", "acc < 0 ? m_neg : m", "m", "rescale"),
    ("rescale", "((ONE << f) >>> 1)", "0", "rescale"),
    ("rescale", "shifted > wide_hi ? hi : ", "", "rescale"),
    ("rescale", "shifted < wide_lo ? lo : ", "", "rescale"),
    ("rescale", "rounded >>> f", "rounded >> f", "rescale"),
    ("pe_array", "each < L;", "each < L - 1;", "pe_array"),
    ("pe_array", "weight = w[8*(L*o+i)+:WEIGHT]", "weight = w[8*(L*i+o)+:WEIGHT]", "pe_array"),
    ("elementwise", "logic signed [GAIN-1:0] gain", "logic [GAIN-1:0] gain", "elementwise"),
    ("accumulator", "value > so_far", "value < so_far", "accumulator"),
    ("accumulator", "first ? start[ACC*i+:ACC] : kept", "kept", "accumulator"),
    ("level_table", "8'(level) - 8'(lo)", "8'(level)", "level_table"),
]


@pytest.fixture(scope="module")
def blocks(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("blocks")
    write(folder, *small("tests/cfgs/residual.cfg", LOW), Engine(lanes=4, input_words=512))
    return folder / "rtl/engine"


@needs_icarus
@pytest.mark.parametrize("seed", [1, 2])
def test_every_block_equals_numpy_on_random_geometries(seed, blocks):
    done = unit(blocks, seed=seed)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.fullmatch(rf"unit: \d+ vectors equal, seed {seed}", done.stdout.strip())


@needs_icarus
@pytest.mark.parametrize(("block", "right", "planted", "name"), FAULTS, ids=lambda value: str(value)[:24])
def test_a_planted_fault_is_named_by_its_block(block, right, planted, name, blocks, tmp_path):
    check_planted(shutil.copytree(blocks, tmp_path / "engine"), block, right, planted, name)


@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.skipif(
    not all(map(shutil.which, ("verilator", "iverilog", "yosys"))), reason="needs verilator, iverilog, yosys"
)
def test_verilator_icarus_and_yosys_read_the_engine_without_a_warning(lanes, tmp_path):
    network, images = small("tests/cfgs/residual.cfg", LOW)
    write(tmp_path, network, images, Engine(lanes=lanes, input_words=1024))
    done = subprocess.run(["make", "-s", "-C", tmp_path / "rtl/engine", "lint"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(not (shutil.which("cc") and shutil.which("make")), reason="needs cc and make")
def test_the_driver_is_c99_and_its_addresses_are_the_memory_maps(blocks, tmp_path):
    done = subprocess.run(["make", "-s", "-C", blocks, "driver", f"BUILD={tmp_path}"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    told = [re.findall(r"\b[su](\d+)", line) for line in (blocks / "map.txt").read_text().splitlines()]
    header = (blocks / "network.h").read_text()
    arrays = [re.findall(r"\d+", each) for each in re.findall(r"uint32_t \w+\[\] = \{(.*?)\}", header)]
    assert len(arrays) >= 2 and all(each in told for each in arrays)


NEXTPNR = """#!/bin/sh
while [ "$1" != --report ]; do shift; done
echo '{"fmax": {"clk": {"achieved": 57.3456, "constraint": 50}}, "utilization": {"TRELLIS_COMB": {"used": 14813,
"available": 83640}, "TRELLIS_FF": {"used": 6757, "available": 83640}, "DP16KD": {"used": 66, "available": 208},
"MULT18X18D": {"used": 89, "available": 156}}, "critical_paths": [{"from": "<async>", "to": "posedge clk", "path": []},
{"from": "posedge clk", "to": "posedge clk", "path": [{"from": {"cell": "a"}, "to": {"cell": "b"}},
{"from": {"cell": "b"}, "to": {"cell": "c"}}]}]}' > "$2"
"""


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_place_and_route_is_read_back_into_the_report_and_fails_below_the_bar(blocks, tmp_path):
    """nextpnr itself takes minutes (docs/benchmarks.md); here it is a stand-in that writes what nextpnr does."""
    tool = tmp_path / "nextpnr"
    tool.write_text(NEXTPNR)
    tool.chmod(0o755)
    command = ["make", "-s", "-C", blocks, "pnr", f"BUILD={tmp_path}", "YOSYS=true", f"NEXTPNR={tool}"]
    command.append(f"PYTHON={sys.executable}")
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.match(r"ecp5-85 placed and routed: 57\.35 MHz, [\d.]+ frames a second; 14813 LUT \(18%\), ", done.stdout)
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["place_and_route"]["fmax_mhz"] == 57.35 and found["place_and_route"]["longest"] == ["a", "c"]
    assert found["clocks"] == json.loads((blocks / "report.json").read_text())["clocks"]
    low = subprocess.run([*command, "MHZ=60"], capture_output=True, text=True)
    assert low.returncode != 0 and low.stdout.strip().endswith("below 60 MHz, the longest path is a to c")


def test_every_descriptor_carries_its_check():
    words = encode(compiled(*small("tests/cfgs/gates.cfg")).descriptors)
    assert set(np.bitwise_xor.reduce(words.view(np.uint16), axis=1).tolist()) == {CHECK}


def test_the_array_has_a_tap_for_every_multiplication_of_a_dense_network():
    """Of channels in multiples of the lanes: MACs / L^2 clocks, and no fewer."""
    conv = {"filters": 8, "size": 3, "stride": 1, "pad": 1, "activation": "relu"}
    images = random_images(1)
    network = lowered(cfg_text(("convolutional", conv), ("convolutional", conv | {"filters": 16})), images)
    taps = {1: 0}
    for one in compiled(network, images).descriptors:
        if isinstance(one, Compute):
            taps[one.layer] = taps.get(one.layer, 0) + one.taps
    side = images.shape[2]
    assert taps[1] == 16 * 8 * 9 * side * side // 64


@pytest.mark.parametrize("f", [-3, 0, 1, 20])
def test_gains_for_a_shift_from_one_up_give_the_same_levels(f):
    by = Requantiser(multiplier=torch.tensor([3, 7]), multiplier_neg=torch.tensor([1, 2]), shift=f, qmin=-128, qmax=127)
    acc = torch.arange(-40, 41).double() * (2**20 / 7 if f == 20 else 1)
    acc = acc.floor().expand(1, 2, 1, -1)
    made = scaling(by, np.zeros(1, np.int64))
    assert made.f >= 1
    m = np.where(acc.numpy() < 0, made.m_neg[None, :, None, None], made.m[None, :, None, None])
    level = (acc.numpy().astype(np.int64) * m + (1 << (made.f - 1))) >> made.f
    np.testing.assert_array_equal(level.clip(-128, 127), requantise(acc, by).numpy())


@pytest.mark.parametrize("seed", range(20))
def test_maps_that_are_alive_together_never_share_a_word(seed):
    random = np.random.default_rng(seed)
    firsts = random.integers(0, 20, 15)
    lives = {
        k: Life(int(random.integers(1, 500)), int(t), int(t + random.integers(0, 8))) for k, t in enumerate(firsts)
    }
    place, words = allocate(lives)
    for t in range(30):
        taken = sorted((place[k], place[k] + life.words) for k, life in lives.items() if life.first <= t <= life.last)
        assert all(end <= start for (_, end), (start, _) in pairwise(taken))
        assert all(end <= words for _, end in taken)


@pytest.mark.parametrize("seed", range(20))
def test_tiles_cover_every_output_once_and_fit(seed):
    random = np.random.default_rng(seed)
    kernel, step, dilation, high = (int(n) for n in random.integers(1, [6, 4, 3, 40]))
    before = int(random.integers(0, kernel * dilation))
    out = (high + 2 * before - dilation * (kernel - 1) - 1) // step + 1
    if out < 1:
        return
    window = Window(kernel=(kernel, kernel), step=(step, step), before=before, dilation=dilation)
    room = int(random.integers(1, 12 * high))
    found = tiles(window, high, out, 4, room)
    if found is None:
        assert min(dilation * (kernel - 1) + 1, high) * 4 > room
        return
    rows = []
    for tile in found:
        rows += range(tile.first, tile.end)
        needed = {y * step - before + k * dilation for y in range(tile.first, tile.end) for k in range(kernel)}
        assert all(tile.low <= y < tile.high for y in needed if 0 <= y < high)
        assert tile.top == tile.first * step - before - tile.low and (tile.high - tile.low) * 4 <= room
    assert rows == list(range(out))


MIXED = cfg_text(  # channels 0 to 3 have no sign, the others have one; the [reorg] mixes them
    ("convolutional", {"filters": 4, "size": 3, "stride": 1, "pad": 1, "activation": "relu"}),
    ("convolutional", {"filters": 4, "size": 3, "stride": 1, "pad": 1, "activation": "leaky"}),
    ("route", {"layers": "-1,-2"}),
    ("reorg", {"stride": 2}),
    ("convolutional", {"filters": 8, "size": 1, "stride": 1, "pad": 1, "activation": "linear"}),
)
REFUSED = [
    (lambda: (lowered(MIXED, random_images(1)), random_images(1)), SMALL, r"one word would hold signed and unsigned"),
    (lambda: small("tests/cfgs/residual.cfg", replace(QUICK, a_bit=16)), SMALL, r"levels .*, the engine has bytes"),
    (lambda: small("tests/cfgs/residual.cfg", replace(QUICK, w_bit=16)), SMALL, r"weights of 16 bits, the engine has 8"),
    (lambda: small("tests/cfgs/tiny.cfg"), replace(SMALL, weight_rows=16), r"\d+ rows of weights, the engine has 16"),
    (lambda: small("tests/cfgs/tiny.cfg"), replace(SMALL, input_words=64), r"needs more than the 64 words of the input"),
]  # fmt: skip


@pytest.mark.parametrize(("made", "engine", "message"), REFUSED, ids=["signs", "levels", "weights", "rows", "words"])
def test_what_is_not_in_the_engine_is_refused_by_name(made, engine, message):
    with pytest.raises(InputError, match=message) as caught:
        compiled(*made(), engine)
    assert str(caught.value).startswith("--engine integer: layer ") and "\n" not in str(caught.value)


BAD = [
    ("[]", "no object is not among lanes"),
    ('{"lanes": 6}', "lanes is 6; use a power of two from 4 to 32"),
    ('{"lanes": true}', "lanes is True"),
    ('{"clock": 1}', "clock is not among lanes, input_words, weight_rows"),
    ("{", "Expecting property name"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_a_file_of_sizes_that_no_engine_has_is_refused(text, message, tmp_path):
    path = tmp_path / "engine.json"
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(message)):
        read_engine(path)
    with pytest.raises(InputError, match=r"none\.json: no such file; name a part"):
        read_engine(tmp_path / "none.json")


def test_a_file_of_sizes_is_taken_and_the_rest_is_usual(tmp_path):
    path = tmp_path / "engine.json"
    path.write_text(json.dumps({"lanes": 16}))
    assert read_engine(path) == Engine(lanes=16)
