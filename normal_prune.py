"""Normal pruning: one threshold on |gamma|; channels that a shortcut ties are left alone.

  python3 normal_prune.py                                         half of the channels, after python3 train.py -sr
  python3 normal_prune.py --percent auto --max-drop 0.01          as many as mAP@.5 allows
  python3 normal_prune.py --cfg cfg/yolov3.cfg --weights sparse.weights --data data/coco.data --percent 0.6

Leaves weights/normal_prune_0.5.pt and .weights, and cfg/pruned/normal_prune_0.5.cfg;
in runs/normal_prune the record, the table and pictures. What the network would not survive is
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
    return FLAGS["normal"].parser(__doc__)


def run(config: PruneConfig) -> Record:
    """Prune as the flags say."""
    from pipeline.prune import STRATEGIES  # here, since --help needs no torch

    return STRATEGIES["normal"].run(config)


if __name__ == "__main__":
    cli.main(run, parser())
