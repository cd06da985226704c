"""Find objects in images, folders, videos or a camera's picture, or tell their class or each pixel's, and draw it.

  python3 detect.py                                               the newest network on ten validation images
  python3 detect.py --weights weights/slim_prune_0.8.snn.pt --source photo.jpg
  python3 detect.py --source 'holiday/*.jpg' --conf-thres 0.4 --classes 0 2 --save-txt --save-json
  python3 detect.py --source video.mp4       (or 0 for the first camera; --frames ends it)
  python3 detect.py --source video.mp4 --output out --fourcc XVID --view-img

Any kind of checkpoint. A line an image: what was found, and the milliseconds. Pictures (masks: the mask beside it, a
PNG with a palette) and films without their sound go to runs/detect[-name] or --output (a taken name gets -2), nothing
is ever deleted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from utils import cli
from utils.config.measure import DetectConfig

if TYPE_CHECKING:
    from utils.reporting.record import Record


def parser() -> cli.Parser[DetectConfig]:
    """The command line."""
    return cli.parser(__doc__ or "", DetectConfig)


def run(config: DetectConfig) -> Record:
    """Detect as the flags say."""
    from pipeline import detect as detection  # here, since --help needs no torch

    return detection.detect(config)


if __name__ == "__main__":
    cli.main(run, parser())
