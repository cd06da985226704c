"""Which way to spike: networks trained as spikes beside their float twin, its integers and its converted spikes.

  python3 benchmarks/direct.py --epochs 10 --seeds 0 1 2
  python3 benchmarks/direct.py --rows float lif ilif --epochs 2 --seeds 0       a part of the table, soon

Same network, images, epochs and seeds in every row; means over the seeds and their deviation. Energy is that of the
arithmetic of an image, 45 nm: dense, of fp32 or int8; of spikes, multiplications of pixels and accumulates with the
constants of fp32, of the converted ones with those of integers. A run that is in runs/ already is taken from there.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import utils  # noqa: F401, I001  # before torch: how its threads wait

from benchmarks.pruning import run_script, spread
from utils.reporting.runs import output_of
from utils.cli import positive, whole
from utils.config.run import CFG, DATA
from utils.config.train import AUTO, PRECISIONS
from utils.errors import InputError
from utils.reporting.record import Record
from utils.reporting.tables import energy, plain_table

TRAINED = {  # row -> flags of train.py; {float} is the float twin's checkpoint, {int8} its integers
    "float": "",
    "lif": "--spiking lif --timesteps 4",
    "ilif": "--spiking ilif --timesteps 1 --levels 4",
    "lif converted": "--spiking lif --timesteps 4 --weights {float} --lr 0.1",
    "lif taught": "--spiking lif --timesteps 4 --weights {float} --lr 0.1 --KDstr objectness --t_weights {float}",
    "ilif converted": "--spiking ilif --timesteps 1 --levels 4 --weights {int8} --lr 0.02",
    "ilif taught": "--spiking ilif --timesteps 1 --levels 4 --weights {float} --lr 0.1 --KDstr objectness "
    "--t_weights {float}",
}
INTEGERS = {"int8": ("quantize", "--a-bit 8"), "converted": ("convert_snn", "--a-bit 4")}
Row = dict[str, Any]


class Seed:
    """All rows of one seed; each is made when it is asked for."""

    def __init__(self, args: argparse.Namespace, seed: int) -> None:
        self.args, self.seed = args, seed
        self.common = ["--data", args.data, "--seed", str(seed), "--device", "cpu", "--workers", "0"]

    def row(self, name: str) -> Row:
        """The numbers of a row: the task's headline, firing, energies, by name."""
        return self.of_integers(name) if name in INTEGERS else self.of_training(name)

    def of_training(self, name: str) -> Row:
        """A network that was trained so, as test.py measures it."""
        words = ["--weights", self.file(name), *self.common[:2], *self.common[4:]]
        metrics = run_script("test", [*words, "--name", self.name(name)]).metrics
        return {**metrics, "firing": metrics.get("spikes_per_neuron"), "picojoules": metrics["energy_pj"]}

    def of_integers(self, name: str) -> Row:
        """The float twin as 8-bit integers, or as the spikes that its 4-bit ones are converted to."""
        script, flags = INTEGERS[name]
        found = self.made(name, script, ["--weights", self.file("float"), *flags.split()]).metrics
        row = found["quantised" if name == "int8" else "spiking"]
        return {**row, "firing": row.get("spikes_per_neuron"), "picojoules": row["energy_pj"]}

    def file(self, name: str) -> str:
        """The checkpoint of a row of training, its last epoch."""
        flags = TRAINED[name]
        places = {part: self.file("float") for part in ("{float}",) if part in flags}
        if "{int8}" in flags:
            eight = self.made("int8", "quantize", ["--weights", self.file("float"), *INTEGERS["int8"][1].split()])
            places["{int8}"] = str(output_of(eight, "*.int.pt"))
        for part, path in places.items():
            flags = flags.replace(part, path)
        start = [] if "--weights" in flags else ["--cfg", self.args.cfg]
        length = ["--epochs", str(self.epochs(name)), "--notest", "--precision", self.args.precision]
        record = self.made(name, "train", [*flags.split(), *start, *length])
        found = output_of(record, "last*.pt")
        if found is None:
            raise InputError(f"{record.folder}: its network is gone; delete the folder")
        return str(found)

    def epochs(self, row: str) -> int:
        """How long a row is trained: one that starts from another row's network as ``--more`` says."""
        return self.args.more or self.args.epochs if "{" in TRAINED.get(row, "") else self.args.epochs

    def made(self, name: str, script: str, words: list[str]) -> Record:
        """The record of a script's run with these flags."""
        return run_script(script, [*words, *self.common, "--name", self.name(name)])

    def name(self, row: str) -> str:
        """What a run is called."""
        return f"direct{self.epochs(row)}-{Path(self.args.data).stem}-{row.replace(' ', '-')}-{self.seed}"


def line(name: str, rows: list[Row], base: list[Row] | None, headline: str) -> list[str]:
    """A row of the table."""

    def mean(value: Callable[[Row], float], form: str) -> str:
        return spread([value(each) for each in rows], form)

    lost = [100 * (b[headline] - r[headline]) for r, b in zip(rows, base, strict=True)] if base else []
    firing = "-" if rows[0]["firing"] is None else mean(lambda row: row["firing"], "{:.3f}")
    joules = energy(statistics.mean(row["picojoules"] for row in rows))
    points = spread(lost, "{:.1f}") if lost else "-"
    return [name, mean(lambda row: row[headline], "{:.4f}"), points, firing, joules]


def main() -> None:
    """Print the table."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--cfg", default=CFG)
    flags.add_argument("--data", default=DATA)
    flags.add_argument("--epochs", type=positive, default=10)
    flags.add_argument("--more", type=positive, default=0, help="of rows that start from the float one (as --epochs)")
    flags.add_argument("--seeds", type=whole, nargs="+", default=[0, 1, 2])
    flags.add_argument("--precision", default=AUTO, choices=[AUTO, *PRECISIONS], help="of training, as train.py")
    flags.add_argument("--headline", default="map50", help="the number of the record that is compared")
    known = [*TRAINED, *INTEGERS]
    flags.add_argument("--rows", nargs="+", choices=known, default=known)
    args = flags.parse_args()
    seeds = [Seed(args, seed) for seed in args.seeds]
    found = {name: [seed.row(name) for seed in seeds] for name in args.rows}
    table = [["network", args.headline, "points under float", "spikes a neuron", "energy an image"]]
    table += [line(name, rows, found.get("float"), args.headline) for name, rows in found.items()]
    print(plain_table(f"{args.cfg}, {args.data}, {args.epochs} epochs, seeds {args.seeds}", table))


if __name__ == "__main__":
    main()
