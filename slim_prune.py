"""Network slimming: one threshold on |gamma|; a shortcut's channel stays if any of its layers wants it.

  python3 slim_prune.py --percent 0.8                             after python3 train.py -sr
  python3 slim_prune.py --weights weights/last.pt --percent 0.6 --layer-keep 0.05 --finetune 6
  python3 slim_prune.py --search 20 --target-macs 0.5             EagleEye: the best of 20 random candidates

Leaves weights/slim_prune_0.8.pt and .weights, and cfg/pruned/slim_prune_0.8.cfg;
in runs/slim_prune the record, the table and pictures. What the network would not survive is
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
    return FLAGS["slim"].parser(__doc__)


def run(config: PruneConfig) -> Record:
    """Prune as the flags say."""
    from pipeline.prune import STRATEGIES  # here, since --help needs no torch

    return STRATEGIES["slim"].run(config)


if __name__ == "__main__":
    cli.main(run, parser())
