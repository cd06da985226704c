"""Layer pruning: the residual blocks whose last |gamma| are the lowest go whole.

  python3 layer_prune.py                                          one block, after python3 train.py -sr --prune 2
  python3 layer_prune.py --shortcuts 8 --cfg cfg/yolov3.cfg --weights sparse.weights --data data/coco.data
  python3 layer_prune.py --shortcuts 2 --finetune 6

Leaves weights/layer_prune_1.pt and .weights, and cfg/pruned/layer_prune_1.cfg;
in runs/layer_prune the record, the table and pictures. What the network would not survive is
refused before anything is written.
"""

from __future__ import annotations

import argparse

from pipeline.pruning.flags import blocks_flag, prune_parser
from pipeline.pruning.run import prune
from pipeline.pruning.strategy import Strategy
from pipeline.session import open_session
from utils import cli
from utils.reporting.record import Record


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = prune_parser(__doc__ or "", percent=None)
    blocks_flag(flags)
    return flags


def run(args: argparse.Namespace) -> Record:
    """Prune as the flags say."""
    return prune(open_session(args, scripts="train", sparse=True), Strategy("layer_prune", None, blocks=args.shortcuts))


if __name__ == "__main__":
    cli.main(run, parser())
