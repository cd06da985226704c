"""Layer and channel pruning: slim_prune.py, then layer_prune.py, on one network.

  python3 layer_channel_prune.py                                  after python3 train.py -sr --prune 1
  python3 layer_channel_prune.py --percent 0.7 --shortcuts 2 --finetune 6
  python3 layer_channel_prune.py --cfg cfg/yolov3.cfg --weights sparse.weights --data data/coco.data --shortcuts 8

Leaves weights/layer_channel_prune_0.6_1.pt and .weights, and cfg/pruned/layer_channel_prune_0.6_1.cfg;
in runs/layer_channel_prune the record, the table and pictures. What the network would not survive is
refused before anything is written.
"""

from __future__ import annotations

import argparse

from pipeline.pruning.flags import blocks_flag, floor_flag, prune_parser
from pipeline.pruning.run import prune
from pipeline.pruning.strategy import Strategy
from pipeline.session import open_session
from utils import cli
from utils.pruning.plan import ShortcutRule
from utils.reporting.record import Record


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = prune_parser(__doc__ or "", percent=0.6)
    floor_flag(flags)
    blocks_flag(flags)
    return flags


def run(args: argparse.Namespace) -> Record:
    """Prune as the flags say."""
    return prune(
        open_session(args, scripts="train", sparse=True),
        Strategy("layer_channel_prune", ShortcutRule.ANY, floor=args.layer_keep, blocks=args.shortcuts),
    )


if __name__ == "__main__":
    cli.main(run, parser())
