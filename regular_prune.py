"""Regular pruning: as normal_prune.py, but every layer keeps a multiple of 8 channels (--multiple), for hardware.

  python3 regular_prune.py --percent 0.5                          after python3 train.py -sr
  python3 regular_prune.py --multiple 16 --target-macs 0.5        half of the MACs
  python3 regular_prune.py --target-cycles 0.5 --target ecp5-85   half of the clocks on an FPGA, in its words
  python3 regular_prune.py --weights weights/last.pt --percent 0.7 --finetune 6

Leaves weights/regular_prune_0.5.pt and .weights, and cfg/pruned/regular_prune_0.5.cfg;
in runs/regular_prune the record, the table and pictures. What the network would not survive is
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
    return FLAGS["regular"].parser(__doc__)


def run(config: PruneConfig) -> Record:
    """Prune as the flags say."""
    from pipeline.prune import STRATEGIES  # here, since --help needs no torch

    return STRATEGIES["regular"].run(config)


if __name__ == "__main__":
    cli.main(run, parser())
