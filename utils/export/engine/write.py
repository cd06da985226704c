"""rtl/engine/: sources, the top for this network, its program, the memory map, and a Makefile that proves all of it."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from string import Template
from typing import Any

from utils.export.engine import modes
from utils.export.engine.clocks import EventWork, spent
from utils.export.engine.edges import Edge
from utils.export.engine.fit import cells
from utils.export.engine.isa import encode
from utils.export.engine.plan import IMAGE
from utils.export.engine.program import Program
from utils.export.engine.report import report, table
from utils.export.engine.roofline import with_roofline, words

FILES = Path(__file__).with_name("files")


def write_engine(
    folder: Path,
    program: Program,
    manifest: dict[str, Any],
    works: Sequence[Sequence[EventWork]] = ((),),
    part: dict[str, Any] | None = None,
) -> str:
    """Write the folder, which does not exist yet; returns what it is, in one line.

    ``works``: what each golden image costs, of an engine whose clocks depend on the image. ``part``: what the engine
    was chosen for.
    """
    shutil.copytree(FILES, folder)
    (folder / "top.sv").write_text(top(program))
    (folder / "constants.bin").write_bytes(program.constants)
    (folder / "program.bin").write_bytes(encode(program.descriptors).astype("<u4").tobytes())
    for k, work in enumerate(works):
        (folder / f"map{k or ''}.txt").write_text(memory_map(program, manifest, work))
    (folder / "network.h").write_text(network_header(program, manifest))
    found = report(program, works[0])
    if not program.engine.spiking:
        found = with_roofline(found, {each["layer"]: each["cost"]["macs"] for each in manifest["layers"]})
        found["cells"] = cells(program.engine)
    found |= {"part": part} if part else {}
    (folder / "report.json").write_text(json.dumps(found, indent=1) + "\n")
    kinds = {each["layer"]: each["kind"] for each in manifest["layers"]}
    text = Template((FILES / ("spikes.md" if program.engine.spiking else "README.md")).read_text(encoding="utf-8"))
    said = table(found, kinds) + ("" if program.engine.spiking else f"\n\n{words(found)}")
    (folder / "README.md").write_text(text.substitute(numbers(program, found), table=said), encoding="utf-8")
    (folder / "spikes.md").unlink(missing_ok=True)
    fps = f"{found['frames_per_second_at_100_mhz']:.1f} frames a second at 100 MHz"
    busy = f"the array busy in {found['array_busy']:.0%}"
    if program.engine.spiking:
        busy = f"an accumulate in {found['array_busy']:.0%}, of golden image 0"
    if program.engine.stream:
        busy += f"; settled after {found['steps']} steps (schedule preload, whatever the file's)"
    return f"RTL engine: {found['clocks']:,} clocks a frame, {fps}, {busy}; make lint sim in rtl/engine/"


def numbers(program: Program, found: dict[str, Any]) -> dict[str, str]:
    """What the README says of this network."""
    kept = {f"{part}_{key}": value for part in ("memory_bytes", "on_chip_bytes") for key, value in found[part].items()}
    shown = {key: f"{found[key]:,}" for key in ("clocks", "bytes_read", "bytes_written", "descriptors")}
    return (
        {key: f"{value:,}" for key, value in kept.items()}
        | shown
        | {
            "lanes": str(program.engine.lanes),
            "lanes_top": str(program.engine.lanes - 1),
            "membranes": f"{program.engine.membranes:,}",
            "accumulates": f"{found.get('accumulates', 0):,}",
            "program_word": str(program.start),
            "busy": f"{found['array_busy']:.1%}",
            "fps": f"{found['frames_per_second_at_100_mhz']:.2f}",
            "cells": _said(found.get("cells", {})),
        }
        | modes.WORDS.get("leaky" if program.engine.leaky else program.engine.kind, {})
    )


def _said(found: dict[str, dict[str, int]]) -> str:
    """Cells in words."""
    if not found:  # of spikes nothing is estimated
        return ""
    families = {"ecp5": "ECP5", "xc7": "7 series"}
    each = [f"{n['lut']:,} LUT, {n['ff']:,} FF, {n['dsp']:,} DSP on {families[name]}" for name, n in found.items()]
    return f"{'; '.join(each)}; {next(iter(found.values()))['bram_bytes']:,} bytes of block RAM on either"


def layer_clocks(program: Program, work: Sequence[EventWork] = ()) -> Counter[int]:
    """Predicted clocks of every layer."""
    found: Counter[int] = Counter()
    for one, clocks in zip(program.descriptors, spent(program.descriptors, program.engine.lanes, work), strict=True):
        found[one.layer] += clocks
    return found


def memory_map(program: Program, manifest: dict[str, Any], work: Sequence[EventWork] = ()) -> str:
    """What the bench and a driver need: files, and for every map the byte address of each channel."""
    lanes, golden = program.engine.lanes, manifest["golden"]["tensors"][0]
    per_layer = layer_clocks(program, work)
    lines = [
        f"lanes {lanes}",
        f"words {program.words}",
        "constants constants.bin",
        f"program {program.start} program.bin",
        f"predicted {sum(per_layer.values())}",
    ]
    raw = {each["layer"] for each in manifest["layers"] if each.get("read_out")}
    for i, edge in sorted(program.plan.edges.items()):
        name = Path(golden[str(i)]["files"]["npy"]).name
        size = 4 if i in raw else 1
        numbers = [edge.shape[0], edge.pixels, size, size * lanes, per_layer[i] if i != IMAGE else 0]
        lines.append(" ".join(map(str, ["map", i, name, *numbers, *addresses(program, edge, size)])))
    return "\n".join(lines) + "\n"


def network_header(program: Program, manifest: dict[str, Any]) -> str:
    """network.h: what the driver needs of this network's memory map."""
    image, lanes = program.plan.edges[IMAGE], program.engine.lanes
    ends = [each["layer"] for each in manifest["layers"] if each.get("read_out")]
    arrays, rows = [("image", addresses(program, image, 1))], []
    for k, i in enumerate(ends):
        edge = program.plan.edges[i]
        arrays.append((f"head_{k}", addresses(program, edge, 4)))
        rows.append(f"    {{{i}, {edge.shape[0]}, {edge.pixels}, engine_head_{k}}},\n")
    lines = [
        f"static const uint32_t engine_{name}[] = {{{', '.join(each[1:] for each in found)}}};\n"
        for name, found in arrays
    ]
    numbers = [lanes, program.start, image.shape[0], image.pixels, "engine_image", len(ends), "engine_heads"]
    return (
        f"/* This network in {program.words * lanes} bytes from BASE on; generated. */\n"
        '#ifndef ENGINE_NETWORK_H\n#define ENGINE_NETWORK_H\n\n#include "driver.h"\n\n'
        f"{''.join(lines)}static const struct engine_head engine_heads[] = {{\n{''.join(rows)}}};\n"
        f"static const struct engine_network engine_network = {{{', '.join(map(str, numbers))}}};\n\n#endif\n"
    )


def addresses(program: Program, edge: Edge, size: int) -> list[str]:
    """Byte address of every channel's first pixel, from the base, behind `s` where its levels have a sign, else `u`."""
    lanes, place = program.engine.lanes, edge.place()
    found = []
    for c in range(edge.shape[0]):
        b, k = place[c]
        block = edge.blocks[b]
        start = program.activations + program.plan.place[block.buffer]
        found.append(("s" if block.signed else "u") + str((start + block.offset * size) * lanes + k * size))
    return found


def top(program: Program) -> str:
    """top.sv: the engine with this network's numbers, same ports."""
    source = (FILES / "src/engine.sv").read_text()
    ports = re.search(r"\) \((.*?)\n\);", source, re.DOTALL)
    assert ports is not None
    numbers = program.engine.parameters
    body = ports[1].replace("L-1:0", f"{numbers['L']}-1:0").replace("8*L", f"8*{numbers['L']}")
    names = re.findall(r"(\w+)(?:,|$)", re.sub(r"/\*.*?\*/|//.*", "", body), re.MULTILINE)
    settings = ", ".join(f".{name}({value})" for name, value in numbers.items())
    wires = ",\n        ".join(f".{name}({name})" for name in names)
    return (
        "// The engine with the widths of this network; generated.\n"
        f"module top ({body}\n);\n    engine #({settings}) network (\n        {wires}\n    );\nendmodule\n"
    )
