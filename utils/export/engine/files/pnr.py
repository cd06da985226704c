"""What nextpnr placed and routed: python3 pnr.py FOLDER [MHZ], which holds pnr.json; writes FOLDER/report.json.

That is ../report.json with `place_and_route` added, and `synthesis` where `make synth` was run too.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

SITES = {"LUT": "TRELLIS_COMB", "FF": "TRELLIS_FF", "BRAM": "DP16KD", "DSP": "MULT18X18D"}


def placed(report: dict[str, Any]) -> dict[str, Any]:
    """The highest clock (MHz), what of the part is used, and where the longest path between registers runs."""
    clocks = {name: each["achieved"] for name, each in report["fmax"].items()}
    path: list[Any] = next((each["path"] for each in report["critical_paths"] if each["from"] in each["to"]), [])
    ends = [path[0]["from"]["cell"], path[-1]["to"]["cell"]] if path else []
    used = {kind: report["utilization"][site]["used"] for kind, site in SITES.items()}
    has = {kind: report["utilization"][site]["available"] for kind, site in SITES.items()}
    return {"part": "ecp5-85", "fmax_mhz": round(min(clocks.values()), 2), "used": used, "has": has, "longest": ends}


def main(folder: Path, bar: float) -> int:
    """Print one line, and 1 if the clock is below the bar."""
    found = placed(json.loads((folder / "pnr.json").read_text()))
    whole = json.loads((Path(__file__).parent / "report.json").read_text())
    whole["place_and_route"] = found
    if (folder / "synth.json").is_file():
        whole["synthesis"] = json.loads((folder / "synth.json").read_text())
    (folder / "report.json").write_text(json.dumps(whole, indent=1) + "\n")
    shares = ", ".join(f"{n} {kind} ({n / found['has'][kind]:.0%})" for kind, n in found["used"].items())
    frames = f", {found['fmax_mhz'] * 1e6 / whole['clocks']:.1f} frames a second" if "clocks" in whole else ""
    low = (
        "" if found["fmax_mhz"] >= bar else f": below {bar:g} MHz, the longest path is {' to '.join(found['longest'])}"
    )
    sys.stdout.write(f"{found['part']} placed and routed: {found['fmax_mhz']} MHz{frames}; {shares}{low}\n")
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 0))
