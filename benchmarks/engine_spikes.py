"""Spikes against integers on one part and image: clocks and accumulates of both engines, of one network at some bits.

  python3 benchmarks/engine_spikes.py weights/last.pt
  python3 benchmarks/engine_spikes.py weights/last.pt --bits 4 3 2 --data photos --simulate

Each number of bits is convert_snn.py's own run (weights and activations, no training; --flags adds to it), whose mAP
stands beside; clocks are predicted, of the first validation image ("behind the image": without the layers that
read its pixels); work: clocks with L^2 multiplications, or in which L membranes accumulate. --simulate runs both
engines in Verilator too: every level and count equal, and exactly those clocks. Finished conversions are kept.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import utils  # noqa: F401, I001  # before torch: how its threads wait

from benchmarks.pruning import run_script, sha256_of
from export import parser as export_parser
from pipeline.export import open_integers
from utils.reporting.runs import output_of
from utils import cli
from utils.config.run import DATA
from utils.export.engine.report import report
from utils.export.engine.target import Engine
from utils.export.package import HandOffOptions, export_network, program_of, works_of
from utils.reporting.files import sha256
from utils.reporting.tables import plain_table


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add: Any = flags.add_argument
    add("weights", help="a float network")
    add("--bits", type=cli.positive, nargs="+", default=[4, 3, 2])
    add("--data", default=DATA)
    add("--flags", default="", help="more flags of convert_snn.py")
    add("--lanes", type=cli.positive, default=8)
    add("--simulate", action="store_true")
    return flags


def rows(args: argparse.Namespace, bits: int) -> list[list[str]]:
    """Integers and spikes of one number of bits."""
    name = f"engines-{sha256_of(f'{bits} {args.flags} {sha256(Path(args.weights))}')}"
    words = ["--weights", args.weights, "--data", args.data, "--w-bit", str(bits), "--a-bit", str(bits), "--name", name]
    record = run_script("convert_snn", [*words, *args.flags.split()])
    made = output_of(record, "*.snn.pt")
    session = open_integers(export_parser().parse_args(["fpga", "--weights", str(made), "--data", args.data]))
    network, images = session.loaded.integer, session.validation_images(1)
    assert network is not None
    found = []
    for kind in ("integer", "spikes"):
        engine = Engine(lanes=args.lanes, spiking=kind == "spikes")
        program = program_of(network, images, engine)
        told = report(program, works_of(network, images, program)[0])
        fps, busy = told["frames_per_second_at_100_mhz"], told["array_busy"]
        adds = (
            f"{told['accumulates']:,}" if engine.spiking else f"{round(told['clocks'] * busy):,} x {args.lanes}^2 MACs"
        )
        behind = sum(each["clocks"] for each in told["layers"] if -1 not in network.spec.layers[each["layer"]].sources)
        quality = f"{record.metrics['spiking']['map50']:.4f}"
        found.append(
            [str(bits), kind, f"{told['clocks']:,}", f"{behind:,}", f"{fps:.1f}", f"{busy:.0%}", adds, quality]
        )
        if args.simulate:
            simulate(network, images, engine)
    return found


def simulate(network: Any, images: Any, engine: Engine) -> None:
    """The exported folder's own make sim."""
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "net"
        export_network(out, network, images, HandOffOptions(name="net", forms=("npy",), engine=engine))
        done = subprocess.run(["make", "-s", "-C", out / "rtl/engine", "sim", "SEED=1"], capture_output=True, text=True)
        print(done.stdout + done.stderr, end="", flush=True)


def main() -> None:
    """Convert, compile, print."""
    args = parser().parse_args()
    header = ["bits", "engine", "clocks", "behind the image", "frames/s at 100 MHz", "busy", "work", "mAP@0.5"]
    print(plain_table("engines", [header, *(row for bits in args.bits for row in rows(args, bits))]))


if __name__ == "__main__":
    main()
