"""Darknet's files into a checkpoint, and a checkpoint into Darknet's files.

  python3 convert.py --cfg cfg/yolov3.cfg --weights yolov3.weights --data data/coco.data      weights/yolov3.pt
  python3 convert.py --weights weights/best.pt                            weights/best.weights, .cfg and .names
  python3 convert.py --weights weights/best.pt --output mine/net.weights
  python3 convert.py                                                      the newest float network, for Darknet

What is written is read back, and equal, before it has its name; nothing is overwritten. Integers and spikes have no
form there: export.py hands them on. Into spikes: convert_snn.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from utils import cli
from utils.config.files import FilesConfig

if TYPE_CHECKING:
    from utils.reporting.record import Record


def parser() -> cli.Parser[FilesConfig]:
    """The command line."""
    return cli.parser(__doc__ or "", FilesConfig)


def run(config: FilesConfig) -> Record:
    """Convert as the flags say."""
    from pipeline.export import convert_files  # here, since --help needs no torch

    return convert_files(config)


if __name__ == "__main__":
    cli.main(run, parser())
