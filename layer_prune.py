"""Layer pruning: the residual blocks whose last |gamma| are the lowest go whole.

  python3 layer_prune.py                                          one block, after python3 train.py -sr --prune 2
  python3 layer_prune.py --shortcuts 8 --cfg cfg/yolov3.cfg --weights sparse.weights --data data/coco.data
  python3 layer_prune.py --shortcuts 2 --finetune 6
  python3 layer_prune.py --target-cycles 0.8                      as many as 80 % of the clocks on an FPGA ask for

Leaves weights/layer_prune_1.pt and .weights, and cfg/pruned/layer_prune_1.cfg;
in runs/layer_prune the record, the table and pictures. What the network would not survive is
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
    return FLAGS["layer"].parser(__doc__)


def run(config: PruneConfig) -> Record:
    """Prune as the flags say."""
    from pipeline.prune import STRATEGIES  # here, since --help needs no torch

    return STRATEGIES["layer"].run(config)


if __name__ == "__main__":
    cli.main(run, parser())
