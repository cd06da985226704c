from __future__ import annotations

import pytest

from tests.pruning.nets import ROOT, TINY
from utils.darknet.cfg import read_cfg
from utils.darknet.channel_groups import trace
from utils.pruning.explain import HEADING, explain
from utils.reporting.tables import plain_table


def table(name: str) -> list[list[str]]:
    spec = read_cfg(ROOT / "tests" / "cfgs" / f"{name}.cfg")
    return explain(trace(spec), spec)


@pytest.mark.parametrize("path", TINY, ids=lambda p: p.stem)
def test_every_wire_is_in_the_table_once_and_its_state_is_the_engines(path):
    spec = read_cfg(path)
    wires = trace(spec)
    heading, *rows = explain(wires, spec)
    assert heading == list(HEADING)
    channels = {state: sum(int(row[2].replace(",", "")) for row in rows if row[3] == state)
                for state in ("free", "tied", "locked")}  # fmt: skip
    assert channels["locked"] == int(wires.locked.sum())
    assert channels["tied"] == int((wires.tied & ~wires.locked).sum())
    assert channels["free"] == int((~wires.tied & ~wires.locked).sum())
    assert len(plain_table("wires", [heading, *rows]).splitlines()) == len(rows) + 4


def test_free_layer_needs_no_reason_and_a_head_has_one():
    rows = table("plain")
    assert ["0", "9", "8", "free", "-"] in rows
    assert ["-", "-", "3", "locked", "the image"] in rows
    assert ["-", "-", "14", "locked", "detection head (cfg line 60)"] in rows


def test_shortcut_names_the_layers_it_ties_and_its_lines():
    rows = table("residual")
    assert ["0, 2, 5", "9, 25, 45", "8", "tied", "tied by a shortcut (lines 33, 53)"] in rows


def test_long_chains_are_told_in_short():
    spec = read_cfg(ROOT / "cfg" / "yolov3.cfg")
    rows = explain(trace(spec), spec)
    chain = next(row for row in rows if row[0].startswith("37, "))
    assert chain[0] == "37, 39, 42 … 60 (9)"
    assert chain[4].startswith("tied by a shortcut (lines ") and chain[4].endswith(" and 6 more)")
    assert max(len(line) for line in plain_table("wires", rows).splitlines()) <= 120
