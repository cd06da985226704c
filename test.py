"""Measure a detector: COCO AP, precision, recall, F1, per class, and milliseconds an image.

  python3 test.py                                                 the newest network, on the sample set
  python3 test.py --weights weights/slim_prune_0.8.pt
  python3 test.py --weights weights/slim_prune_0.8.snn.pt         as spikes
  python3 test.py --cfg cfg/yolov3.cfg --weights yolov3.weights --data data/coco.data --save-json
  python3 test.py --task benchmark                                a table over image sizes and NMS thresholds

Any kind of checkpoint: .weights (with --cfg), trained, pruned, quantised or spiking. Leaves record.json, PR curves, the
confusion matrix and labelled pictures in runs/test[-name].
"""

from __future__ import annotations

import argparse

from pipeline.report import benchmark, report_test
from pipeline.session import ANY, open_session
from utils import cli
from utils.reporting.record import Record


def parser() -> argparse.ArgumentParser:
    """The command line."""
    flags = cli.parser(__doc__ or "")
    flags.add_argument("--cfg", default=None, help="structure of .weights; a .pt carries its own")
    flags.add_argument("--weights", default="", help="what to measure (default: the newest network made here)")
    flags.add_argument("--conf-thres", type=cli.fraction, default=0.001, help="candidates score above this")
    flags.add_argument("--iou-thres", type=cli.fraction, default=0.6, help="NMS: boxes that overlap more are one")
    flags.add_argument("--rect", action="store_true", help="batches of images of similar aspect, less padding")
    flags.add_argument("--save-json", action="store_true", help="detections in COCO's results format")
    flags.add_argument("--task", choices=["test", "benchmark"], default="test", help="one measurement, or a table")
    return flags


def run(args: argparse.Namespace) -> Record:
    """Measure as the flags say."""
    session = open_session(args, scripts=ANY)
    return benchmark(session) if args.task == "benchmark" else report_test(session)


if __name__ == "__main__":
    cli.main(run, parser())
