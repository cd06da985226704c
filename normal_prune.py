"""Normal pruning: one threshold on |gamma|; channels that a shortcut ties are left alone.

  python3 normal_prune.py                                         half of the channels, after python3 train.py -sr
  python3 normal_prune.py --percent auto --max-drop 0.01          as many as mAP@.5 allows
  python3 normal_prune.py --cfg cfg/yolov3.cfg --weights sparse.weights --data data/coco.data --percent 0.6

Leaves weights/normal_prune_0.5.pt and .weights, and cfg/pruned/normal_prune_0.5.cfg;
in runs/normal_prune the record, the table and pictures. What the network would not survive is
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
    return flags


def run(args: argparse.Namespace) -> Record:
    """Prune as the flags say."""
    return prune(open_session(args, scripts="train", sparse=True), Strategy("normal_prune", ShortcutRule.KEEP))


if __name__ == "__main__":
    cli.main(run, parser())
