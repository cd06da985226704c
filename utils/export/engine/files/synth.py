"""What Yosys counted, summed up: python3 synth.py FOLDER, which holds FAMILY.stat; writes FOLDER/synth.json."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

# Cells of each family: what of a part they take, and how much of it.
CELLS: dict[str, dict[str, tuple[str, float]]] = {
    "ecp5": {
        "LUT4": ("LUT", 1), "CCU2C": ("LUT", 2), "TRELLIS_DPR16X4": ("LUT", 6), "TRELLIS_FF": ("FF", 1),
        "DP16KD": ("BRAM", 1), "MULT18X18D": ("DSP", 1),
    },
    "xc7": {
        **{f"LUT{n}": ("LUT", 1) for n in range(1, 7)}, "RAM32M": ("LUT", 4), "RAM64M": ("LUT", 4),
        "RAM64X1D": ("LUT", 2),
        "RAM32X1D": ("LUT", 2), "RAM128X1D": ("LUT", 4), "SRL16E": ("LUT", 1),
        "FDRE": ("FF", 1), "FDSE": ("FF", 1), "FDCE": ("FF", 1),
        "FDPE": ("FF", 1), "RAMB36E1": ("BRAM", 1), "RAMB18E1": ("BRAM", 0.5), "DSP48E1": ("DSP", 1),
    },
}  # fmt: skip
# Lattice FPGA-DS-02012, Xilinx DS190 and DS180: BRAM of 18 Kbit on ECP5, of 36 Kbit on the others.
PARTS: dict[str, tuple[str, dict[str, int]]] = {
    "ecp5-85": ("ecp5", {"LUT": 83640, "FF": 83640, "BRAM": 208, "DSP": 156}),
    "zynq7020": ("xc7", {"LUT": 53200, "FF": 106400, "BRAM": 140, "DSP": 220}),
    "artix7-100": ("xc7", {"LUT": 63400, "FF": 126800, "BRAM": 135, "DSP": 240}),
}


def counted(text: str, family: str) -> dict[str, float]:
    """LUT, FF, BRAM, DSP of the whole design."""
    whole = text[text.rindex("design hierarchy") :] if "design hierarchy" in text else text
    found = dict.fromkeys(("LUT", "FF", "BRAM", "DSP"), 0.0)
    for cell, number in re.findall(r"^\s+(\w+)\s+(\d+)$", whole, re.MULTILINE):
        if cell in CELLS[family]:
            kind, each = CELLS[family][cell]
            found[kind] += each * int(number)
    return found


def main(folder: Path) -> int:
    """Print a table, and 1 if the engine fits none of the parts."""
    totals = {family: counted((folder / f"{family}.stat").read_text(), family) for family in CELLS}
    rows, fits = [], {}
    for part, (family, has) in PARTS.items():
        fits[part] = all(totals[family][kind] <= has[kind] for kind in has)
        shares = ", ".join(f"{totals[family][kind]:g} {kind} ({totals[family][kind] / has[kind]:.0%})" for kind in has)
        rows.append(f"{part}: {shares}{'' if fits[part] else ': does not fit'}")
    (folder / "synth.json").write_text(json.dumps({"cells": totals, "fits": fits}, indent=1) + "\n")
    sys.stdout.write("\n".join(rows) + "\n")
    return 0 if any(fits.values()) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
