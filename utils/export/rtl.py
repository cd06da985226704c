"""One layer in SystemVerilog: convolution, requantisation and neuron, and a testbench that replays its golden files."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from utils.export.make import run_make

FIXED = Path(__file__).with_name("rtl")
GAIN_BITS = 17  # a gain has 16 bits, and a sign
LONGEST = 2_000_000  # clock cycles that an export simulates by itself, some 20 s


def write_rtl(folder: Path, manifest: dict[str, Any]) -> int:
    """Write rtl/ for the layer of fewest cycles that has a kernel; returns its cycles."""
    layers = [layer for layer in manifest["layers"] if layer["kind"] == "conv" and layer["requantise"]]
    spatial = [layer for layer in layers if layer["size"] > 1]
    chosen = min(spatial or layers, key=cycles)
    shutil.copytree(FIXED, folder)
    (folder / "layer.svh").write_text(parameters(manifest, chosen))
    return cycles(chosen)


def cycles(layer: dict[str, Any]) -> int:
    """Clocks of a replay: a tap each, and a window each output."""
    by, (c, h, w) = layer["requantise"], layer["output"]
    return layer["cost"]["macs"] + c * h * w * (max(by["hi"], -by["lo"]) + 1)


def replay(folder: Path, clocks: int) -> str:
    """``make check`` outside the folder, which stays clean; returns what it said.

    Raises:
        InputError: it does not compile, or an output differs from the golden vectors.
    """
    if not (shutil.which("make") and shutil.which("iverilog")):
        return "RTL: written but not simulated, there is no iverilog and make here; run make check in rtl/"
    if clocks > LONGEST:
        return f"RTL: written but not simulated, its layer takes {clocks:,} cycles; run make check in rtl/"
    return run_make(folder)


def parameters(manifest: dict[str, Any], layer: dict[str, Any]) -> str:
    """layer.svh: what tb.sv includes."""
    source = layer["inputs"][0]
    before = {each["layer"]: each for each in manifest["layers"]}.get(source)
    (in_c, in_h, in_w), grid = (
        (before["output"], before["grid"]) if before else (manifest["image"]["shape"], manifest["image"]["grid"])
    )
    golden, (out_c, out_h, out_w) = manifest["golden"]["tensors"][0], layer["output"]
    by, (down, right) = layer["requantise"], layer["stride"]
    numbers = {
        "LAYER": layer["layer"],
        "IN_C": in_c, "IN_H": in_h, "IN_W": in_w, "OUT_C": out_c, "OUT_H": out_h, "OUT_W": out_w,
        "SIZE": layer["size"], "DOWN": down, "RIGHT": right,
        "PAD": layer["pad"], "DILATION": layer["dilation"], "GROUPS": layer["groups"],
        "IN_BITS": grid["bits"], "IN_SIGNED": int(grid["signed"]), "LEVEL": grid["bits"] + (not grid["signed"]),
        "OUT_BITS": layer["grid"]["bits"], "OUT_SIGNED": int(layer["grid"]["signed"]),
        "OUT_LEVEL": layer["grid"]["bits"] + (not layer["grid"]["signed"]),
        "WEIGHT": layer["weights"]["bits"], "ACC": layer["acc_bits"], "GAIN": GAIN_BITS,
        "F": by["f"], "LO": by["lo"], "HI": by["hi"],
    }  # fmt: skip
    files = {
        "INPUT_FILE": golden[str(source)],
        "WEIGHT_FILE": layer["weights"],
        "BIAS_FILE": layer["bias"],
        "GAIN_FILE": layer["m"],
        "NEGATIVE_GAIN_FILE": layer.get("m_neg", layer["m"]),
        "GOLDEN_FILE": golden[str(layer["layer"])],
    }
    lines = [f"localparam int {name} = {value};\n" for name, value in numbers.items()]
    lines += [f'localparam {name} = "../{ref["files"]["mem"]}";\n' for name, ref in files.items()]
    return f"// Layer {layer['layer']} of {manifest['name']}.\n" + "".join(lines)
