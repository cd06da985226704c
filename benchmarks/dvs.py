"""A spiking detector on events of moving digits, and what it owes to time: bins shuffled, and the first one repeated.

  python3 benchmarks/dvs.py --epochs 16 --seeds 0
  python3 benchmarks/dvs.py --weights weights/last.pt

The set of events is composed first where it is not there (data/dvs-digits.data). The controls are the trained network's
own, on the same recordings. Exit code 1 where mAP@.5 is below 0.60, or less than 10 points above the first bin's. CPU
seconds are those of the training. A run that is in runs/ already is taken from there.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import utils  # noqa: F401  # before torch: how its threads wait
from benchmarks.pruning import spread
from benchmarks.recordings import CONTROLS, controls, trained
from utils.cli import positive, whole
from utils.reporting.tables import plain_table

LEAST, APART = 0.60, 0.10  # mAP@.5, and how much of it the order of events must be worth


def main() -> int:
    """Print the table; the exit code says whether the bars are passed."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--cfg", default="cfg/dvs-digits-lif.cfg")
    flags.add_argument("--data", default="data/dvs-digits.data")
    flags.add_argument("--epochs", type=positive, default=16)
    flags.add_argument("--seeds", type=whole, nargs="+", default=[0])
    flags.add_argument("--weights", nargs="+", default=[], help="networks that are trained already, in place of seeds")
    args = flags.parse_args()
    made = [] if args.weights else [trained(args, seed, "--adam") for seed in args.seeds]
    found = [controls(args.data, path) for path in args.weights or [path for path, _ in made]]
    rows = [["", "mAP@.5"], *([title, spread([each[title] for each in found], "{:.4f}")] for title in CONTROLS)]
    rows += [["CPU seconds of training", spread([seconds for _, seconds in made], "{:.0f}")]] if made else []
    print(plain_table(" ".join(args.weights) or f"{args.cfg}, {args.epochs} epochs, seeds {args.seeds}", rows))
    whole_score, first = (
        statistics.mean(each[title] for each in found) for title in ("as recorded", "first bin repeated")
    )
    return int(whole_score < LEAST or whole_score - first < APART)


if __name__ == "__main__":
    sys.exit(main())
