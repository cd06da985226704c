"""One layer in SystemVerilog: convolution, requantisation and neuron, and a testbench that replays its golden files."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

from utils.export.formats import word_of
from utils.export.make import run_make

FIXED = Path(__file__).with_name("rtl")
LONGEST = 2_000_000  # clock cycles that an export simulates by itself, some 20 s
LONGEST_SPIKES = 300_000  # cycles of neurons; of a layer that takes more, every so manieth output is replayed


def write_rtl(folder: Path, manifest: dict[str, Any]) -> int | None:
    """Write rtl/ for one layer: of those with a neuron, then with a kernel, that of fewest cycles.

    Returns:
        Its cycles; None, and nothing is written, where no convolution is requantised.
    """
    layers = [layer for layer in manifest["layers"] if layer["kind"] == "conv" and layer["requantise"]]
    if not layers:
        return None
    chosen = min(layers, key=lambda layer: ("table" in layer, layer["size"] == 1, cycles(manifest, layer)))
    shutil.copytree(FIXED, folder)
    (folder / "layer.svh").write_text(parameters(manifest, chosen))
    return cycles(manifest, chosen)


def cycles(manifest: dict[str, Any], layer: dict[str, Any]) -> int:
    """Clocks of a replay: a tap each, one to load an output, and a window each neuron."""
    c, h, w = layer["output"]
    every = spike_every(manifest, layer)
    taps = math.prod(layer["weights"]["shape"]) * h * w  # inserted zeros are multiplied too, unlike in its cost
    return taps + c * h * w + (c * h * w // every * window(manifest, layer) if every else 0)


def window(manifest: dict[str, Any], layer: dict[str, Any]) -> int:
    """Steps that a neuron is watched: the network's window, else as many as it can need."""
    by, spiking = layer["requantise"], manifest["spiking"]
    return spiking["window"] if spiking else max(by["hi"], -by["lo"])


def spike_every(manifest: dict[str, Any], layer: dict[str, Any]) -> int:
    """Every so manieth output is replayed as a neuron too; 0: none, for a table is no neuron."""
    c, h, w = layer["output"]
    return 0 if "table" in layer else -(-c * h * w * window(manifest, layer) // LONGEST_SPIKES)


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
    plain = word_of(by["lo"], by["hi"])
    trains = manifest["golden"]["spikes"][0] if manifest["golden"]["spikes"] else {}
    train = trains.get(str(layer["layer"]), {}).get("train")
    numbers = {
        "LAYER": layer["layer"],
        "IN_C": in_c, "IN_H": in_h, "IN_W": in_w, "OUT_C": out_c, "OUT_H": out_h, "OUT_W": out_w,
        "SIZE": layer["size"], "DOWN": down, "RIGHT": right,
        "PAD": layer["pad"], "DILATION": layer["dilation"], "GROUPS": layer["groups"],
        "IN_BITS": grid["bits"], "IN_SIGNED": int(grid["signed"]), "LEVEL": grid["bits"] + (not grid["signed"]),
        "OUT_BITS": layer["grid"]["bits"], "OUT_SIGNED": int(layer["grid"]["signed"]),
        "PLAIN": plain.bits + (not plain.signed), "TABLED": int("table" in layer),
        "WINDOW": window(manifest, layer), "SPIKE_EVERY": spike_every(manifest, layer),
        "TRAINED": int(train is not None),
        "WEIGHT": layer["weights"]["bits"], "ACC": layer["acc_bits"], "GAIN": by["gain_bits"] + 1,
        "F": by["f"], "LO": by["lo"], "HI": by["hi"],
    }  # fmt: skip
    files = {
        "INPUT_FILE": golden[str(source)],
        "WEIGHT_FILE": layer["weights"],
        "BIAS_FILE": layer["bias"],
        "GAIN_FILE": layer["m"],
        "NEGATIVE_GAIN_FILE": layer.get("m_neg", layer["m"]),
        "GOLDEN_FILE": golden[str(layer["layer"])],
        "TABLE_FILE": layer.get("table"),
        "TRAIN_FILE": train,
    }
    lines = [f"localparam int {name} = {value};\n" for name, value in numbers.items()]
    lines += [f'localparam {name} = "{_path(ref)}";\n' for name, ref in files.items()]
    return f"// Layer {layer['layer']} of {manifest['name']}.\n" + "".join(lines)


def _path(ref: dict[str, Any] | None) -> str:
    return f"../{ref['files']['mem']}" if ref else ""
