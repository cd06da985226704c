"""Layer and channel pruning: slim_prune.py, then layer_prune.py, on one network.

  python3 layer_channel_prune.py                                  after python3 train.py -sr --prune 1
  python3 layer_channel_prune.py --percent 0.7 --shortcuts 2 --finetune 6
  python3 layer_channel_prune.py --cfg cfg/yolov3.cfg --weights sparse.weights --data data/coco.data --shortcuts 8

Leaves weights/layer_channel_prune_0.6_1.pt and .weights, and cfg/pruned/layer_channel_prune_0.6_1.cfg;
in runs/layer_channel_prune the record, the table and pictures. What the network would not survive is
refused before anything is written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from utils import cli
from utils.config.prune import FLAGS, PruneConfig

if TYPE_CHECKING:
    from utils.reporting.record import Record


def parser() -> cli.Parser[PruneConfig]:
    """The command line."""
    return FLAGS["layer_channel"].parser(__doc__)


def run(config: PruneConfig) -> Record:
    """Prune as the flags say."""
    from pipeline.prune import STRATEGIES  # here, since --help needs no torch

    return STRATEGIES["layer_channel"].run(config)


if __name__ == "__main__":
    cli.main(run, parser())
