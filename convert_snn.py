"""Convert a detector into spikes: quantise to integers, encode them as spikes, prove both the same, count the cost.

  python3 convert_snn.py                                          the newest pruned or trained network
  python3 convert_snn.py --weights weights/best.pt --w-bit 8 --a-bit 4
  python3 convert_snn.py --cfg cfg/mine.cfg --weights mine.weights --data data/mine.data --a-bit 8

Phase mode: a layer waits for its window of L steps, then fires as many spikes as its level says. Leaves
weights/<name>.snn.pt, which test.py and detect.py run, and in runs/convert_snn the record and pictures.
"""

from __future__ import annotations

import argparse

from pipeline.bench import FLOAT, open_bench
from pipeline.convert import spikes_script
from pipeline.quantise import add_flags
from utils import cli
from utils.reporting.record import Record


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = cli.parser(__doc__ or "")
    add_flags(flags)
    flags.add_argument("--stepwise", type=cli.whole, default=2, help="images of the literal step-by-step proof")
    return flags


def run(args: argparse.Namespace) -> Record:
    """Convert as the flags say."""
    return spikes_script(open_bench(args, scripts=FLOAT))


if __name__ == "__main__":
    cli.main(run, parser())
