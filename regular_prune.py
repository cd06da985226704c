"""Regular pruning: as normal_prune.py, but every layer keeps a multiple of 8 channels (--multiple), for hardware.

  python3 regular_prune.py --percent 0.5                          after python3 train.py -sr
  python3 regular_prune.py --multiple 16 --target-macs 0.5        half of the MACs
  python3 regular_prune.py --weights weights/last.pt --percent 0.7 --finetune 6

Leaves weights/regular_prune_0.5.pt and .weights, and cfg/pruned/regular_prune_0.5.cfg;
in runs/regular_prune the record, the table and pictures. What the network would not survive is
refused before anything is written.
"""

from __future__ import annotations

import argparse

from pipeline.pruning.flags import prune_parser
from pipeline.pruning.run import prune
from pipeline.pruning.strategy import Strategy
from pipeline.session import open_session
from utils import cli
from utils.pruning.plan import ShortcutRule
from utils.reporting.record import Record


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = prune_parser(__doc__ or "", percent=0.5)
    flags.add_argument("--multiple", type=cli.positive, default=8, help="channels of a layer are rounded up to it")
    return flags


def run(args: argparse.Namespace) -> Record:
    """Prune as the flags say."""
    return prune(
        open_session(args, scripts="train", sparse=True),
        Strategy("regular_prune", ShortcutRule.KEEP, multiple=args.multiple),
    )


if __name__ == "__main__":
    cli.main(run, parser())
