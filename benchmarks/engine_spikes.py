"""Spikes against integers on one part and image: clocks and accumulates of both engines, a curve clocks against mAP.

  python3 benchmarks/engine_spikes.py weights/last.pt
  python3 benchmarks/engine_spikes.py weights/last.pt --bits 4 3 2 --sparsify 0 1.5       trained for these bits
  python3 benchmarks/engine_spikes.py weights/a.int.pt weights/b.int.pt --simulate        as they are

A float network is converted for each number of bits (convert_snn.py, weights and activations, no training; --flags
adds to it), or with --sparsify trained down through --bits once for every lambda (train.py with --train-flags: the
weights keep the bits that these say, and the stages share the epochs). Clocks
are predicted, of the first validation image ("behind the image": without the layers that read its pixels); work: clocks
with L^2 multiplications, or in which L membranes accumulate; mAP is that of the integers, and so of the spikes, on all
validation images. --simulate runs both engines in Verilator too: every level and count equal, and exactly those clocks.
Leaves runs/bench_engines/ with engines.csv and clocks_against_map.png. Finished conversions and trainings are kept.
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import utils  # noqa: F401, I001  # before torch: how its threads wait

from benchmarks.engine import make_sim
from benchmarks.pruning import run_script, sha256_of
from benchmarks.spiking_training import stages_of, trained
from export import parser as export_parser
from models import load_model
from pipeline.export import open_integers
from utils import cli
from utils.config.run import DATA
from utils.errors import InputError
from utils.export.engine.report import report
from utils.export.engine.target import Engine
from utils.export.package import HandOffOptions, export_network, program_of, works_of
from utils.reporting.files import sha256
from utils.reporting.pareto import front
from utils.reporting.figures import save_figure
from utils.reporting.plots import BLUE, ORANGE, new_figure
from utils.reporting.record import new_run_folder
from utils.reporting.results import write_rows
from utils.reporting.runs import RUNS, output_of
from utils.reporting.tables import plain_table

log = logging.getLogger(__name__)

TRAIN = "--quantized google --w-bit 4 --epochs 12 --lr 0.01"
KINDS = ("integer", "spikes")
HEADER = ["network", "bits", "engine", "clocks", "behind the image", "frames/s at 100 MHz", "busy", "work", "mAP@0.5"]


@dataclass(frozen=True)
class Point:
    """A network on an engine. ``work``: clocks in which its array or its membranes have something to do."""

    network: str
    bits: int
    engine: str
    clocks: int
    behind: int
    busy: float
    work: int
    score: float

    def cells(self, lanes: int) -> list[str]:
        """Of the table."""
        each = f"of {lanes} accumulates" if self.engine == "spikes" else f"of {lanes}^2 MACs"
        counts = [f"{self.clocks:,}", f"{self.behind:,}", f"{1e8 / self.clocks:.1f}", f"{self.busy:.0%}"]
        return [self.network, str(self.bits), self.engine, *counts, f"{self.work:,} {each}", f"{self.score:.4f}"]


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add: Any = flags.add_argument
    add("weights", nargs="+", help="float networks, or integers")
    add("--bits", type=cli.positive, nargs="+", default=[4, 3, 2])
    add("--data", default=DATA)
    add("--flags", default="", help="more flags of convert_snn.py")
    add("--sparsify", type=cli.non_negative, nargs="+", default=[], metavar="LAMBDA", help="train for the bits instead")
    add("--train-flags", default=TRAIN, help=f"of train.py, besides --a-bit, --progressive and --sparsify ({TRAIN})")
    add("--seed", type=cli.whole, default=0, help="of that training")
    add("--device", default="cpu")
    add("--lanes", type=cli.positive, default=8)
    add("--simulate", action="store_true")
    return flags


def networks(args: argparse.Namespace) -> Iterator[tuple[str, Path]]:
    """What each row's network is called, and its file of integers."""
    for weights in args.weights:
        stem = f"{Path(weights).stem} " if len(args.weights) > 1 else ""
        if load_model(weights).integer is not None:
            yield Path(weights).name.partition(".")[0], Path(weights)
        elif args.sparsify:
            for strength in args.sparsify:
                record = trained(args, args.seed, weights, flags_of(args, strength))
                left = sorted(zip(stages_of(record), record.paths("*.int.pt"), strict=True), reverse=True)
                yield from ((f"{stem}sparsify {strength:g}", path) for _, path in left)  # most bits first, as converted
        else:
            yield from ((f"{stem}converted", converted(args, weights, bits)) for bits in args.bits)


def flags_of(args: argparse.Namespace, strength: float) -> str:
    """What train.py is told: stages of activations down to the fewest --bits, of weights down to --train-flags'."""
    last = "" if "--a-bit" in args.train_flags.split() else f" --a-bit {min(args.bits)}"
    stages = f" --progressive {' '.join(map(str, args.bits))}" if len(args.bits) > 1 else ""
    return f"{args.train_flags}{last}{stages} --sparsify {strength:g}"


def converted(args: argparse.Namespace, weights: str, bits: int) -> Path:
    """The integers of a float network in so many bits, without training."""
    name = f"engines-{sha256_of(f'{bits} {args.flags} {sha256(Path(weights))}')}"
    words = ["--weights", weights, "--data", args.data, "--w-bit", str(bits), "--a-bit", str(bits), "--name", name]
    found = output_of(run_script("convert_snn", [*words, *args.flags.split()]), "*.snn.pt")
    if found is None:
        raise InputError(
            f"{weights}: its conversion to {bits} bits is gone; remove its run {name}, then run this again"
        )
    return found


def points(args: argparse.Namespace, name: str, path: Path) -> list[Point]:
    """Both engines of one network."""
    words = ["fpga", "--weights", str(path), "--data", args.data, "--device", args.device]
    session = open_integers(export_parser().parse_args(words))
    network, images = session.loaded.integer, session.validation_images(1)
    assert network is not None
    score, found = session.headline(session.score(session.loaded.predictor)), []
    for kind in KINDS:
        engine = Engine(lanes=args.lanes, spiking=kind == "spikes")
        program = program_of(network, images, engine)
        told = report(program, works_of(network, images, program)[0])
        behind = sum(each["clocks"] for each in told["layers"] if -1 not in network.spec.layers[each["layer"]].sources)
        work = told["accumulates"] if engine.spiking else round(told["clocks"] * told["array_busy"])
        found.append(Point(name, network.scheme.a_bit, kind, told["clocks"], behind, told["array_busy"], work, score))
        if args.simulate:
            with tempfile.TemporaryDirectory() as place:
                options = HandOffOptions(name="net", forms=("npy",), engine=engine)
                export_network(Path(place) / "net", network, images, options)
                make_sim(Path(place) / "net")
    return found


def verdict(found: list[Point]) -> str:
    """Which engine wins: network by network, and among all of them by the points that no other one beats."""
    pairs = [(found[k].clocks, found[k + 1].clocks) for k in range(0, len(found), 2)]
    faster = {"integers": [b / a for a, b in pairs if a <= b], "spikes": [a / b for a, b in pairs if b < a]}
    said = [
        f"{name} win {len(ratios)} of {len(pairs)} networks, by {min(ratios):.1f} to {max(ratios):.1f} times"
        for name, ratios in faster.items()
        if ratios
    ]
    spots = [(each.clocks, each.score) for each in found]
    best = sorted(front(spots), key=lambda k: spots[k])
    named = ", ".join(f"{found[k].network} {found[k].bits} bits by {found[k].engine}" for k in best)
    return f"{'; '.join(said)}. No other point has fewer clocks and a higher mAP than: {named}"


def plot(path: Path, found: list[Point]) -> Path:
    """mAP over clocks: a line an engine and family of networks, a point a number of bits."""
    figure, (axis,) = new_figure(1, "Clocks of a frame against mAP@.5", width=7.5, height=4.6)
    names = list(dict.fromkeys(each.network for each in found))
    for kind, colour in zip(KINDS, (BLUE, ORANGE), strict=True):
        for number, name in enumerate(names):
            mine = [each for each in found if (each.network, each.engine) == (name, kind)]
            style, marker, aside = (("-", "o", 6), ("--", "s", -13), (":", "^", 19), ("-.", "D", -26))[number % 4]
            spots = [(each.clocks, each.score) for each in mine]
            axis.plot(*zip(*spots, strict=True), style, marker=marker, color=colour, label=f"{kind}, {name}")
            for each, spot in zip(mine, spots, strict=True):
                axis.annotate(str(each.bits), spot, fontsize="small", xytext=(aside, -3), textcoords="offset points")
    axis.set(xscale="log", xlabel="clocks a frame", ylabel="mAP@.5")
    axis.margins(0.1)
    axis.legend(frameon=False, fontsize="small", title="at each point: bits", loc="center")
    return save_figure(figure, path)


def run(args: argparse.Namespace) -> None:
    """Convert or train, compile, print, draw."""
    found = [point for name, path in networks(args) for point in points(args, name, path)]
    log.info(plain_table("engines", [HEADER, *(each.cells(args.lanes) for each in found)]))
    log.info(verdict(found))
    folder = new_run_folder(RUNS, "bench_engines", "")
    write_rows(folder / "engines.csv", [asdict(each) for each in found])
    log.info("%s, %s", folder / "engines.csv", plot(folder / "clocks_against_map.png", found))


if __name__ == "__main__":
    cli.main(run, parser())
