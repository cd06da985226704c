"""Network slimming: one threshold on |gamma|; a shortcut's channel stays if any of its layers wants it.

  python3 slim_prune.py --percent 0.8                             after python3 train.py -sr
  python3 slim_prune.py --weights weights/last.pt --percent 0.6 --layer-keep 0.05
  python3 slim_prune.py --cfg cfg/yolov3.cfg --weights sparse.weights --data data/coco.data --percent 0.8

Leaves weights/slim_prune_0.8.pt and .weights, cfg/pruned/slim_prune_0.8.cfg, and in runs/slim_prune the record, the
table and pictures. A percent that the network would not survive is refused before anything is written.
"""

from __future__ import annotations

import argparse

from pipeline.bench import open_bench
from pipeline.prune import Strategy, prune
from utils import cli
from utils.pruning.plan import Tie
from utils.reporting.record import Record


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = cli.prune_parser(__doc__ or "", percent=0.8)
    flags.add_argument(
        "--layer-keep", type=cli.fraction, default=0.1, help="smallest share of its channels a layer keeps"
    )
    return flags


def run(args: argparse.Namespace) -> Record:
    """Prune as the flags say."""
    bench = open_bench(args, scripts="train", sparse=True)
    return prune(bench, Strategy("slim_prune", Tie.ANY, floor=args.layer_keep))


if __name__ == "__main__":
    cli.main(run, parser())
