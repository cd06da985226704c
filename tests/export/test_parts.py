"""What a part has room for, what a structure costs there, and what the report says of each layer."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.export.engine_folder import SMALL, compiled
from tests.export.nets import small
from tests.export.test_script import manifest, place, typed  # noqa: F401
from utils.darknet.cfg import read_cfg
from utils.errors import InputError
from utils.export.engine.fit import COUNTED, choose_engine, estimate, gained
from utils.export.engine.price import clocks_of_program, clocks_of_spec, on_part
from utils.export.engine.report import report
from utils.export.engine.roofline import with_roofline
from utils.export.engine.target import SIZES, Engine, FpgaPart, part_names, read_part
from utils.reporting.html.hardware import hardware

PART = FpgaPart(
    name="mine",
    clock_mhz=1,
    bytes_a_clock=16,
    family="xc7",
    counts={"lut": 40000, "ff": 40000, "dsp": 220, "bram_bytes": 150_000},
)


def slower_when_small(engine: Engine) -> int:
    """Clocks that fall with the array, and a little with the input buffer."""
    return 10**6 // engine.lanes**2 + 10**7 // engine.input_words


@pytest.mark.parametrize("name", part_names())
def test_every_part_that_has_a_name_is_whole(name):
    part = read_part(name)
    assert part.name == name and part.about
    assert choose_engine(slower_when_small, part).best.engine.lanes <= part.bytes_a_clock


BAD = [
    ("[]", "no object is not among lanes"),
    ('{"dsp": 5}', "dsp counts cells of a family; add family: ecp5 or xc7"),
    ('{"family": "ice40"}', "family is 'ice40'; use ecp5 or xc7"),
    ('{"family": ["ecp5"]}', "family is ['ecp5']; use ecp5 or xc7"),
    ('{"clock_mhz": 0}', "clock_mhz is 0; use MHz from above 0 to 1000"),
    ('{"clock_mhz": NaN}', "clock_mhz is nan; use MHz"),
    ('{"bytes_a_clock": 2.5}', "bytes_a_clock is 2.5; use a whole number from 1 up"),
    ('{"family": "xc7", "lut": true}', "lut is True; use a whole number from 1 up"),
    ('{"about": 7}', "about is 7; use words"),
    ('{"watts": 7}', "watts is not among lanes"),
]


@pytest.mark.parametrize(("text", "message"), BAD)
def test_a_part_that_there_is_not_is_refused(text, message, tmp_path):
    path = tmp_path / "part.json"
    path.write_text(text)
    with pytest.raises(InputError, match=f"^--target {re.escape(str(path))}: {re.escape(message)}"):
        read_part(str(path))


@pytest.mark.parametrize("name", ["csp", "mobile", "gates", "uneven"])
def test_clocks_of_a_structure_are_those_of_the_quantised_network(name):
    program = compiled(*small(f"tests/cfgs/{name}.cfg"), SMALL)
    assert clocks_of_spec(read_cfg(f"tests/cfgs/{name}.cfg"), (64, 64), SMALL) == clocks_of_program(program)


def test_the_fastest_engine_that_fits_is_taken_and_the_next_larger_one_named():
    choice = choose_engine(slower_when_small, PART)
    assert not choice.best.fault and all(choice.best.needs[kind] <= has for kind, has in PART.counts.items())
    fit = [each for each in choice.tried if not each.fault]
    assert choice.best.clocks == min(each.clocks for each in fit) and len(fit) > 1
    assert choice.best.engine.lanes == 8 and choice.frames == 1e6 / choice.best.clocks
    assert re.match(r"16x16 would need [\d.]+ times fewer clocks, and lacks: .*dsp", gained(choice))
    assert str(choice).count("\n") >= len(choice.tried)


def test_the_smallest_engine_that_is_fast_enough_is_taken_or_none():
    slow = choose_engine(slower_when_small, PART, fps=12)
    assert slow.best.engine.lanes == 4 and slow.frames >= 12
    with pytest.raises(
        InputError, match=r"--target-fps: mine reaches [\d.]+ frames a second at most .*, not 1000; prune"
    ):
        choose_engine(slower_when_small, PART, fps=1000)


def test_a_network_that_no_engine_takes_is_refused_with_the_layer():
    def refuses(engine: Engine) -> int:
        raise InputError("--engine integer: layer 3 (cfg line 9): too much")

    with pytest.raises(InputError, match=r"^--target mine: no engine fits: layer 3 \(cfg line 9\): too much"):
        choose_engine(refuses, PART)


def test_sizes_of_a_file_are_kept_and_counts_are_what_yosys_counted():
    sized = FpgaPart(sizes={"lanes": 16, "input_words": 4096, "weight_rows": 512}, bytes_a_clock=16)
    (only,) = choose_engine(slower_when_small, sized).tried
    assert {key: getattr(only.engine, key) for key in SIZES} == sized.sizes
    for family, counted in COUNTED.items():
        for lanes, cells in counted.items():
            found = estimate(Engine(lanes=lanes), FpgaPart(family=family))
            assert {kind: found[kind] for kind in cells} == cells
    assert estimate(Engine(lanes=32), FpgaPart(family="ecp5"))["dsp"] >= 32 * 32


def test_the_roofline_keeps_every_mac_and_no_layer_is_above_its_roof():
    network, images = small("tests/cfgs/residual.cfg")
    program = compiled(network, images, SMALL)
    macs = {i: 1000 * i for i in range(len(network.spec.layers))}
    plain = report(program)
    found = with_roofline(plain, macs)
    assert found["macs"] == sum(macs[each["layer"]] for each in found["layers"])
    for each in found["layers"]:
        assert each["utilisation"] == pytest.approx(macs[each["layer"]] / each["clocks"] / SMALL.lanes**2, abs=1e-4)
        moved = each["bytes_read"] + each["bytes_written"]
        side = "compute" if macs[each["layer"]] >= SMALL.lanes * moved else "bandwidth"
        assert each["bound"] == (side if macs[each["layer"]] else "none")
        assert each["roof"] <= SMALL.lanes**2
    assert {key: found[key] for key in plain if key != "layers"} == {k: v for k, v in plain.items() if k != "layers"}


def test_the_page_draws_a_spot_for_every_layer_that_multiplies_and_names_the_slowest():
    network, _ = small("tests/cfgs/residual.cfg")
    choice, told = on_part(network, (64, 64), "zynq7020")
    rows = [{"kind": "conv", **each} for each in told["layers"]]
    page = hardware(choice.record() | {"stages": {"quantised": told["clocks"]}, "array": told["array"]}, rows)
    spots = re.findall(r"<circle[^>]* r=\"([\d.]+)\"><title>layer (\d+) \(conv\): [^<]* ([\d,]+) clocks", page)
    busy = {each["layer"]: each["clocks"] for each in rows if each["macs"]}
    assert {int(layer): int(clocks.replace(",", "")) for _, layer, clocks in spots} == busy
    areas = sorted((busy[int(layer)], float(radius)) for radius, layer, _ in spots)
    assert [radius for _, radius in areas] == sorted(radius for _, radius in areas)
    named = [int(each) for each in re.findall(r">layer (\d+)</text>", page)]
    assert sorted(busy[each] for each in named) == sorted(busy.values())[-3:]
    assert f"work for {sum(e['macs'] for e in rows) / 64 / sum(e['clocks'] for e in rows):.0%} of the multi" in page


def test_a_part_chooses_the_engine_of_a_folder_and_its_report_says_so(place, caplog):  # noqa: F811
    caplog.set_level("INFO")
    typed("fpga", "--weights", "weights/net.int.pt", "--golden", "1", "--engine", "integer", "--target", "ecp5-85")
    made = manifest("export/net")
    report_ = json.loads(Path("export/net/rtl/engine/report.json").read_text())
    assert "rtl/engine/roofline.png" in made["files"] and report_["part"]["name"] == "ecp5-85"
    assert report_["part"]["frames_per_second"] == pytest.approx(50e6 / report_["clocks"], abs=1e-3)
    assert report_["macs"] == made["totals"]["macs"] and 0 < report_["utilisation"] <= report_["array_busy"] <= 1
    assert "ecp5-85 at 50 MHz, array" in caplog.text
    told = Path("export/net/rtl/engine/README.md").read_text()
    assert f"{report_['macs']:,} MACs" in told
    for family, name in (("ecp5", "ECP5"), ("xc7", "7 series")):
        counts = report_["cells"][family]
        assert counts == estimate(Engine(**{key: report_["engine"][key] for key in SIZES}), FpgaPart(family=family))
        assert f"{counts['lut']:,} LUT, {counts['ff']:,} FF, {counts['dsp']:,} DSP on {name}" in told
