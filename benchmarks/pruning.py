"""All six strategies on one sparse network: what goes, what it costs at once, what fine-tuning brings back.

  python3 benchmarks/pruning.py                          the sample set, seeds 0 1 2: about an hour on 2 cores
  python3 benchmarks/pruning.py --seeds 1                one seed alone; runs that are finished are kept, and shown
  python3 benchmarks/pruning.py --seeds 0 --weights weights/last_raccoon.pt --data ../shared/data/raccoon --rows \\
      "regular_prune --percent 0.5" "slim_prune --percent 0.5" --sparse "--epochs 40 --s 0.005 --lr 0.1 --img-size 320"

Every row calls the script itself, and its numbers are those of its record; points count from the sparse network. The
row without fine-tuning holds the pre-flight to its word: at the percent that it calls safe, nothing is lost. Only the
latency (batch 1, one thread) is measured when the table is made, cut and sparse network taking turns, as a share.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import logging
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

import utils  # noqa: F401, I001  # before torch: how its threads wait
import torch

from benchmarks.pruned_latency import timer
from models import load_model
from utils.reporting.runs import RUNS, output_of
from utils import cli
from utils.config.run import DATA
from utils.darknet.network import load_checkpoint
from utils.errors import InputError
from utils.pruning.plan import ShortcutRule
from utils.pruning.preflight import safe_percent
from utils.reporting.files import sha256
from utils.reporting.record import Record, latest_record
from utils.reporting.tables import number, plain_table

log = logging.getLogger(__name__)

ROWS = (
    "normal_prune --percent 0.6",
    "regular_prune --percent 0.6",
    "shortcut_prune --percent 0.5",
    "slim_prune --percent 0.6",
    "slim_prune --percent 0.73",
    "layer_prune --shortcuts 1",
    "layer_channel_prune --percent 0.6 --shortcuts 1",
)
SAFE = "slim_prune --percent safe"
TURNS, WARM_UP, REPEATS = 60, 10, 5  # of the latency
MOMENTS = ("before", "after", "recalibrated", "finetuned")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--seeds", type=cli.whole, nargs="+", default=[0, 1, 2])
    flags.add_argument("--rows", nargs="+", default=list(ROWS), help="commands, --finetune is added")
    flags.add_argument("--sparse", default="--epochs 20", help="flags of the sparse training, besides -sr --prune 1")
    flags.add_argument("--epochs", type=cli.positive, default=10, help="of fine-tuning")
    flags.add_argument("--data", default=DATA)
    flags.add_argument("--weights", default="", help="of the sparse training (default: from scratch)")
    return flags


def run_script(name: str, words: list[str]) -> Record:
    """A script's record: of the run these words already had, or of a new one."""
    script: Any = importlib.import_module(name)
    args = script.parser().parse_args(words)
    found = latest_record(RUNS, f"{name.removesuffix('.py')}*", lambda r: r.args.get("name") == args.name)
    return found or script.run(args)


def one_seed(args: argparse.Namespace, seed: int) -> dict[str, Record]:
    """The sparse training and all rows of one seed."""
    common = ["--data", args.data, "--seed", str(seed)]
    start = ["--weights", args.weights] if args.weights else []
    stem = f"bench{seed}-{Path(args.data).stem}"
    words = ["-sr", "--prune", "1", *args.sparse.split(), *start, *common, "--name", f"{stem}-sparse"]
    weights = output_of(run_script("train", words))
    if weights is None:
        raise InputError("the sparse network is gone; delete its folder in runs/")
    safe = safe_percent(load_checkpoint(weights).network, tie=ShortcutRule.ANY, floor=0.1)
    records = {}
    for row in [*args.rows, *([SAFE] if safe > 0 else [])]:
        name, *flags = row.replace("safe", f"{safe:g}").split()
        flags += [] if row == SAFE else ["--finetune", str(args.epochs)]
        unique = sha256_of(f"{row} {args.epochs} {sha256(weights)}")
        records[row] = run_script(name, [*flags, "--weights", str(weights), *common, "--name", f"{stem}-{unique}"])
    return records


def sha256_of(text: str) -> str:
    """Eight digits that stand for a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def line(row: str, records: list[Record]) -> list[str]:
    """A row of the table: means over the seeds, ± the sample standard deviation where there are several."""
    moments = [record.metrics for record in records]
    before, last = [m["before"] for m in moments], [m[list(m)[-1]] for m in moments]
    return [
        row,
        spread([100 * (a["params"] / b["params"] - 1) for a, b in zip(last, before, strict=True)], "{:.1f} %"),
        spread([100 * (a["macs"] / b["macs"] - 1) for a, b in zip(last, before, strict=True)], "{:.1f} %"),
        number(statistics.mean(a["params"] for a in last)),
        spread([latency_share(record) for record in records], "{:.2f}"),
        *(spread([m[moment]["map50"] for m in moments if moment in m], "{:.4f}") for moment in MOMENTS),
        spread([100 * (a["map50"] - b["map50"]) for a, b in zip(last, before, strict=True)], "{:+.2f}"),
    ]


def latency_share(record: Record) -> float:
    """Latency of the network that a run left, over that of the network it was given; medians of turns."""
    before = Path(next(each["path"] for each in record.inputs if each["path"].endswith(".pt")))
    after = output_of(record)
    if after is None:
        raise InputError(f"{record.folder}: its network is gone; delete the folder, the row runs again")
    size, threads = load_model(before).size, torch.get_num_threads()
    full, cut = (timer(load_checkpoint(path).network, size, REPEATS) for path in (before, after))
    torch.set_num_threads(1)
    ratios = [1 / full() * cut() for _ in range(TURNS)]
    torch.set_num_threads(threads)
    return statistics.median(ratios[WARM_UP:])


def spread(values: list[float], form: str) -> str:
    """Mean ± deviation."""
    if not values:
        return "-"
    mean = form.format(statistics.mean(values))
    return f"{mean} ± {statistics.stdev(values):.2g}" if len(values) > 1 else mean


def main() -> None:
    """Run what is missing, print the table."""
    args = parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    found = [one_seed(args, seed) for seed in args.seeds]
    heading = [
        "script",
        "parameters",
        "MACs",
        "left",
        "latency",
        "before",
        "cut",
        "recalibrated",
        "fine-tuned",
        "points",
    ]
    rows = [heading, *(line(row, [records[row] for records in found]) for row in found[0])]
    log.info(plain_table(f"seeds {' '.join(map(str, args.seeds))}", rows))


if __name__ == "__main__":
    main()
