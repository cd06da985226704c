"""Shortcut pruning: one threshold on |gamma|; of layers that a shortcut ties, the first one decides.

  python3 shortcut_prune.py --percent 0.6                         after python3 train.py -sr --prune 1
  python3 shortcut_prune.py --percent 0.6 --explain               also says which layers are tied, and where
  python3 shortcut_prune.py --cfg cfg/yolov3.cfg --weights sparse.weights --data data/coco.data

Leaves weights/shortcut_prune_0.6.pt and .weights, and cfg/pruned/shortcut_prune_0.6.cfg;
in runs/shortcut_prune the record, the table and pictures. What the network would not survive is
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
    return FLAGS["shortcut"].parser(__doc__)


def run(config: PruneConfig) -> Record:
    """Prune as the flags say."""
    from pipeline.prune import STRATEGIES  # here, since --help needs no torch

    return STRATEGIES["shortcut"].run(config)


if __name__ == "__main__":
    cli.main(run, parser())
