"""Network slimming: one threshold on |gamma|; a shortcut's channel stays if any of its layers wants it.

  python3 slim_prune.py --percent 0.8                             after python3 train.py -sr
  python3 slim_prune.py --weights weights/last.pt --percent 0.6 --layer-keep 0.05 --finetune 6
  python3 slim_prune.py --search 20 --target-macs 0.5             EagleEye: the best of 20 random candidates

Leaves weights/slim_prune_0.8.pt and .weights, and cfg/pruned/slim_prune_0.8.cfg;
in runs/slim_prune the record, the table and pictures. What the network would not survive is
refused before anything is written.
"""

from __future__ import annotations

import argparse

from pipeline.pruning.flags import floor_flag, prune_parser
from pipeline.pruning.run import prune
from pipeline.pruning.strategy import Strategy
from pipeline.session import open_session
from utils import cli
from utils.pruning.plan import ShortcutRule
from utils.reporting.record import Record


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = prune_parser(__doc__ or "", percent=0.8)
    floor_flag(flags)
    return flags


def run(args: argparse.Namespace) -> Record:
    """Prune as the flags say."""
    return prune(
        open_session(args, scripts="train", sparse=True),
        Strategy("slim_prune", ShortcutRule.ANY, floor=args.layer_keep),
    )


if __name__ == "__main__":
    cli.main(run, parser())
