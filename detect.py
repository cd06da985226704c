"""Find objects in images, folders, videos or a camera's picture, and draw them.

  python3 detect.py                                               the newest network on ten validation images
  python3 detect.py --weights weights/slim_prune_0.8.snn.pt --source photo.jpg
  python3 detect.py --source 'holiday/*.jpg' --conf-thres 0.4 --classes 0 2 --save-txt --save-json
  python3 detect.py --source video.mp4       (or 0 for the first camera; --frames ends it)

Any kind of checkpoint. Pictures go to runs/detect[-name] (a taken name gets -2), nothing is ever deleted.
"""

from __future__ import annotations

import argparse

from pipeline.detect import SOURCE, detect
from utils import cli
from utils.reporting.record import Record


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = cli.parser(__doc__ or "")
    add = flags.add_argument
    add("--cfg", default=None, help="structure of .weights; a .pt carries its own")
    add("--weights", default="", help="the network (default: the newest made here)")
    add(
        "--source", nargs="+", default=[SOURCE], help="images, folders, patterns, videos, a stream or a camera's number"
    )
    add("--conf-thres", type=cli.fraction, default=0.3, help="boxes score above this")
    add("--iou-thres", type=cli.fraction, default=0.45, help="NMS: boxes that overlap more are one")
    add("--classes", type=cli.whole, nargs="+", default=None, help="only these classes, by number")
    add("--agnostic-nms", action="store_true", help="NMS over all classes together")
    add("--save-txt", action="store_true", help="an image a file: class cx cy w h score, 0..1")
    add("--save-json", action="store_true", help="all boxes in one COCO results file")
    add("--carry", action="store_true", help="a streaming network on video: go on from the frame before")
    add("--frames", type=cli.positive, default=None, help="stop after so many frames")
    return flags


def run(args: argparse.Namespace) -> Record:
    """Detect as the flags say."""
    return detect(args)


if __name__ == "__main__":
    cli.main(run, parser())
