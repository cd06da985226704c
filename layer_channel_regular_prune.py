"""Layer, channel and regular pruning: shortcut_prune.py in multiples of 8 (--multiple), then layer_prune.py.

  python3 layer_channel_regular_prune.py                          after python3 train.py -sr --prune 1
  python3 layer_channel_regular_prune.py --percent 0.7 --multiple 32 --shortcuts 2 --finetune 6

Of the layers that a shortcut ties the first one decides, and every layer keeps a multiple of 8 channels, for hardware
with lanes. Leaves weights/layer_channel_regular_prune_0.6_1.pt and .weights, and a .cfg of that name in cfg/pruned/;
in runs/layer_channel_regular_prune the record, the table and pictures. What the network would not survive is refused
before anything is written.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from utils import cli
from utils.config.prune import FLAGS, PruneConfig

if TYPE_CHECKING:
    from utils.reporting.record import Record


def parser() -> cli.Parser[PruneConfig]:
    """The command line."""
    return FLAGS["layer_channel_regular"].parser(__doc__)


def run(config: PruneConfig) -> Record:
    """Prune as the flags say."""
    from pipeline.prune import STRATEGIES  # here, since --help needs no torch

    return STRATEGIES["layer_channel_regular"].run(config)


if __name__ == "__main__":
    cli.main(run, parser())
