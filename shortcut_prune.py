"""Shortcut pruning: one threshold on |gamma|; of layers that a shortcut ties, the first one decides.

  python3 shortcut_prune.py --percent 0.6                         after python3 train.py -sr --prune 1
  python3 shortcut_prune.py --percent 0.6 --explain               also says which layers are tied, and where
  python3 shortcut_prune.py --cfg cfg/yolov3.cfg --weights sparse.weights --data data/coco.data

Leaves weights/shortcut_prune_0.6.pt and .weights, and cfg/pruned/shortcut_prune_0.6.cfg;
in runs/shortcut_prune the record, the table and pictures. What the network would not survive is
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
    flags = prune_parser(__doc__ or "", percent=0.6)
    return flags


def run(args: argparse.Namespace) -> Record:
    """Prune as the flags say."""
    return prune(open_session(args, scripts="train", sparse=True), Strategy("shortcut_prune", ShortcutRule.LEADER))


if __name__ == "__main__":
    cli.main(run, parser())
